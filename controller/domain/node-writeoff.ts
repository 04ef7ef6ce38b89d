/**
 * The way out for a node that its agent can no longer fence: a person states that the machine is switched off or cut from every
 * network (decision WriteOff). There is no automatic one.
 *
 * Invariants:
 * 1. The word ends the claim and stands in for the fence that could not be read back. It permits no instruction: nothing is
 *    fenced, switched off or wiped by it.
 * 2. A node that was written off rests, whatever its agent reports later, until a person decides Reclaim: the whole way back.
 * 3. A word about a node that its agent reports in use contradicts what is seen: it is refused, shown, and never acts later.
 */
import type { NodeObservation } from '../api/protocol.generated.ts';
import type { PhysicalNodeStatus } from '../api/types.generated.ts';
import { knownEpoch } from './node-conflicts.ts';
import { endedBy, endRecord, held, type NodeDecision, type NodeInput, type RecordPatch } from './node-records.ts';

export type Decision = NonNullable<NonNullable<NodeInput['node']['spec']>['decision']>;

export const isHeld = ({ state }: PhysicalNodeStatus): boolean =>
  state === 'Quarantined' || state === 'Orphaned' || state === 'Enrolling';

/** What becomes of a decision WriteOff that names the node's epoch. */
export function writeOff(input: NodeInput, status: PhysicalNodeStatus, decision: Decision): NodeDecision | undefined {
  if (status.claim === undefined && status.end === undefined)
    return refuse(
      status,
      decision,
      'nobody has a claim on it and none is ending; delete the object, or decide Reclaim',
    );
  if (input.facts !== undefined && !isHeld(status)) {
    const how = 'let its allocation give it back; what then cannot be fenced or switched off is quarantined first';
    return refuse(status, decision, `agent ${input.agentName} is connected and the node is not held; ${how}`);
  }
  const ended = endRecord(input, status, endedBy('WriteOff'), 'Full', { type: 'Warning', reason: 'WriteOffDecided' });
  if (ended.kind !== 'record') return ended;
  const epoch = ended.patch.epoch ?? 0;
  const writtenOff = { epoch, reason: decision.reason, at: input.nowIso };
  const patch: RecordPatch = {
    ...ended.patch,
    state: 'Quarantined',
    message: messageOf(writtenOff, epoch),
    writtenOff,
    refusedDecision: null,
  };
  return { ...ended, state: 'Quarantined', patch };
}

function refuse(status: PhysicalNodeStatus, decision: Decision, why: string): NodeDecision | undefined {
  if (wasRefused(status, decision)) return undefined;
  const { action, epoch, reason } = decision;
  const message = `${action} does not fit: ${why}`;
  const patch: RecordPatch = { refusedDecision: { action, epoch, reason, message } };
  const event = { type: 'Warning', reason: 'DecisionRefused' } as const;
  return { kind: 'record', state: status.state ?? 'Enrolling', patch, why: message, event };
}

export function wasRefused({ refusedDecision: refused }: PhysicalNodeStatus, decision: Decision): boolean {
  return refused?.action === decision.action && refused.epoch === decision.epoch && refused.reason === decision.reason;
}

/** A node that was written off rests; that its agent reports it alive is recorded once, for a person to see. */
export function restWrittenOff(
  input: NodeInput,
  writtenOff: NonNullable<PhysicalNodeStatus['writtenOff']>,
): NodeDecision {
  const { facts, nowIso } = input;
  const epoch = knownEpoch({ epoch: writtenOff.epoch, ...input.node.status }, facts);
  if (facts === undefined || writtenOff.seenAgainAt !== undefined || !isAlive(facts))
    return held('Quarantined', 'WrittenOff', messageOf(writtenOff, epoch));
  const seen = { ...writtenOff, seenAgainAt: nowIso };
  const patch: RecordPatch = { state: 'Quarantined', message: messageOf(seen, epoch), writtenOff: seen };
  const event = { type: 'Warning', reason: 'WrittenOffIsAlive' } as const;
  return { kind: 'record', state: 'Quarantined', patch, why: 'its agent reports it alive', event };
}

const isAlive = ({ power, vmm, guest }: NodeObservation): boolean =>
  power === 'On' || vmm === 'Resident' || guest.state === 'Running';

/** `epoch`: what a decision must name. */
function messageOf({ seenAgainAt }: NonNullable<PhysicalNodeStatus['writtenOff']>, epoch: number): string {
  const back = `its only way back is the decision Reclaim with epoch ${epoch}`;
  return seenAgainAt === undefined
    ? `written off by a person as switched off or cut from every network; its disks may hold data; ${back}`
    : `was written off by a person, and its agent reports it alive since ${seenAgainAt}: its guest may run, in no allocation; cut it off by hand; ${back}`;
}

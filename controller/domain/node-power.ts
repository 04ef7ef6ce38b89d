/**
 * A machine that is off while a tenant has it: after an outage, or because its guest switched it off. Tenants cannot reach its BMC, so
 * the operator switches it on again: it boots what its order says, its own disk or the same epoch's network boot, and nothing is lost.
 *
 * Invariants:
 * 1. Only power that was read as Off counts: a BMC that does not answer says nothing.
 * 2. A machine is switched on only in a state in which nothing else is asked of it, and after its ports were put back where they strayed.
 * 3. A machine under maintenance, and one of a suspended allocation, stays off: somebody may have his hands in it.
 */
import type { NodeObservation } from '../api/protocol.generated.ts';
import type { PhysicalNode, PhysicalNodeStatus } from '../api/types.generated.ts';
import { type NodeDecision, observedFacts } from './node-records.ts';
import type { NodeState } from './states.ts';

const restsIn: ReadonlySet<NodeState> = new Set(['Streaming', 'Resident', 'Installed', 'BareMetal']);
const offMessage = 'the machine is switched off while in use';

/** What a tenant sees of it: the guest was started, and its machine has no power. */
export const isOffInUse = ({ record, guest, power }: NodeObservation): boolean =>
  record.guestStarted && guest.starts > 0 && power === 'Off';

/** Why nobody switches it on; undefined: it is switched on. */
export function leftOff(
  { spec, status }: Pick<PhysicalNode, 'spec' | 'status'>,
  suspended: boolean,
): string | undefined {
  if (spec?.maintenance) return 'it is under maintenance';
  if (suspended) return 'its allocation is suspended';
  return status?.lastError === undefined ? undefined : `${status.lastError.code}: ${status.lastError.message}`;
}

export interface PowerInput {
  readonly node: PhysicalNode;
  readonly suspended: boolean;
  readonly nowIso: string;
}

/** What the power of a node in use asks for in this state; undefined: nothing. */
export function keepPower(
  { node, suspended, nowIso }: PowerInput,
  status: PhysicalNodeStatus,
  facts: NodeObservation,
  state: NodeState,
): NodeDecision | undefined {
  const shown = status.message === offMessage;
  const epoch = status.claim?.epoch ?? 0;
  if (!isOffInUse(facts)) return shown && facts.power === 'On' ? cameBack(facts, state) : undefined;
  if (!restsIn.has(state)) return undefined;
  const why = leftOff(node, suspended);
  if (!shown && status.lastError === undefined) {
    const since = status.state === state ? {} : { state, stateSince: nowIso };
    const patch = { ...since, message: offMessage, observed: observedFacts(facts) };
    const event = { type: 'Warning', reason: 'SwitchedOff' } as const;
    return { kind: 'record', state, patch, why: offMessage, event };
  }
  if (why !== undefined) return { kind: 'rest', state, message: `${offMessage}, and left so: ${why}` };
  const step = { verb: 'power', args: { desired: 'On' } } as const;
  return { kind: 'step', state, step, epoch, deadlineSeconds: 600, retries: 5, inUse: true };
}

function cameBack(facts: NodeObservation, state: NodeState): NodeDecision {
  const patch = { message: null, observed: observedFacts(facts) };
  const event = { type: 'Normal', reason: 'SwitchedOn' } as const;
  return { kind: 'record', state, patch, why: 'the machine is on again', event };
}

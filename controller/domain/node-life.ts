/**
 * What to do with one node now: a pure function of its record, the agent's observation, the committed decisions of its
 * allocation, and the time. The caller executes the answer: a record is written before anything else is sent.
 *
 * Invariants:
 * 1. At most one effect an answer: a record to write, or a step to send, never both.
 * 2. Nothing is ever sent for a node whose durable records (operator's and agent's) contradict each other (rule 6).
 * 3. A destructive step is sent only under an `end`, or under a claim that its owner's update renewed (rule 6).
 * 4. `commit` is sent only when `commitSent` of the same epoch stands in the record (rule 4).
 */
import type { NodeObservation } from '../api/protocol.generated.ts';
import type { PhysicalNodeStatus } from '../api/types.generated.ts';
import { adopt, adoptLost, beginAgain, isOfAnother } from './node-adoption.ts';
import { type Conflict, findConflict, guestUnrecorded, knownEpoch, showsGuest } from './node-conflicts.ts';
import { keepPower } from './node-power.ts';
import { failedBeforeUse, reclaim } from './node-reclaim.ts';
import {
  certificateRecord,
  claimRecord,
  commissioned,
  endedBy,
  endRecord,
  held,
  identity,
  inventoryOf,
  type NodeDecision,
  type NodeInput,
  observedFacts,
  type RecordPatch,
  type Tenancy,
} from './node-records.ts';
import { isHeld, restWrittenOff, wasRefused, writeOff } from './node-writeoff.ts';
import { type IsolationTerms, type NodeState, type Step, tenancyPath } from './states.ts';

/** Whether a clean certificate stands in the agent's log, younger than the last tenant boot (rule 3). */
function hasCleanCertificate(facts: NodeObservation): boolean {
  const { record } = facts;
  return (
    record.certificate !== undefined &&
    !record.guestStarted &&
    !record.ended &&
    record.certificate.epoch >= record.epoch
  );
}

export function decideNode(input: NodeInput): NodeDecision {
  const { node, facts } = input;
  const status = node.status ?? {};
  const decided = personDecision(input, status);
  if (decided) return decided;
  if (status.writtenOff) return restWrittenOff(input, status.writtenOff);
  if (input.duplicateOf !== undefined) {
    return held(
      'Quarantined',
      'DuplicateMachine',
      `${input.duplicateOf} reports the same system UUID; neither is used until one is gone`,
    );
  }
  if (facts === undefined) {
    const state = status.state ?? 'Enrolling';
    return { kind: 'rest', state, message: `agent ${input.agentName} is not connected or does not report this node` };
  }
  const conflict = findConflict(status, facts, input.storeId);
  if (conflict)
    return adoptLost(input, status, facts, conflict) ?? seenOnce(input, status, conflict) ?? heldFor(conflict);
  if (status.state === 'Quarantined' && status.lastError !== undefined && (status.end ?? status.claim) === undefined) {
    return held('Quarantined', status.lastError.code, status.message ?? status.lastError.message);
  }
  if (status.end) return reclaim(input, status, facts);
  if (status.claim) return tenancy(input, status, facts);
  return unclaimed(input, status, facts);
}

/**
 * Whether a guest of this tenancy may have executed an instruction. The agent records `guestStarted` ahead of the power-on
 * that could make it true; only its word that the boot failed, with no start counted and no map begun, takes that back, and that
 * for the first epoch since the certificate alone: in a later one (an update) the flag speaks of the guest before, whose data is
 * there. A guest that began to boot and then hung has executed instructions. A log that went back in time does not know of the
 * guest that was seen to run: the claim does, or the machine shows it.
 */
export function guestMayHaveRun(facts: NodeObservation, { claim, certificate }: PhysicalNodeStatus): boolean {
  const { record, guest, operation, copy } = facts;
  if (claim?.started || showsGuest(facts)) return true;
  if (!record.guestStarted) return false;
  const epoch = claim?.epoch ?? 0;
  const bootFailed =
    certificate?.epoch === epoch - 1 &&
    record.epoch === epoch &&
    operation?.epoch === epoch &&
    operation.verb === 'reimage' &&
    operation.status === 'Failed';
  return !(bootFailed && guest.starts === 0 && copy.map === 'None' && !record.commitSent);
}

/** Whether an observation speaks of this epoch. */
export const observationCounts = (facts: NodeObservation, epoch: number): boolean => facts.record.epoch === epoch;

const heldFor = (conflict: Conflict): NodeDecision => held(conflict.state, conflict.reason, conflict.message);

/** What only the machine showed, and may not show again, is recorded: the hold must outlive the guest's next reboot. */
function seenOnce(input: NodeInput, status: PhysicalNodeStatus, conflict: Conflict): NodeDecision | undefined {
  const { reason, message } = conflict;
  const isRecorded = status.claim ? status.claim.started === true : status.lastError?.code === reason;
  if (reason !== guestUnrecorded || isRecorded) return undefined;
  const patch: RecordPatch = {
    state: 'Quarantined',
    stateSince: input.nowIso,
    message,
    lastError: { code: reason, message, at: input.nowIso },
    ...startedClaim(status),
  };
  return { kind: 'record', state: 'Quarantined', patch, why: message, event: { type: 'Warning', reason } };
}

function personDecision(input: NodeInput, status: PhysicalNodeStatus): NodeDecision | undefined {
  const decision = input.node.spec?.decision;
  // The higher one of both records: with status lost, a decision of the node's first days would name the epoch again.
  if (decision?.epoch !== knownEpoch(status, input.facts)) return undefined;
  if (decision.action === 'Adopt' || wasRefused(status, decision)) return undefined;
  if (decision.action === 'WriteOff') return writeOff(input, status, decision);
  if (input.facts === undefined || input.storeId === undefined || !isHeld(status)) return undefined;
  if (decision.action === 'Reclaim' && status.claim && !status.end) return undefined;
  return endRecord(input, status, endedBy(decision.action), 'Full', {
    type: 'Warning',
    reason: `${decision.action}Decided`,
  });
}

function unclaimed(input: NodeInput, status: PhysicalNodeStatus, facts: NodeObservation): NodeDecision {
  if (!hasCleanCertificate(facts)) {
    const untouched = facts.record.epoch === 0 && !facts.record.guestStarted && (status.epoch ?? 0) === 0;
    if (untouched && input.commissioned) {
      const decision = endRecord(input, status, commissioned, 'Quick');
      return decision.kind === 'record'
        ? { ...decision, patch: { ...decision.patch, ...inventoryOf(facts) } }
        : decision;
    }
    return held(
      'Quarantined',
      'NotCertified',
      'there is no clean certificate, so its disks may hold data; commission it on its BitVisorAgent (spec.commission) or decide Reclaim',
    );
  }
  const rest: NodeState = input.node.spec?.maintenance ? 'Maintenance' : 'Available';
  if (status.state !== rest || status.storeId !== input.storeId || status.agent !== input.agentName) {
    const patch: RecordPatch = {
      state: rest,
      stateSince: input.nowIso,
      message: null,
      lastError: null,
      epoch: knownEpoch(status, facts),
      ...certificateRecord(input),
      ...identity(input),
      ...inventoryOf(facts),
    };
    return { kind: 'record', state: rest, patch, why: 'Enrolled' };
  }
  if (rest === 'Available' && input.tenancy?.role === 'Placed' && !input.tenancy.suspended) {
    return claimRecord(input, status, input.tenancy, 'Claimed');
  }
  return {
    kind: 'rest',
    state: rest,
    ...(rest === 'Maintenance' ? { message: input.node.spec?.maintenance?.reason ?? '' } : {}),
  };
}

function tenancy(input: NodeInput, status: PhysicalNodeStatus, facts: NodeObservation): NodeDecision {
  const { claim } = status;
  const owner = input.tenancy;
  if (!claim) return { kind: 'rest', state: 'Enrolling' };
  if (owner === undefined) {
    if (input.tenancyPending) return pending(input.tenancyPending, status, facts);
    return held(
      'Orphaned',
      'AllocationMissing',
      `its allocation ${claim.allocation.namespace}/${claim.allocation.name} is gone; adopt the claim or end it`,
    );
  }
  const again = beginAgain(input, status, facts, owner);
  if (again) return again;
  if (owner.allocationUid !== claim.allocation.uid) return adopt(input, status, facts, owner);
  if (owner.role === 'Ending') {
    const neverStarted = status.lastError !== undefined && !guestMayHaveRun(facts, status);
    return endRecord(input, status, neverStarted ? failedBeforeUse : (owner.endReason ?? 'Released'), owner.erase);
  }
  if (owner.role === 'Unlisted') {
    return held(
      'Orphaned',
      'NotListed',
      `allocation ${owner.namespace}/${owner.name} does not list this node that it claimed`,
    );
  }
  if (owner.role === 'Replaced') return fenceReplaced(claim.epoch, facts, owner);
  // The agent opens a newer epoch for the allocation that it knows alone, so it first learns of one that took the node over.
  const outdated = claim.revision !== owner.environment.revision;
  if (owner.updating && !owner.suspended && outdated && !isOfAnother(facts, owner))
    return claimRecord(input, status, owner, 'Updated');
  return walkTenancy(input, status, facts, owner);
}

/** Nothing is begun while nobody knows what the node is to run; what runs on it stays isolated all the same (rule 2). */
function pending(
  { isolation }: NonNullable<NodeInput['tenancyPending']>,
  { state = 'Enrolling' }: PhysicalNodeStatus,
  facts: NodeObservation,
): NodeDecision {
  const message = 'what its allocation runs is not known: status of the allocation was lost';
  const strayed = isolation === undefined ? undefined : putBackAlone(facts, isolation, state);
  return strayed ?? { kind: 'rest', state, message };
}

/** A failed node that others stand in for: its network is closed, its power and disks are left alone. */
function fenceReplaced(epoch: number, facts: NodeObservation, owner: Tenancy): NodeDecision {
  const fenced = facts.ports.every(
    (port) => port.role !== 'Data' || (port.state === 'Ready' && port.domain === 'quarantine'),
  );
  if (fenced)
    return held(
      'Quarantined',
      'FailedInUse',
      'failed in use; another node stands in; its disk is kept until the allocation ends',
    );
  const step: Step = {
    verb: 'isolate',
    args: { domain: 'quarantine', egress: 'None', allocation: owner.allocationUid },
  };
  return { kind: 'step', state: 'Quarantined', step, epoch, deadlineSeconds: 600, retries: 5, inUse: true };
}

function walkTenancy(
  input: NodeInput,
  status: PhysicalNodeStatus,
  facts: NodeObservation,
  owner: Tenancy,
): NodeDecision {
  const epoch = status.claim?.epoch ?? 0;
  const current = facts.record.epoch === epoch;
  const row = current ? tenancyPath.find((candidate) => !candidate.until(facts, owner)) : tenancyPath[0];
  if (row === undefined) return { kind: 'rest', state: 'BareMetal' };
  const inUse = current && facts.record.guestStarted;
  const { state, deadlineSeconds, retries } = row;
  if (!inUse && owner.suspended)
    return putBackAlone(facts, owner, state) ?? { kind: 'rest', state, message: 'suspended' };
  // A node never shown to have started, whose record says that the hypervisor was told to leave: never re-image on a guess.
  if (
    status.commitSent?.epoch === epoch &&
    !facts.record.commitSent &&
    state !== 'Devirtualizing' &&
    state !== 'Sealing'
  ) {
    return held(
      'Quarantined',
      'CommitUncertain',
      'the commit to devirtualize was sent and the agent does not know of it; a person decides',
    );
  }
  if (state === 'Devirtualizing' && status.commitSent?.epoch !== epoch && !facts.record.commitSent) {
    const patch: RecordPatch = {
      state,
      stateSince: input.nowIso,
      commitSent: { epoch, at: input.nowIso },
      ...startedClaim(status),
      observed: observedFacts(facts),
    };
    return { kind: 'record', state, patch, why: 'CommitSent' };
  }
  // While an update has not reached the agent, the guest of the epoch before runs on.
  const drift = driftStep(facts, owner, facts.record.guestStarted);
  if (drift) return putBack(drift, state, epoch);
  const revisionInForce = status.claim?.revision === owner.environment.revision;
  if (state === 'Booting' && !revisionInForce) {
    return { kind: 'rest', state, message: 'its allocation moved on to another revision' };
  }
  const power = keepPower({ node: input.node, suspended: owner.suspended, nowIso: input.nowIso }, status, facts, state);
  if (power) return power;
  if (state === 'BareMetal' || state === 'Resident') return settled(input, status, facts, state);
  if (status.lastError && status.state === state) {
    return { kind: 'rest', state, message: `${status.lastError.code}: ${status.lastError.message}` };
  }
  const step = row.step(owner);
  if (step) return { kind: 'step', state, step, epoch, deadlineSeconds, retries, inUse };
  return { kind: 'wait', state, message: row.endsWhen, deadlineSeconds, retries, inUse };
}

/** The node is where it was to go: what failed on the way is over. */
function settled(
  input: NodeInput,
  status: PhysicalNodeStatus,
  facts: NodeObservation,
  state: 'BareMetal' | 'Resident',
): NodeDecision {
  if (status.state === state && status.lastError === undefined) return { kind: 'rest', state };
  const patch: RecordPatch = {
    state,
    stateSince: input.nowIso,
    message: null,
    lastError: null,
    attempts: null,
    ...startedClaim(status),
    observed: observedFacts(facts),
  };
  return { kind: 'record', state, patch, why: 'Settled' };
}

const startedClaim = ({ claim }: PhysicalNodeStatus): RecordPatch =>
  claim === undefined ? {} : { claim: { ...claim, started: true } };

/**
 * Isolation drift of a node in use: the port is put back into its domain; power is never touched (rule 2). Likewise where an allocation
 * took the node over and its domain, being that of a group, stayed the same: the agent has to know whose the tenancy is, or it refuses
 * the update that the new owner asks for.
 */
function driftStep(facts: NodeObservation, owner: IsolationTerms, inUse: boolean): Step | undefined {
  if (!inUse) return undefined;
  const strayed = facts.ports.some(
    ({ role, state, domain, egress }) =>
      // One whose way back failed is as strayed as before; what is pending or cannot be read is waited for.
      role === 'Data' &&
      (state === 'Error' || (state === 'Ready' && (domain !== owner.domain || egress !== owner.egress))),
  );
  if (!strayed && !isOfAnother(facts, owner)) return undefined;
  return { verb: 'isolate', args: { domain: owner.domain, egress: owner.egress, allocation: owner.allocationUid } };
}

/**
 * What strayed from under the guest that runs is put back under that guest's epoch: under the claim's, an isolate would begin its update.
 * An agent that was asked for the update already takes nothing older, and closes the port by itself.
 */
function putBackAlone(facts: NodeObservation, terms: IsolationTerms, state: NodeState): NodeDecision | undefined {
  const { epoch, seenEpoch, guestStarted } = facts.record;
  const drift = seenEpoch === undefined ? driftStep(facts, terms, guestStarted) : undefined;
  return drift && putBack(drift, state, epoch);
}

const putBack = (step: Step, state: NodeState, epoch: number): NodeDecision => ({
  kind: 'step',
  state,
  step,
  epoch,
  deadlineSeconds: 30,
  retries: 10,
  inUse: true,
});

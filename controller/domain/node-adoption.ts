/**
 * Who takes over a claim whose allocation is gone, and a guest whose claim was lost.
 *
 * Invariants:
 * 1. A claim goes to an allocation of the same namespace, name and revision, or stays with nobody until a person decides.
 * 2. What an owner asked for and could not be begun is begun again by a person's decision alone.
 * 3. It changes hands only once the agent can follow: an agent opens no newer epoch for an allocation that it does not know.
 */
import type { NodeObservation } from '../api/protocol.generated.ts';
import type { PhysicalNodeStatus } from '../api/types.generated.ts';
import { type Conflict, knownEpoch } from './node-conflicts.ts';
import { held, identity, type NodeDecision, type NodeInput, type RecordPatch, type Tenancy } from './node-records.ts';
import type { Decision } from './node-writeoff.ts';
import type { IsolationTerms, Step } from './states.ts';

type Claim = NonNullable<PhysicalNodeStatus['claim']>;

/** An allocation of the same namespace, name and revision takes over a claim without a reboot. */
export function adopt(
  input: NodeInput,
  status: PhysicalNodeStatus,
  facts: NodeObservation,
  owner: Tenancy,
): NodeDecision {
  const { claim } = status;
  if (!claim) return { kind: 'rest', state: 'Enrolling' };
  const sameTenant = owner.namespace === claim.allocation.namespace && owner.name === claim.allocation.name;
  if (!sameTenant || owner.role !== 'Placed' || claim.revision !== owner.environment.revision) {
    return held(
      'Orphaned',
      'AllocationMissing',
      `its allocation ${claim.allocation.namespace}/${claim.allocation.name} (${claim.allocation.uid}) is gone; adopt the claim or end it`,
    );
  }
  if (facts.record.epoch < claim.epoch && isOfAnother(facts, owner)) return openUpdate(status, claim, owner);
  const patch: RecordPatch = {
    message: null,
    claim: { ...claim, allocation: { ...claim.allocation, uid: owner.allocationUid }, domain: owner.domain },
    ...(status.state === 'Orphaned' ? { state: 'Resident' as const, stateSince: input.nowIso } : {}),
  };
  return { kind: 'record', state: status.state ?? 'Resident', patch, why: 'Adopted' };
}

/**
 * The owner before asked for an update, and the agent has not begun it: it opens the claim's epoch for that owner alone, whose guest
 * runs. What cannot be begun is held: the claim names a revision that does not run.
 */
function openUpdate(
  { state = 'Orphaned', lastError }: PhysicalNodeStatus,
  { allocation, epoch, revision }: Claim,
  { domain, egress, suspended }: Tenancy,
): NodeDecision {
  const { namespace, name, uid } = allocation;
  if (lastError !== undefined) {
    const message = `the update to revision ${revision} that ${namespace}/${name} (${uid}) asked for could not be begun before it was gone, ${lastError.code}: ${lastError.message}; mend that and decide Adopt to have it begun again, or End`;
    return held('Orphaned', 'UpdateNotBegun', message.slice(0, 4096));
  }
  if (suspended) return { kind: 'rest', state, message: 'suspended' };
  const step: Step = { verb: 'isolate', args: { domain, egress, allocation: uid } };
  return { kind: 'step', state: 'Isolating', step, epoch, deadlineSeconds: 300, retries: 3, inUse: true };
}

/**
 * A person lets an update go on that failed before anything of it began. It goes on under a new epoch: so the decision acts once, and
 * nothing of the attempts before it counts.
 */
export function beginAgain(
  input: NodeInput,
  status: PhysicalNodeStatus,
  facts: NodeObservation,
  owner: Tenancy,
): NodeDecision | undefined {
  const { decision } = input.node.spec ?? {};
  const { claim, lastError } = status;
  const known = knownEpoch(status, facts);
  if (decision?.action !== 'Adopt' || decision.epoch !== known || claim === undefined) return undefined;
  const isAsked = owner.role === 'Placed' && claim.revision === owner.environment.revision;
  if (!isAsked || lastError === undefined || hasBegun(facts, claim.epoch)) return undefined;
  const epoch = known + 1;
  const patch: RecordPatch = {
    state: 'Isolating',
    stateSince: input.nowIso,
    message: null,
    lastError: null,
    attempts: null,
    epoch,
    claim: { ...claim, epoch, at: input.nowIso },
    ...identity(input),
  };
  const event = { type: 'Warning', reason: 'AdoptDecided' } as const;
  return { kind: 'record', state: 'Isolating', patch, why: 'BeginsAgain', event };
}

const hasBegun = ({ record, guest, copy }: NodeObservation, epoch: number): boolean =>
  record.epoch === epoch && (guest.starts > 0 || copy.map !== 'None' || record.commitSent);

/** Whether the agent's log has the tenancy as that of another allocation than `owner`. */
export const isOfAnother = ({ record }: NodeObservation, owner: IsolationTerms): boolean =>
  record.allocation !== undefined && record.allocation !== owner.allocationUid;

/** A person says that the guest, whose claim was lost here, is its allocation's: the claim is what the agent's log says. */
export function adoptLost(
  input: NodeInput,
  status: PhysicalNodeStatus,
  facts: NodeObservation,
  conflict: Conflict,
): NodeDecision | undefined {
  const { record } = facts;
  const { decision } = input.node.spec ?? {};
  const owner = input.tenancy;
  const epoch = knownEpoch(status, facts);
  if (conflict.state !== 'Orphaned' || decision?.action !== 'Adopt' || decision.epoch !== epoch) return undefined;
  if (owner?.role !== 'Placed' || !isAdoptedBy(decision, record, owner)) return undefined;
  if (record.revision === undefined || record.ended || record.epoch < epoch) return undefined;
  const { namespace, name, allocationUid: uid, domain } = owner;
  const patch: RecordPatch = {
    state: 'Resident',
    stateSince: input.nowIso,
    message: null,
    epoch,
    claim: {
      allocation: { namespace, name, uid },
      epoch,
      revision: record.revision,
      domain,
      started: record.guestStarted,
      at: input.nowIso,
    },
    commitSent: record.commitSent ? { epoch, at: input.nowIso } : null,
    ...identity(input),
  };
  const event = { type: 'Warning', reason: 'AdoptDecided' } as const;
  return { kind: 'record', state: 'Resident', patch, why: 'AdoptedByPerson', event };
}

/**
 * Whether the allocation is the one that a decision Adopt gives the guest to: the one that the agent's log names, or, where a person
 * names another (the objects are those of another cluster, or were made anew), one at the very revision that runs.
 */
export function isAdoptedBy(
  decision: Decision,
  record: NodeObservation['record'],
  owner: { namespace: string; name: string; allocationUid: string; environment: { revision: string } },
): boolean {
  const named = decision.allocation;
  if (named === undefined) return record.allocation === owner.allocationUid;
  const isNamed = named.namespace === owner.namespace && named.name === owner.name;
  return isNamed && record.revision === owner.environment.revision;
}

/**
 * Where the durable records of operator and agent contradict each other. Such a node is held: nothing is sent for it,
 * and a person decides (rule 6). Both sides are believed in what they say was done, neither in what it does not say.
 *
 * Invariants:
 * 1. A conflict never resolves itself in favour of the side that lost its records.
 * 2. The order of the checks is the order of what they cost a tenant when overlooked.
 * 3. Every message says which epoch a decision must name: the record here may say another, or none.
 */
import type { NodeObservation } from '../api/protocol.generated.ts';
import type { PhysicalNodeStatus } from '../api/types.generated.ts';

export interface Conflict {
  readonly state: 'Quarantined' | 'Orphaned';
  readonly reason: string;
  readonly message: string;
}

/** The machine itself contradicts the agent's log. */
export const guestUnrecorded = 'GuestUnrecorded';

/** Whether the machine itself shows a guest, or the hypervisor under one. */
export const showsGuest = ({ guest, vmm }: NodeObservation): boolean => guest.state === 'Running' || vmm === 'Resident';

/** The highest epoch that any instruction to the agent named, whether or not it came into force. */
const seenEpoch = ({ record }: NodeObservation): number => Math.max(record.epoch, record.seenEpoch ?? 0);

/** The highest epoch that either side knows of. */
export const knownEpoch = (status: PhysicalNodeStatus, facts: NodeObservation | undefined): number =>
  Math.max(status.epoch ?? 0, facts === undefined ? 0 : seenEpoch(facts));

function knownTo(facts: NodeObservation): string {
  const { record } = facts;
  const inForce = `epoch ${record.epoch}${record.allocation ? ` of allocation ${record.allocation}` : ''}`;
  const seen = seenEpoch(facts);
  return seen > record.epoch
    ? `${inForce}, and of an end or an update under epoch ${seen} that did not begin`
    : inForce;
}

/** For a message: which epoch a person's decision names. */
export const mustName = (status: PhysicalNodeStatus, facts: NodeObservation): string =>
  `a decision must name epoch ${knownEpoch(status, facts)}`;

/** Under an epoch below one that it has seen an agent takes nothing any more, so nobody can be given the guest back. */
function wayOut(status: PhysicalNodeStatus, facts: NodeObservation): string {
  const seen = seenEpoch(facts);
  return seen > facts.record.epoch ? `restore it, or decide End, naming epoch ${seen}` : mustName(status, facts);
}

export function findConflict(
  status: PhysicalNodeStatus,
  facts: NodeObservation,
  storeId: string | undefined,
): Conflict | undefined {
  const { record } = facts;
  const { claim, end } = status;
  const epoch = status.epoch ?? 0;
  const committed = claim !== undefined || end !== undefined;
  const naming = mustName(status, facts);
  if (committed && status.systemUuid !== undefined && status.systemUuid !== facts.systemUuid) {
    return quarantined(
      'MachineChanged',
      `was machine ${status.systemUuid} and now reports ${facts.systemUuid}: swapped or cabled differently; put it right, or decide: ${naming}`,
    );
  }
  if (committed && status.storeId !== undefined && storeId !== undefined && status.storeId !== storeId) {
    return quarantined(
      'AgentLogLost',
      `its records stand in the agent log ${status.storeId}, and the agent now has ${storeId}; restore that log, or decide: ${naming}`,
    );
  }
  if (seenEpoch(facts) > epoch && (record.guestStarted || record.ended || record.allocation !== undefined)) {
    return {
      state: record.guestStarted ? 'Orphaned' : 'Quarantined',
      reason: 'RecordsDisagree',
      message: `the agent knows ${knownTo(facts)}, the record here epoch ${epoch}: status was lost or restored from a backup; ${wayOut(status, facts)}`,
    };
  }
  if (!end && !record.guestStarted && showsGuest(facts)) {
    return quarantined(
      guestUnrecorded,
      `a guest's hypervisor runs on it, and the agent's log knows of no start: it went back in time; restore it, or decide: ${naming}`,
    );
  }
  if (!committed && record.guestStarted) {
    return {
      state: 'Orphaned',
      reason: 'GuestWithoutClaim',
      message: `a tenant's guest was started on it, and no claim is recorded here; ${naming}`,
    };
  }
  const committedIn = status.commitSent?.epoch === claim?.epoch;
  const forgotten = record.epoch < (claim?.epoch ?? 0) || (claim?.started === true && !record.guestStarted);
  if (claim && !end && (committedIn || claim.started) && forgotten) {
    const what = committedIn ? 'the hypervisor was told to leave' : "a tenant's guest was seen to run";
    return quarantined(
      'RecordsDisagree',
      `the agent forgot what it did under epoch ${claim.epoch}, in which ${what}; restore its log, or decide: ${naming}`,
    );
  }
  return undefined;
}

const quarantined = (reason: string, message: string): Conflict => ({ state: 'Quarantined', reason, message });

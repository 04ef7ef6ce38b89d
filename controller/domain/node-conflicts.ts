/**
 * Where the durable records of operator and agent contradict each other. Such a node is held: nothing is sent for it,
 * and a person decides (rule 6). Both sides are believed in what they say was done, neither in what it does not say.
 *
 * Invariants:
 * 1. A conflict never resolves itself in favour of the side that lost its records.
 * 2. The order of the checks is the order of what they cost a tenant when overlooked.
 */
import type { NodeObservation } from '../api/protocol.generated.ts';
import type { PhysicalNodeStatus } from '../api/types.generated.ts';

export interface Conflict {
  readonly state: 'Quarantined' | 'Orphaned';
  readonly reason: string;
  readonly message: string;
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
  if (committed && status.systemUuid !== undefined && status.systemUuid !== facts.systemUuid) {
    return quarantined(
      'MachineChanged',
      `was machine ${status.systemUuid} and now reports ${facts.systemUuid}: swapped or cabled differently`,
    );
  }
  if (committed && status.storeId !== undefined && storeId !== undefined && status.storeId !== storeId) {
    return quarantined(
      'AgentLogLost',
      `its records stand in the agent log ${status.storeId}, and the agent now has ${storeId}`,
    );
  }
  if (record.epoch > epoch && (record.guestStarted || record.ended || record.allocation !== undefined)) {
    return {
      state: record.guestStarted ? 'Orphaned' : 'Quarantined',
      reason: 'RecordsDisagree',
      message: `the agent knows epoch ${record.epoch}${record.allocation ? ` of allocation ${record.allocation}` : ''}, the record here epoch ${epoch}: status was lost or restored from a backup; a decision must name epoch ${record.epoch}`,
    };
  }
  if (!committed && record.guestStarted) {
    return {
      state: 'Orphaned',
      reason: 'GuestWithoutClaim',
      message: "a tenant's guest was started on it, and no claim is recorded here",
    };
  }
  if (claim && !end && status.commitSent?.epoch === claim.epoch && record.epoch < claim.epoch) {
    return quarantined(
      'RecordsDisagree',
      `the agent forgot epoch ${claim.epoch}, under which the hypervisor was told to leave`,
    );
  }
  return undefined;
}

const quarantined = (reason: string, message: string): Conflict => ({ state: 'Quarantined', reason, message });

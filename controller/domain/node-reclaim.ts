/**
 * The way back of a node whose end was recorded: the reclaim path, and the release behind its last row.
 *
 * Invariants:
 * 1. A node is released only with the certificate of this very reclaim in the log of the agent (rule 3).
 * 2. Nothing is asked for under an end that is older than what the agent has seen: it would refuse it, and a person decides.
 * 3. A way back that failed stays where it is, shown, until a person decides.
 */
import type { NodeObservation } from '../api/protocol.generated.ts';
import type { PhysicalNode, PhysicalNodeStatus } from '../api/types.generated.ts';
import { knownEpoch, mustName } from './node-conflicts.ts';
import {
  certificateRecord,
  commissioned,
  held,
  identity,
  inventoryOf,
  type NodeDecision,
  type NodeInput,
  type RecordPatch,
} from './node-records.ts';
import { type NodeState, type ReclaimTerms, reclaimPath } from './states.ts';

/** Nonce of a reclaim: fresh for each epoch of each node, and the same again after a restart of the operator. */
function reclaimNonce(node: PhysicalNode, endEpoch: number): string {
  return `${node.metadata.uid ?? node.metadata.name}-${endEpoch}`;
}

export function reclaim(input: NodeInput, status: PhysicalNodeStatus, facts: NodeObservation): NodeDecision {
  const { end } = status;
  if (!end) return { kind: 'rest', state: 'Enrolling' };
  const known = knownEpoch(status, facts);
  if (known > end.epoch) {
    return held(
      'Quarantined',
      'RecordsDisagree',
      `the agent knows epoch ${known}, the end recorded here is of epoch ${end.epoch}: status was restored from a backup; decide Reclaim: ${mustName(status, facts)}`,
    );
  }
  if (status.state === 'Quarantined') {
    return held(
      'Quarantined',
      status.lastError?.code ?? 'ReclaimFailed',
      status.message ?? 'the way back failed; a person decides',
    );
  }
  const terms: ReclaimTerms = {
    erase: end.erase as ReclaimTerms['erase'],
    drainSeconds: end.reason === commissioned ? 0 : input.drainSeconds,
    drainMessage: `This node is taken back: ${end.reason}.`,
    nonce: reclaimNonce(input.node, end.epoch),
  };
  const current = facts.record.epoch === end.epoch;
  // The certificate may stand at the end of the path only: a scan from the front would see the drained flag gone.
  const certifiedNow = current && reclaimPath.at(-1)?.until(facts, terms) === true;
  const row = certifiedNow
    ? undefined
    : current
      ? reclaimPath.find((candidate) => !candidate.until(facts, terms))
      : reclaimPath[0];
  if (row === undefined) return releaseRecord(input, status, facts);
  const { state, deadlineSeconds, retries } = row;
  return { kind: 'step', state, step: row.step(terms), epoch: end.epoch, deadlineSeconds, retries, inUse: false };
}

/** A node that failed before it was in use comes back clean, and is kept for a person to look at. */
export const failedBeforeUse = 'FailedBeforeUse';

/** Whose the node was, for who counts what was let go (deletion-guard.ts). A commission took it from nobody. */
function releasedBy({ claim, end }: PhysicalNodeStatus): RecordPatch {
  if (claim === undefined || end === undefined) return {};
  const { reason, at } = end;
  return { released: { allocation: claim.allocation, reason, ...(at === undefined ? {} : { at }) } };
}

function releaseRecord(input: NodeInput, status: PhysicalNodeStatus, facts: NodeObservation): NodeDecision {
  const suspect = status.end?.reason === failedBeforeUse;
  const rest: NodeState = suspect ? 'Quarantined' : input.node.spec?.maintenance ? 'Maintenance' : 'Available';
  const message = 'failed before it was in use; clean and fenced; look at it, then decide Reclaim';
  const patch: RecordPatch = {
    state: rest,
    stateSince: input.nowIso,
    message: suspect ? message : null,
    lastError: suspect ? (status.lastError ?? { code: failedBeforeUse, message }) : null,
    attempts: null,
    nextRetry: null,
    ...releasedBy(status),
    claim: null,
    commitSent: null,
    end: null,
    ...certificateRecord(input),
    ...identity(input),
    // A machine that a person had reclaimed at its first enrolment has shown nobody yet what it is made of.
    ...inventoryOf(facts),
  };
  return { kind: 'record', state: rest, patch, why: 'Released' };
}

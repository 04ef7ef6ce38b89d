/**
 * The two bounds on what happens without a person: mass deletions wait for a confirmation, and automatic failure handling
 * touches at most a share of the nodes in a time (rule 9).
 *
 * Invariants:
 * 1. A deletion that was shown as held stays held over a restart of the operator: its condition remembers it.
 * 2. An allocation counts among the deletions of its window also when its object is gone already.
 */
import type { NodeAllocation } from '../api/types.generated.ts';
import { admitBlast, type BlastSettings, type BlastState, blastBudget, noBlast } from '../domain/blast.ts';
import {
  type Deletion,
  type GuardSettings as DeletionSettings,
  heldDeletions,
  isDeletionConfirmed,
} from '../domain/deletion-guard.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Guards } from './allocation.ts';
import type { Fleet } from './fleet.ts';
import { anyAllocation, byUse } from './indexes.ts';

export interface GuardSettings {
  readonly deletions: DeletionSettings;
  readonly blast: BlastSettings;
}

export function createGuards(fleet: Fleet, clock: Clock, settings: GuardSettings): Guards {
  let blast: BlastState = noBlast;
  const seen = new Map<string, Deletion>();

  const deletionOf = (allocation: NodeAllocation): Deletion => {
    const { uid = '', deletionTimestamp = '' } = allocation.metadata;
    const inUse = fleet.nodes.countByIndex(byUse, uid);
    const ended = (allocation.status?.ending ?? []).length > 0 || inUse === 0;
    return {
      uid,
      deletedAt: Date.parse(deletionTimestamp),
      // What is retained ends no node.
      nodesInUse: allocation.spec.deletionPolicy === 'Retain' ? 0 : Math.max(inUse, seen.get(uid)?.nodesInUse ?? 0),
      confirmed: isDeletionConfirmed(allocation.metadata),
      alreadyEnded: ended,
      heldBefore: allocation.status?.conditions?.some((condition) => condition.reason === 'DeletionHeld') ?? false,
    };
  };

  return {
    deletionHeld(allocation) {
      const now = clock.now();
      for (const [uid, deletion] of seen) if (now - deletion.deletedAt > settings.deletions.windowMs) seen.delete(uid);
      const present = new Set<string>();
      for (const candidate of fleet.allocations.values()) {
        if (candidate.metadata.deletionTimestamp === undefined) continue;
        const deletion = deletionOf(candidate);
        present.add(deletion.uid);
        seen.set(deletion.uid, deletion);
      }
      const deletions = [...seen.values()].map((deletion) =>
        present.has(deletion.uid) ? deletion : { ...deletion, alreadyEnded: true },
      );
      const inUse = fleet.nodes.countByIndex(byUse, anyAllocation);
      return heldDeletions(deletions, inUse, settings.deletions).get(allocation.metadata.uid ?? '');
    },
    blastBudget: () => blastBudget(blast, fleet.nodes.size, clock.now(), settings.blast),
    blastUsed(nodes) {
      for (const node of nodes) {
        blast = admitBlast(blast, { node, totalNodes: fleet.nodes.size, nowMs: clock.now() }, settings.blast).state;
      }
    },
  };
}

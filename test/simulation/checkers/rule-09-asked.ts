/**
 * Rule 9, bounded: no node that failed in use is replaced where its owner wants a report alone, and of many deletions at once none takes
 * effect without a confirmation.
 */
import { parseHostlist } from '../../../controller/api/hostlist.ts';
import { nodeAllocations } from '../../../controller/api/meta.ts';
import type { NodeAllocation } from '../../../controller/api/types.generated.ts';
import type { Truth } from '../truth.ts';
import type { Checker, Report } from './checker.ts';

const hostsOf = (text: string | undefined): string[] => (text ? parseHostlist(text) : []);

/** As the operator's defaults say it (docs/operations.md): more than three within ten minutes wait. */
const windowMs = 600_000;
const withoutAsking = 3;
/** By then an operator has seen a deletion, also through a slow watch. */
const seenAfterMs = 120_000;

const isConfirmed = ({ metadata }: NodeAllocation): boolean =>
  metadata.annotations?.['bitvisor.io/confirm-deletion'] === metadata.uid;

/** Deletions that would end nodes and have not yet. */
function pendingDeletions(truth: Truth, than: string, deletedAt: number): number {
  const nowMs = truth.ground.clock.now();
  let pending = 0;
  for (const { uid, object, gone, ends } of truth.allocations.values()) {
    const { deletionTimestamp } = object.metadata;
    if (gone || uid === than || deletionTimestamp === undefined || ends.size > 0) continue;
    if (object.spec.deletionPolicy === 'Retain' || hostsOf(object.status?.nodes).length === 0) continue;
    const at = Date.parse(deletionTimestamp);
    if (Math.abs(at - deletedAt) < windowMs - seenAfterMs && nowMs - at > seenAfterMs) pending++;
  }
  return pending;
}

export function asked(report: Report): Checker {
  return {
    rule: 9,
    written({ kind, object, old }, truth) {
      if (kind !== nodeAllocations.kind) return;
      const [after, before] = [object as NodeAllocation, old as NodeAllocation | undefined];
      const { metadata, spec, status } = after;
      const known = new Set(hostsOf(before?.status?.replaced));
      const replaced = hostsOf(status?.replaced).filter((node) => !known.has(node));
      if (replaced.length > 0 && spec.failurePolicy === 'Report')
        report(9, `${metadata.name}: ${replaced} are replaced, and its failurePolicy is Report`);
      const ends = (status?.ending?.length ?? 0) > 0 && (before?.status?.ending?.length ?? 0) === 0;
      if (!ends || metadata.deletionTimestamp === undefined || isConfirmed(after)) return;
      const others = pendingDeletions(truth, metadata.uid ?? '', Date.parse(metadata.deletionTimestamp));
      if (others < withoutAsking) return;
      report(9, `${metadata.name} was deleted together with ${others} others, nobody confirmed it, and its nodes end`);
    },
  };
}

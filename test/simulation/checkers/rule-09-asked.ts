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

/** As the operator's defaults say it (docs/operations.md): more than three within ten minutes wait; here only those of one moment count. */
const oneMomentMs = 10_000;
const withoutAsking = 3;
/** What ended so soon may have ended before the others were deleted. */
const atOnceMs = 2_000;
/** An end that was decided when few of the deletions had been seen may be on its way for so long. */
const slowestWriteMs = 10_000;

const isConfirmed = ({ metadata }: NodeAllocation): boolean =>
  metadata.annotations?.['bitvisor.io/confirm-deletion'] === metadata.uid;

/** Whether it has this node in use: it claims it, or its guest was there. What was only chosen for it takes nothing from anybody. */
const isInUse = (truth: Truth, uid: string, node: string): boolean =>
  truth.nodes.get(node)?.status?.claim?.allocation.uid === uid || truth.machine(node).data?.owner === uid;

interface SeenDeletion {
  readonly stamp: string;
  /** Monotonic milliseconds. */
  readonly atMs: number;
}

/** Other deletions of the same moment that end nodes, and did not at once. */
function deletedWith(truth: Truth, than: string, deletedAt: number, from: ReadonlyMap<string, SeenDeletion>): number {
  let others = 0;
  for (const { uid, object, ends } of truth.allocations.values()) {
    const at = from.get(uid)?.atMs;
    if (at === undefined || uid === than || object.spec.deletionPolicy === 'Retain') continue;
    const [firstEnd] = [...ends.values()].map(({ atMs }) => atMs).sort((a, b) => a - b);
    const held = ends.size === 0 ? hostsOf(object.status?.nodes).length > 0 : (firstEnd ?? 0) - at > atOnceMs;
    if (held && Math.abs(at - deletedAt) < oneMomentMs) others++;
  }
  return others;
}

/** How many that were deleted in the same moment end already, this one left out. */
function endedWith(truth: Truth, than: string, deletedAt: number, from: ReadonlyMap<string, SeenDeletion>): number {
  return [...truth.allocations.values()].filter(({ uid, ends }) => {
    const at = from.get(uid)?.atMs;
    return uid !== than && ends.size > 0 && at !== undefined && Math.abs(at - deletedAt) < oneMomentMs;
  }).length;
}

export function asked(report: Report): Checker {
  const deletedAt = new Map<string, SeenDeletion>();
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
      const { uid = '' } = metadata;
      const now = truth.ground.clock.monotonic();
      // A backup of the cluster that was put back knows nothing of the deletion, and the next one is another.
      const { deletionTimestamp: stamp } = metadata;
      if (stamp === undefined) deletedAt.delete(uid);
      else if (deletedAt.get(uid)?.stamp !== stamp) deletedAt.set(uid, { stamp, atMs: now });
      const at = deletedAt.get(uid)?.atMs;
      const ending = (status?.ending ?? []).flatMap(({ nodes }) => hostsOf(nodes));
      const ends = (before?.status?.ending?.length ?? 0) === 0 && ending.some((node) => isInUse(truth, uid, node));
      if (!ends || at === undefined || now - at < atOnceMs || isConfirmed(after)) return;
      if (now - at < slowestWriteMs && endedWith(truth, uid, at, deletedAt) < withoutAsking) return;
      const others = deletedWith(truth, uid, at, deletedAt);
      if (others < withoutAsking) return;
      report(9, `${metadata.name} was deleted together with ${others} others, nobody confirmed it, and its nodes end`);
    },
  };
}

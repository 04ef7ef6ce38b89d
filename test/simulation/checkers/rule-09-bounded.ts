/**
 * Rule 9, bounded blast: automatic failure handling takes at most a set share of the nodes in a time, whoever leads and however often the
 * operator starts anew.
 *
 * Counted are the nodes that an allocation's committed status gives up because they failed: replaced, or ended without their owner's word.
 * The same word on the same tenancy, given again because a backup that was put back knew nothing of it, takes no further node.
 */
import { parseHostlist } from '../../../controller/api/hostlist.ts';
import { nodeAllocations } from '../../../controller/api/meta.ts';
import type { NodeAllocation } from '../../../controller/api/types.generated.ts';
import type { Checker, Report } from './checker.ts';

/** As the operator's defaults say it (docs/operations.md): in ten minutes 5 % of all nodes, and never fewer than two. */
const windowMs = 600_000;
const share = 0.05;
const least = 2;
/** Clocks that differ end a window a little early. */
const toleranceMs = 42_000;

const hostsOf = (text: string | undefined): string[] => (text ? parseHostlist(text) : []);

function givenUp({ metadata, status }: NodeAllocation): string[] {
  const failed = hostsOf(status?.replaced);
  if (metadata.deletionTimestamp !== undefined) return failed;
  for (const { reason, nodes } of status?.ending ?? []) if (reason === 'Released') failed.push(...hostsOf(nodes));
  return failed;
}

export function bounded(report: Report): Checker {
  const at = new Map<string, number>();
  /** Tenancies that were given up, by owner, node and epoch. */
  const known = new Set<string>();
  return {
    rule: 9,
    written({ kind, object, old }, truth) {
      if (kind !== nodeAllocations.kind) return;
      const before = new Set(old === undefined ? [] : givenUp(old as NodeAllocation));
      const now = truth.ground.clock.monotonic();
      for (const node of givenUp(object as NodeAllocation)) {
        if (before.has(node)) continue;
        const epoch = truth.nodes.get(node)?.status?.claim?.epoch;
        const tenancy = `${object.metadata.uid} ${node} ${epoch}`;
        if (epoch !== undefined && known.has(tenancy)) continue;
        known.add(tenancy);
        at.set(node, now);
        const recent = [...at.values()].filter((time) => now - time < windowMs - toleranceMs).length;
        const limit = Math.max(least, Math.floor(share * truth.nodes.size));
        if (recent > limit)
          report(9, `${recent} nodes were handled as failed within ten minutes, at most ${limit} may be`);
      }
    },
  };
}

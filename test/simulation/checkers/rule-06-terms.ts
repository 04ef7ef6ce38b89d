/**
 * Rule 6, a tenant's own word, as to how: an update takes no more running nodes from its tenant at once than maxUnavailable, and a node that
 * was given up is given up.
 */
import { parseHostlist } from '../../../controller/api/hostlist.ts';
import { nodeAllocations, physicalNodes } from '../../../controller/api/meta.ts';
import type { NodeAllocation, PhysicalNode } from '../../../controller/api/types.generated.ts';
import type { Truth } from '../truth.ts';
import type { Checker, Report } from './checker.ts';

const hostsOf = (text: string | undefined): string[] => (text ? parseHostlist(text) : []);

const endingOf = (allocation: NodeAllocation | undefined): string[] =>
  (allocation?.status?.ending ?? []).flatMap(({ nodes }) => hostsOf(nodes));

/** A guest that runs for so long is known to run: it takes half a minute to boot, and faults hide a rack for up to twenty minutes. */
const knownAfterMs = (isFaultless: boolean): number => (isFaultless ? 60_000 : 1_500_000);

export function terms(report: Report): Checker {
  /** When the guest of a node began to run, in monotonic milliseconds. */
  const since = new Map<string, number>();
  /** Nodes that an update took while a guest ran, and that run none since. */
  const takenDown = new Set<string>();

  function updated(node: PhysicalNode, old: PhysicalNode | undefined, truth: Truth): void {
    const { name } = node.metadata;
    const [claim, before] = [node.status?.claim, old?.status?.claim];
    // Given back, it is down for its tenant no more; claimed again, it is no update that lets it wait.
    if (claim?.allocation.uid !== before?.allocation.uid) takenDown.delete(name);
    if (claim === undefined || claim.allocation.uid !== before?.allocation.uid || claim.epoch === before.epoch) return;
    const startedAt = truth.machine(name).guest === undefined ? undefined : since.get(name);
    const ranMs = truth.ground.clock.monotonic() - (startedAt ?? Number.POSITIVE_INFINITY);
    if (ranMs < knownAfterMs(truth.faultless)) return;
    takenDown.add(name);
    const owner = truth.allocations.get(claim.allocation.uid);
    const { status, spec } = owner?.object ?? {};
    const down = hostsOf(status?.nodes).filter((one) => takenDown.has(one));
    const most = spec?.update.maxUnavailable ?? 1;
    if (down.length > most)
      report(6, `${owner?.name}: an update takes ${down} down at once, and maxUnavailable is ${most}`);
  }

  return {
    rule: 6,
    machine({ event, node }, _machine, truth) {
      if (event !== 'guest') return;
      takenDown.delete(node);
      since.set(node, truth.ground.clock.monotonic());
    },
    written({ kind, object, old }, truth) {
      if (kind === physicalNodes.kind) updated(object as PhysicalNode, old as PhysicalNode | undefined, truth);
      if (kind !== nodeAllocations.kind) return;
      const { metadata, status } = object as NodeAllocation;
      const before = new Set(endingOf(old as NodeAllocation | undefined));
      if (before.size === 0) return;
      for (const node of hostsOf(status?.nodes)) {
        const { claim, end } = truth.nodes.get(node)?.status ?? {};
        if (!before.has(node) || end !== undefined || claim?.allocation.uid !== metadata.uid) continue;
        report(6, `${metadata.name} takes ${node} back into its list, which it had given up`);
      }
    },
  };
}

/** Rule 7, nothing is lost: no node is shown as orphaned while the allocation that claims it is there. */
import { physicalNodes } from '../../../controller/api/meta.ts';
import type { PhysicalNode } from '../../../controller/api/types.generated.ts';
import type { Checker, Report } from './checker.ts';

export function ownerMissed(report: Report): Checker {
  return {
    rule: 7,
    written({ kind, object }, truth) {
      if (kind !== physicalNodes.kind) return;
      const { metadata, status } = object as PhysicalNode;
      if (status?.state !== 'Orphaned' || status.claim === undefined || !status.message?.includes('is gone')) return;
      const owner = truth.allocations.get(status.claim.allocation.uid);
      const tampered = owner?.vanished === true || truth.machine(metadata.name).tampered !== undefined;
      if (owner === undefined || owner.gone || tampered) return;
      report(7, `${metadata.name} is shown as orphaned, and ${owner.name}, which claims it, is there`);
    },
  };
}

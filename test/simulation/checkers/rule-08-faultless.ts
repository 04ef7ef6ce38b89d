/** Rule 8, it ends: where nothing fails, no node is held, and none shows a failure. */
import { physicalNodes } from '../../../controller/api/meta.ts';
import type { PhysicalNode } from '../../../controller/api/types.generated.ts';
import type { Checker, Report } from './checker.ts';

export function faultless(report: Report): Checker {
  return {
    rule: 8,
    written({ kind, object }, truth) {
      if (!truth.faultless || kind !== physicalNodes.kind) return;
      const { metadata, status } = object as PhysicalNode;
      const { state, message, lastError } = status ?? {};
      if (state === 'Quarantined') report(8, `${metadata.name} is quarantined, and nothing failed: ${message}`);
      else if (lastError !== undefined)
        report(8, `${metadata.name} shows a failure, and nothing failed: ${lastError.message}`);
    },
  };
}

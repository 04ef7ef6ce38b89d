/**
 * Rule 8, it ends: with faults over, every allocation that can be satisfied is Ready, and every released node is Available or
 * Quarantined. That nothing is written any more is the runner's to see (run.ts).
 */
import type { NodeAllocation, PhysicalNode } from '../../../controller/api/types.generated.ts';
import type { Truth } from '../truth.ts';
import type { Checker, Report } from './checker.ts';

function unsettled(truth: Truth, { metadata, spec, status }: NodeAllocation, free: number): string | undefined {
  const condition = (type: string) => status?.conditions?.find((one) => one.type === type);
  const stalled = condition('Stalled')?.status === 'True';
  const nodes = [...truth.nodes.values()];
  if (metadata.deletionTimestamp !== undefined) {
    const waits = nodes.some((node) => node.status?.claim?.allocation.uid === metadata.uid);
    return waits ? undefined : 'it is deleted, claims nothing, and is still there';
  }
  if (status?.phase === 'Expired') return undefined;
  const missing = (spec.minReplicas ?? spec.replicas) - (status?.replicas ?? 0);
  if (missing > 0) {
    if (stalled) return undefined;
    if (condition('Scheduled')?.reason !== 'Unschedulable')
      return `${missing} nodes are missing, and it does not say so`;
    return free >= missing ? `${missing} nodes are missing, and ${free} are free` : undefined;
  }
  const settled = condition('Reconciling')?.status === 'False' && condition('Ready')?.status === 'True';
  const short = (status?.replicas ?? 0) < spec.replicas && free === 0;
  if (settled || short || stalled) return undefined;
  return 'it is neither settled, nor short of nodes, nor Stalled';
}

function unfinished({ status }: PhysicalNode): string | undefined {
  const { state = '', claim, end } = status ?? {};
  if (state === 'Orphaned' || state === 'Quarantined' || state === 'Maintenance') return undefined;
  if (end !== undefined) return `still on its way back (${state})`;
  return claim === undefined && state !== 'Available' ? `neither claimed nor free (${state})` : undefined;
}

export function itEnds(report: Report): Checker {
  return {
    rule: 8,
    atRest(truth) {
      const nodes = [...truth.nodes.values()];
      const free = nodes.filter(({ status }) => status?.state === 'Available').length;
      for (const { object, gone } of truth.allocations.values()) {
        const wrong = gone ? undefined : unsettled(truth, object, free);
        if (wrong === undefined) continue;
        const { spec, status } = object;
        report(8, `${object.metadata.name}: ${wrong}: ${JSON.stringify({ spec, status })}`);
      }
      for (const node of nodes) {
        const wrong = unfinished(node);
        if (wrong !== undefined) report(8, `${node.metadata.name}: ${wrong}: ${JSON.stringify(node.status)}`);
      }
    },
  };
}

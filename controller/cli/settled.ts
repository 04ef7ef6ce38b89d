/**
 * What a person sees of an allocation in one line, and what keeps it from what its spec asks for.
 */
import type { NodeAllocation } from '../api/types.generated.ts';

export interface AllocationView {
  /** `namespace/name` */
  readonly key: string;
  readonly phase: string;
  readonly wanted: number;
  readonly committed: number;
  readonly ready: number;
  readonly installed: number;
  /** Undefined where the spec says Never. */
  readonly devirtualized: number | undefined;
  readonly failed: number;
  /** 0 to 1; undefined before the first byte is to be copied. */
  readonly copied: number | undefined;
  /** Its tenant can work. */
  readonly isReady: boolean;
  /** Sentences; none when it has everything that its spec asks for. */
  readonly missing: readonly string[];
}

function missingIn(allocation: NodeAllocation): string[] {
  const { metadata, spec, status = {} } = allocation;
  if (metadata.deletionTimestamp !== undefined) return ['it is being deleted'];
  const conditions = new Map((status.conditions ?? []).map((condition) => [condition.type, condition]));
  const ready = conditions.get('Ready');
  const reconciling = conditions.get('Reconciling');
  if (ready === undefined || reconciling === undefined) return ['the operator has not looked at it yet'];
  if (status.observedGeneration !== metadata.generation) return ['the operator has not seen its newest change yet'];
  const stalled = conditions.get('Stalled');
  if (stalled?.status === 'True') return [`Stalled (${stalled.reason}): ${stalled.message}`];
  const { installed = 0, devirtualized = 0, failed = 0 } = status;
  const missing: string[] = [];
  if (ready.status !== 'True') missing.push(`Ready is ${ready.status} (${ready.reason}): ${ready.message}`);
  if (installed < spec.replicas) missing.push(`${installed} of ${spec.replicas} nodes are installed`);
  if (spec.devirtualize === 'WhenInstalled' && devirtualized < spec.replicas) {
    missing.push(`the hypervisor has left ${devirtualized} of ${spec.replicas} nodes`);
  }
  if (failed > 0) missing.push(`${failed} nodes have failed`);
  if (missing.length === 0 && reconciling.status !== 'False') missing.push(`Reconciling: ${reconciling.message}`);
  return missing;
}

export function viewOf(allocation: NodeAllocation): AllocationView {
  const { metadata, spec, status = {} } = allocation;
  const { bytes } = status;
  return {
    key: `${metadata.namespace}/${metadata.name}`,
    phase: status.phase ?? 'Pending',
    wanted: spec.replicas,
    committed: status.replicas ?? 0,
    ready: status.ready ?? 0,
    installed: status.installed ?? 0,
    devirtualized: spec.devirtualize === 'Never' ? undefined : (status.devirtualized ?? 0),
    failed: status.failed ?? 0,
    copied: bytes?.total ? (bytes.installed ?? 0) / bytes.total : undefined,
    isReady: (status.conditions ?? []).some(({ type, status: truth }) => type === 'Ready' && truth === 'True'),
    missing: missingIn(allocation),
  };
}

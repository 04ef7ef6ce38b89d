/**
 * The reconciler of one ComputeEnvironment: shows its revision. It touches no node: allocations look for themselves.
 */
import { computeEnvironments } from '../api/meta.ts';
import type { ComputeEnvironment } from '../api/types.generated.ts';
import { setCondition } from '../domain/conditions.ts';
import { revisionOf } from '../domain/revision.ts';
import { casPatchStatus } from '../kube/patch.ts';
import type { KubeClient } from '../kube/port.ts';
import type { Store } from '../kube/store.ts';
import { type Clock, toMetaTime } from '../runtime/clock.ts';
import type { Outcome } from '../runtime/worker.ts';

export interface EnvironmentReconcilerOptions {
  readonly client: KubeClient;
  readonly environments: Store<ComputeEnvironment>;
  readonly clock: Clock;
}

export async function reconcileEnvironment(options: EnvironmentReconcilerOptions, key: string): Promise<Outcome> {
  const { client, environments, clock } = options;
  const environment = environments.getByKey(key);
  if (environment === undefined || environment.metadata.deletionTimestamp !== undefined) return { kind: 'done' };
  const truths = truthsOf(environment);
  const result = await casPatchStatus(
    client,
    computeEnvironments,
    environment,
    (draft) => {
      const nowIso = toMetaTime(clock.now());
      const generation = environment.metadata.generation ?? 0;
      let conditions = environment.status?.conditions ?? [];
      for (const truth of truths.conditions) conditions = setCondition(conditions, truth, nowIso, generation);
      draft.status = {
        observedGeneration: generation,
        conditions,
        ...(truths.revision === undefined ? {} : { revision: truths.revision }),
      };
    },
    { noteWrite: (written) => environments.noteWrite(written) },
  );
  if (result.outcome === 'unknown') return { kind: 'retry', error: result.error };
  return result.outcome === 'conflict' ? { kind: 'after', ms: 0 } : { kind: 'done' };
}

function truthsOf(environment: ComputeEnvironment): {
  revision: string | undefined;
  conditions: { type: string; status: 'True' | 'False'; reason: string; message: string }[];
} {
  try {
    const { revision } = revisionOf(environment.spec);
    return {
      revision,
      conditions: [
        { type: 'Ready', status: 'True', reason: 'Usable', message: `revision ${revision}` },
        { type: 'Reconciling', status: 'False', reason: 'Settled', message: 'nothing is left to do' },
        { type: 'Stalled', status: 'False', reason: 'Working', message: 'nothing stands in the way' },
      ],
    };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return {
      revision: undefined,
      conditions: [
        { type: 'Ready', status: 'False', reason: 'Invalid', message },
        { type: 'Reconciling', status: 'False', reason: 'Stalled', message: 'waits for a change of the spec' },
        { type: 'Stalled', status: 'True', reason: 'Invalid', message },
      ],
    };
  }
}

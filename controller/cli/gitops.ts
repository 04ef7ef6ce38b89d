/**
 * One repository followed into one cluster: the parts of controller/gitops put together.
 */
import { type Follower, follow } from '../gitops/follow.ts';
import type { Source } from '../gitops/source.ts';
import type { SyncResult } from '../gitops/status.ts';
import { syncOnce } from '../gitops/sync.ts';
import { schemaValidator } from '../gitops/validator.ts';
import type { KubeClient } from '../kube/port.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import type { Random } from '../runtime/random.ts';
import type { CustomResourceDefinition } from '../standalone/schema/index.ts';

export interface GitOpsOptions {
  readonly client: KubeClient;
  readonly source: Source;
  readonly crds: readonly CustomResourceDefinition[];
  /** Where the sync keeps its records. */
  readonly namespace: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly intervalMs: number;
  readonly onResult?: (result: SyncResult) => void;
}

export function startGitOps(options: GitOpsOptions): Follower {
  const { client, source, crds, namespace, clock, random, log, intervalMs, onResult } = options;
  const sync = {
    name: 'repository',
    source,
    validator: schemaValidator(crds),
    operatorNamespace: namespace,
    defaultNamespace: 'default',
    kube: client,
    clock,
    random,
  };
  return follow({
    pass: (signal) => syncOnce(sync, signal),
    changeToken: () => source.changeToken(),
    clock,
    random,
    log: log.child({ sync: source.description }),
    intervalMs,
    ...(onResult === undefined ? {} : { onResult }),
  });
}

/**
 * One repository followed into one cluster: the parts of controller/gitops put together.
 */
import { type Follower, follow } from '../gitops/follow.ts';
import type { Source } from '../gitops/source.ts';
import type { SyncResult } from '../gitops/status.ts';
import { syncOnce } from '../gitops/sync.ts';
import type { DocumentValidator } from '../gitops/validator.ts';
import type { KubeClient } from '../kube/port.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import type { Random } from '../runtime/random.ts';

export interface GitOpsOptions {
  readonly client: KubeClient;
  readonly source: Source;
  readonly validator: DocumentValidator;
  /** Where the sync keeps its records. */
  readonly namespace: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly intervalMs: number;
  /** Between looks at where the branch stands; see FollowOptions. */
  readonly tokenIntervalMs?: number;
  readonly onResult?: (result: SyncResult) => void;
}

export function startGitOps(options: GitOpsOptions): Follower {
  const { client, source, validator, namespace, clock, random, log, intervalMs, tokenIntervalMs, onResult } = options;
  const sync = {
    name: 'repository',
    source,
    validator,
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
    ...(tokenIntervalMs === undefined ? {} : { tokenIntervalMs }),
    ...(onResult === undefined ? {} : { onResult }),
  });
}

/**
 * Runs a reconciler over a work queue: bounded concurrency, and the one place where the retry policy lives.
 *
 * Invariants:
 * 1. A reconciler says what it found (`Outcome`); it never decides when it is retried after a failure.
 * 2. A throwing reconciler is logged and retried; nothing that it does ends the process or the worker.
 * 3. After `stop()` resolves, no reconciler runs.
 */
import { type BackoffPolicy, KeyedBackoff, reconcileBackoff } from './backoff.ts';
import { type Clock, sleep } from './clock.ts';
import type { Logger } from './log.ts';
import type { Metrics } from './metrics.ts';
import type { WorkQueue } from './queue.ts';
import type { Random } from './random.ts';

export type Outcome =
  /** Nothing left to do until something changes. */
  | { readonly kind: 'done' }
  /** All is well; look again after this many milliseconds (a deadline, a coalesced write). */
  | { readonly kind: 'after'; readonly ms: number }
  /** It failed and may succeed later: again, with backoff, and not before `error.retryAfterMs` where it has one. */
  | { readonly kind: 'retry'; readonly error: unknown }
  /** It cannot succeed until somebody changes something: not retried. */
  | { readonly kind: 'stalled'; readonly reason: string };

export interface ReconcileContext {
  /** Aborted when the worker stops. */
  readonly signal: AbortSignal;
  /** Failures of this key since its last success. */
  readonly failures: number;
}

export type Reconcile = (key: string, context: ReconcileContext) => Promise<Outcome>;

export interface WorkerOptions {
  /** The controller's name in logs and metrics. */
  readonly name: string;
  readonly queue: WorkQueue;
  readonly reconcile: Reconcile;
  /** Keys reconciled at once. */
  readonly concurrency: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics?: Metrics;
  readonly backoff?: BackoffPolicy;
}

export interface Worker {
  /** Closes the queue, aborts the signal and waits for the reconcilers under way. */
  stop(): Promise<void>;
}

/** A failure that the API's concurrency explains (a lost race, an unanswered call) needs no one's attention. */
const routineReasons: ReadonlySet<unknown> = new Set([
  'Conflict',
  'AlreadyExists',
  'Gone',
  'TooManyRequests',
  'Unknown',
]);

function errorField(error: unknown, field: 'reason' | 'retryAfterMs'): unknown {
  return typeof error === 'object' && error !== null ? Reflect.get(error, field) : undefined;
}

/** About 2 ms of decisions. */
const keysBetweenPauses = 32;

export function startWorker(options: WorkerOptions): Worker {
  const { name, queue, clock, metrics } = options;
  const log = options.log.child({ controller: name });
  const backoff = new KeyedBackoff(options.backoff ?? reconcileBackoff, options.random);
  const stopping = new AbortController();
  metrics?.trackQueue(name, queue);

  const retry = (key: string, error: unknown, threw: boolean): void => {
    const retryAfterMs = errorField(error, 'retryAfterMs');
    const afterMs = Math.max(backoff.next(key), typeof retryAfterMs === 'number' ? retryAfterMs : 0);
    const fields = { key, failures: backoff.failures(key), afterMs: Math.round(afterMs), err: error };
    const routine = routineReasons.has(errorField(error, 'reason'));
    if (routine) log.debug('lost a race or an answer; will look again', fields);
    else if (threw) log.error('reconciler threw; will retry', fields);
    else log.warn('reconcile failed; will retry', fields);
    queue.add(key, { afterMs });
  };

  const settle = (key: string, outcome: Outcome): void => {
    if (outcome.kind !== 'retry') backoff.succeeded(key);
    switch (outcome.kind) {
      case 'done':
        break;
      case 'after':
        queue.add(key, { afterMs: outcome.ms });
        break;
      case 'retry':
        retry(key, outcome.error, false);
        break;
      case 'stalled':
        log.info('stalled until something changes', { key, reason: outcome.reason });
        break;
      default:
        outcome satisfies never;
    }
  };

  const work = async (key: string): Promise<void> => {
    const startedAt = clock.monotonic();
    let label: Outcome['kind'] | 'threw' = 'threw';
    try {
      const outcome = await options.reconcile(key, { signal: stopping.signal, failures: backoff.failures(key) });
      label = outcome.kind;
      settle(key, outcome);
    } catch (error) {
      if (!stopping.signal.aborted) retry(key, error, true);
    } finally {
      queue.done(key);
      metrics?.reconcileSeconds.observe({ controller: name, outcome: label }, (clock.monotonic() - startedAt) / 1000);
    }
  };

  // Keys that need no I/O settle in microtasks: without a pause a long queue would hold up timers and sockets until it is
  // empty, and with them the renewal of the Lease.
  const loop = async (): Promise<void> => {
    let sincePause = 0;
    for (let key = await queue.take(); key !== undefined; key = await queue.take()) {
      await work(key);
      if (++sincePause < keysBetweenPauses) continue;
      sincePause = 0;
      // Rejects when the worker stops: then the queue is closed, and `take` ends the loop.
      await sleep(clock, 0, stopping.signal).catch(() => undefined);
    }
  };
  const loops = Array.from({ length: options.concurrency }, loop);

  return {
    async stop() {
      stopping.abort(new Error(`${name} is stopping`));
      queue.close();
      await Promise.all(loops);
    },
  };
}

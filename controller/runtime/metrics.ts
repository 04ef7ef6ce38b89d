/**
 * What the operator tells Prometheus about itself.
 *
 * Invariants:
 * 1. No label has a node, an object's name or a namespace as its value: the number of series does not grow with the
 *    machine (88,128 series would block a scrape for half a second).
 * 2. Reading a queue's depth costs nothing until somebody scrapes.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

/** From a cache hit to a slow API server, in seconds. */
const secondsBuckets = [0.001, 0.005, 0.025, 0.1, 0.5, 2, 10, 60];

export interface Metrics {
  /** For metrics that a part keeps for itself; invariant 1 holds for those too. */
  readonly registry: Registry;
  /** Seconds of one reconcile, by controller and outcome (`done`, `after`, `retry`, `stalled`, `threw`). */
  readonly reconcileSeconds: Histogram<'controller' | 'outcome'>;
  /** Calls to the API server by verb, kind and outcome (`ok` or a KubeErrorReason). */
  readonly apiCalls: Counter<'verb' | 'kind' | 'outcome'>;
  readonly apiSeconds: Histogram<'verb'>;
  /** Relists, by kind: each reads every object again. */
  readonly relists: Counter<'kind'>;
  /** Events that were not recorded because their queue was full or their object too noisy. */
  readonly droppedEvents: Counter<string>;
  /** 1 while this process leads. */
  readonly leader: Gauge<string>;
  /** Shows the queue's depth, delayed and in-flight keys at every scrape. */
  trackQueue(
    name: string,
    queue: { readonly depth: number; readonly delayed: number; readonly inFlight: number },
  ): void;
  /** The exposition format's text. */
  text(): Promise<string>;
}

/** @param options.process also shows the process's own CPU, memory and event-loop lag (sets a sampling timer of its own). */
export function createMetrics(options: { readonly process?: boolean } = {}): Metrics {
  const registry = new Registry();
  if (options.process === true) collectDefaultMetrics({ register: registry });
  const registers = [registry];
  const queues = new Map<string, { readonly depth: number; readonly delayed: number; readonly inFlight: number }>();
  new Gauge({
    name: 'bitvisor_queue_keys',
    help: 'Keys in a work queue, by what they wait for.',
    labelNames: ['queue', 'state'],
    registers,
    collect() {
      for (const [queue, { depth, delayed, inFlight }] of queues) {
        this.set({ queue, state: 'ready' }, depth);
        this.set({ queue, state: 'delayed' }, delayed);
        this.set({ queue, state: 'in_flight' }, inFlight);
      }
    },
  });
  return {
    registry,
    reconcileSeconds: new Histogram({
      name: 'bitvisor_reconcile_seconds',
      help: 'Duration of one reconcile, by controller and outcome.',
      labelNames: ['controller', 'outcome'],
      buckets: secondsBuckets,
      registers,
    }),
    apiCalls: new Counter({
      name: 'bitvisor_api_calls_total',
      help: 'Calls to the Kubernetes API, by verb, kind and outcome.',
      labelNames: ['verb', 'kind', 'outcome'],
      registers,
    }),
    apiSeconds: new Histogram({
      name: 'bitvisor_api_call_seconds',
      help: 'Duration of calls to the Kubernetes API, waiting for a free place included, by verb.',
      labelNames: ['verb'],
      buckets: secondsBuckets,
      registers,
    }),
    relists: new Counter({
      name: 'bitvisor_relists_total',
      help: 'Times every object of a kind was listed, by kind.',
      labelNames: ['kind'],
      registers,
    }),
    droppedEvents: new Counter({
      name: 'bitvisor_dropped_events_total',
      help: 'Kubernetes Events dropped by rate limits or a full queue.',
      registers,
    }),
    leader: new Gauge({ name: 'bitvisor_leader', help: '1 while this process leads.', registers }),
    trackQueue: (name, queue) => void queues.set(name, queue),
    text: () => registry.metrics(),
  };
}

/**
 * The operator for as long as this process leads: started when elected, stopped when leadership ends, started afresh.
 *
 * Invariants:
 * 1. One operator at a time, and none but under a term of this process.
 * 2. When leadership ends, the operator is told to stop before anything else happens, and from then on nothing of it is written.
 */
import { hostname } from 'node:os';
import type { AgentConnector } from '../agents/port.ts';
import { createEventRecorder } from '../kube/events.ts';
import { type ElectionOptions, startElection } from '../kube/lease.ts';
import type { KubeClient } from '../kube/port.ts';
import { whileLeading } from '../kube/while-leading.ts';
import { type Operator, type OperatorOptions, startOperator } from '../reconcilers/operator.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import type { Metrics } from '../runtime/metrics.ts';
import type { Random } from '../runtime/random.ts';

export const operatorName = 'bitvisor-operator';
/** Where an operator keeps its Lease and its records when nobody says otherwise; the charts' namespace. */
export const defaultNamespace = 'bitvisor-system';

export interface LeaderOptions {
  readonly client: KubeClient;
  readonly connector: AgentConnector;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics?: Metrics;
  readonly settings: OperatorOptions['settings'];
  readonly namespace: string;
  /** Default: the host's name. */
  readonly identity?: string;
  /** What runs besides the operator while this process leads; the client that it is given writes no longer than that. */
  readonly companion?: (client: KubeClient) => { stop(): Promise<void> };
  /** Leadership was lost or could not begin: by the stop of `Leader` it is not called. */
  readonly onLost: (reason: string) => void;
}

export interface Leader {
  /** While it leads, and its caches have synced. */
  operator(): Operator | undefined;
  isLeader(): boolean;
  stop(): Promise<void>;
}

/** Resolves with the signal. */
export function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

class Leading implements Leader {
  readonly #options: LeaderOptions;
  readonly #events: ReturnType<typeof createEventRecorder>;
  readonly #election: ReturnType<typeof startElection>;
  #operator: Operator | undefined;
  #tenure: AbortController | undefined;
  #serving: Promise<void> = Promise.resolve();
  #isStopping = false;

  constructor(options: LeaderOptions) {
    this.#options = options;
    const { client, clock, random, log, metrics, namespace, identity = hostname() } = options;
    const onDrop = metrics ? { onDrop: () => metrics.droppedEvents.inc() } : {};
    this.#events = createEventRecorder({ client, component: operatorName, clock, random, log, ...onDrop });
    const election: ElectionOptions = {
      client,
      namespace,
      name: operatorName,
      identity,
      clock,
      random,
      log,
      onElected: () => this.#elected(),
      onLost: (reason) => this.#lost(reason),
    };
    this.#election = startElection(election);
  }

  operator(): Operator | undefined {
    return this.#operator;
  }

  isLeader(): boolean {
    return this.#election.isLeader();
  }

  #elected(): void {
    const tenure = new AbortController();
    this.#tenure = tenure;
    this.#options.metrics?.leader.set(1);
    this.#serving = this.#serving
      .then(() => this.#serve(tenure.signal))
      .catch((error: unknown) => {
        if (tenure.signal.aborted) return;
        this.#options.log.error('the operator did not start', { err: error });
        this.#options.onLost(`the operator did not start: ${error instanceof Error ? error.message : error}`);
      });
  }

  #lost(reason: string): void {
    this.#tenure?.abort(new Error(reason));
    this.#operator = undefined;
    this.#options.metrics?.leader.set(0);
    if (!this.#isStopping) this.#options.onLost(reason);
  }

  async #serve(signal: AbortSignal): Promise<void> {
    const { connector, clock, random, log, metrics, settings, companion } = this.#options;
    const client = whileLeading(this.#options.client, () => this.#election.isLeader());
    // Before the operator: what is in the repository should not wait for agents that are not there.
    const beside = companion?.(client);
    try {
      const shared = { client, connector, events: this.#events, clock, random, log, settings };
      const term = (): number | undefined => this.#election.term;
      const raiseTerm = (above: number): void => {
        this.#election
          .raiseTerm(above)
          .catch((error: unknown) => log.warn('the term could not be raised', { err: error }));
      };
      const operator = await startOperator({ ...shared, ...(metrics ? { metrics } : {}), term, raiseTerm }, signal);
      this.#operator = operator;
      await aborted(signal);
      await operator.stop();
    } finally {
      this.#operator = undefined;
      await beside?.stop();
    }
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    this.#tenure?.abort(new Error('stopping'));
    await this.#serving;
    await this.#election.stop();
    await this.#events.stop();
  }
}

export function startLeader(options: LeaderOptions): Leader {
  return new Leading(options);
}

/**
 * Leader election on a coordination.k8s.io Lease, with a term for fencing.
 *
 * Invariants:
 * 1. `isLeader()` is false, and `onLost` was called, before anybody who keeps these rules can take the Lease: a leader stops
 *    `renewDeadlineMs` after it *sent* its last successful renewal, a challenger takes over `leaseDurationMs` after it
 *    *received* the last change it saw, and the first is shorter. Both are measured on the own monotonic clock; wall clocks
 *    are written for people and never compared.
 * 2. A term is taken by compare-and-swap, is above every term that was ever stored in this Lease or seen by this process,
 *    and never below `leaseTransitions`. No two leaderships have the same.
 * 3. An unanswered write is neither a renewal nor an acquisition until it was read back.
 */
import { type Clock, sleep } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import type { Random } from '../runtime/random.ts';
import { type GroupVersionKind, KubeError, type KubeObject, type KubeReader, type KubeWriter } from './port.ts';

export const leaseKind: GroupVersionKind = {
  group: 'coordination.k8s.io',
  version: 'v1',
  kind: 'Lease',
  plural: 'leases',
  namespaced: true,
};

/** Where the term stands on the Lease: a decimal integer. */
export const termAnnotation = 'bitvisor.io/term';

/** A term that an agent reports above this is a lie or an attack: at one leadership a second it is 285 million years away. */
const highestTerm = Number.MAX_SAFE_INTEGER;

export interface Lease extends KubeObject {
  spec?: {
    holderIdentity?: string;
    leaseDurationSeconds?: number;
    acquireTime?: string;
    renewTime?: string;
    leaseTransitions?: number;
  };
}

export interface ElectionOptions {
  readonly client: Pick<KubeReader, 'get'> & Pick<KubeWriter, 'create' | 'patch'>;
  readonly namespace: string;
  readonly name: string;
  /** Who this is, for people; a random part is added, so that two processes are never taken for one. */
  readonly identity: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** A challenger waits this long without a change. Default 15 s, as kube-controller-manager. */
  readonly leaseDurationMs?: number;
  /** The leader stops this long after the sending of its last renewal. Default 10 s. */
  readonly renewDeadlineMs?: number;
  /** Between renewals, and between a challenger's looks. Default 2 s. */
  readonly retryPeriodMs?: number;
  readonly onElected: (term: number) => void;
  /** Called exactly once after each `onElected`, at once when leadership ends. It must not wait before it stops acting. */
  readonly onLost: (reason: string) => void;
}

export interface Election {
  readonly identity: string;
  isLeader(): boolean;
  /** The term while leading. */
  readonly term: number | undefined;
  /**
   * Takes a term above `above` without giving up leadership.
   * @returns the term now in force
   * @throws Error when this process does not lead (any more), or `above` is not a term
   */
  raiseTerm(above: number): Promise<number>;
  /** Ends leadership, gives the Lease free for others, and stops looking. */
  stop(): Promise<void>;
}

interface Leadership {
  readonly term: number;
  /** Monotonic time of the sending of the last renewal that succeeded. */
  readonly renewedAt: number;
}

function termOf(lease: Lease): number {
  const stored = lease.metadata.annotations?.[termAnnotation] ?? '0';
  const term = /^\d{1,16}$/.test(stored) ? Number(stored) : 0;
  return Math.max(Number.isSafeInteger(term) ? term : 0, lease.spec?.leaseTransitions ?? 0);
}

class Elector implements Election {
  readonly identity: string;
  readonly #options: ElectionOptions;
  readonly #log: Logger;
  readonly #leaseDurationMs: number;
  readonly #renewDeadlineMs: number;
  readonly #retryPeriodMs: number;
  readonly #stopping = new AbortController();
  readonly #running: Promise<void>;
  #lease: Lease | undefined;
  /** When the state in `#lease` was first seen, on the monotonic clock. */
  #observedAt = 0;
  #highestSeen = 0;
  #leadership: Leadership | undefined;
  #cancelDeadline = (): void => {};
  /** The renewal sent last, to be known again when its answer is lost. */
  #sent: { readonly renewTime: string; readonly at: number } | undefined;
  #renewals = 0;
  /** Writes to the Lease wait for each other. */
  #lastWrite: Promise<unknown> = Promise.resolve();

  constructor(options: ElectionOptions) {
    this.#options = options;
    this.#leaseDurationMs = options.leaseDurationMs ?? 15_000;
    this.#renewDeadlineMs = options.renewDeadlineMs ?? 10_000;
    this.#retryPeriodMs = options.retryPeriodMs ?? 2_000;
    if (!(this.#retryPeriodMs < this.#renewDeadlineMs && this.#renewDeadlineMs < this.#leaseDurationMs)) {
      throw new Error(
        'leader election needs retryPeriodMs < renewDeadlineMs < leaseDurationMs, got ' +
          `${this.#retryPeriodMs}, ${this.#renewDeadlineMs}, ${this.#leaseDurationMs}`,
      );
    }
    this.identity = `${options.identity}_${options.random.uuid()}`;
    this.#log = options.log.child({ lease: `${options.namespace}/${options.name}` });
    this.#running = this.#run();
  }

  get term(): number | undefined {
    return this.isLeader() ? this.#leadership?.term : undefined;
  }

  /** The deadline is checked here too: a busy event loop may be late with the timer. */
  isLeader(): boolean {
    if (this.#leadership === undefined) return false;
    if (this.#options.clock.monotonic() - this.#leadership.renewedAt < this.#renewDeadlineMs) return true;
    this.#lose('the Lease could not be renewed in time');
    return false;
  }

  async raiseTerm(above: number): Promise<number> {
    if (!Number.isSafeInteger(above) || above < 0 || above >= highestTerm) throw new Error(`${above} is not a term`);
    return this.#exclusively(async () => {
      while (this.isLeader() && !this.#stopping.signal.aborted) {
        const term = this.#leadership?.term ?? 0;
        if (term > above) return term;
        await this.#attempt(() => this.#renew(above + 1));
        if ((this.#leadership?.term ?? 0) <= above) await this.#pause();
      }
      throw new Error('not the leader');
    });
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new Error('leader election stops'));
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      await this.#exclusively(() => this.#attempt(() => (this.isLeader() ? this.#renew() : this.#challenge())));
      if (!signal.aborted) await this.#pause();
    }
    await this.#exclusively(() => this.#release());
  }

  /** Challengers come at different times, so that they do not meet in every attempt. */
  async #pause(): Promise<void> {
    const { clock, random } = this.#options;
    const waitMs =
      this.#leadership === undefined ? this.#retryPeriodMs * (1 + 0.2 * random.next()) : this.#retryPeriodMs;
    await sleep(clock, waitMs, this.#stopping.signal).catch(() => {});
  }

  #exclusively<R>(work: () => Promise<R>): Promise<R> {
    const run = this.#lastWrite.then(work, work);
    this.#lastWrite = run.catch(() => {});
    return run;
  }

  async #attempt(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      const routine = error instanceof KubeError && (error.reason === 'Conflict' || error.reason === 'AlreadyExists');
      if (routine) this.#log.debug('somebody else wrote the Lease first', { err: error });
      else this.#log.warn('the Lease could not be read or written', { err: error });
      // What stands there is no longer known: look before the next write.
      if (this.isLeader()) await this.#readBack().catch(() => {});
    }
  }

  async #read(): Promise<Lease | undefined> {
    const { client, namespace, name, clock } = this.#options;
    try {
      const lease = await client.get<Lease>(leaseKind, { namespace, name });
      const same =
        this.#lease?.metadata.uid === lease.metadata.uid &&
        this.#lease?.metadata.resourceVersion === lease.metadata.resourceVersion;
      if (!same) this.#observedAt = clock.monotonic();
      this.#lease = lease;
      this.#highestSeen = Math.max(this.#highestSeen, termOf(lease));
      return lease;
    } catch (error) {
      if (error instanceof KubeError && error.reason === 'NotFound') return undefined;
      throw error;
    }
  }

  /** After a failed write of a leader: whether the Lease is still ours, and at which version. */
  async #readBack(): Promise<void> {
    const sent = this.#sent;
    const lease = await this.#read();
    if (lease === undefined) this.#lose('the Lease was deleted');
    else if (lease.spec?.holderIdentity !== this.identity) this.#lose(`taken by ${lease.spec?.holderIdentity}`);
    else if (sent !== undefined && lease.spec.renewTime === sent.renewTime) this.#renewed(lease, sent.at);
  }

  async #challenge(): Promise<void> {
    const { clock } = this.#options;
    const lease = await this.#read();
    if (lease === undefined) return this.#create();
    const holder = lease.spec?.holderIdentity ?? '';
    // The holder's own promise counts where it is the longer one.
    const durationMs = Math.max(this.#leaseDurationMs, (lease.spec?.leaseDurationSeconds ?? 0) * 1000);
    const expired = clock.monotonic() - this.#observedAt >= durationMs;
    if (holder !== '' && holder !== this.identity && !expired) return;
    const sentAt = clock.monotonic();
    const term = this.#nextTerm();
    const now = this.#microTime();
    const taken = await this.#patch(lease, term, {
      holderIdentity: this.identity,
      leaseDurationSeconds: Math.ceil(this.#leaseDurationMs / 1000),
      acquireTime: now,
      renewTime: now,
      leaseTransitions: (lease.spec?.leaseTransitions ?? 0) + 1,
    });
    this.#elected(taken, sentAt);
  }

  #nextTerm(): number {
    if (this.#highestSeen < highestTerm) return this.#highestSeen + 1;
    throw new Error(`the Lease's annotation ${termAnnotation} leaves no higher term; a person must look at who set it`);
  }

  async #create(): Promise<void> {
    const { client, namespace, name, clock } = this.#options;
    const sentAt = clock.monotonic();
    const now = this.#microTime();
    const term = this.#nextTerm();
    const created = await client.create<Lease & { spec: object }>(leaseKind, {
      apiVersion: 'coordination.k8s.io/v1',
      kind: 'Lease',
      metadata: { namespace, name, annotations: { [termAnnotation]: String(term) } },
      spec: {
        holderIdentity: this.identity,
        leaseDurationSeconds: Math.ceil(this.#leaseDurationMs / 1000),
        acquireTime: now,
        renewTime: now,
        leaseTransitions: 0,
      },
    });
    this.#elected(created, sentAt);
  }

  /** @param raisedTerm also takes this term, where it is above the present one */
  async #renew(raisedTerm = 0): Promise<void> {
    const { clock } = this.#options;
    const lease = this.#lease;
    const leadership = this.#leadership;
    if (lease === undefined || leadership === undefined) return;
    const at = clock.monotonic();
    const renewTime = this.#microTime();
    this.#sent = { renewTime, at };
    const term = Math.max(leadership.term, raisedTerm);
    this.#renewed(await this.#patch(lease, term, { renewTime }), at);
  }

  #renewed(lease: Lease, sentAt: number): void {
    this.#lease = lease;
    this.#highestSeen = Math.max(this.#highestSeen, termOf(lease));
    // Lost while the answer was under way: leadership does not come back, only a new one under a new term.
    if (this.#leadership === undefined) return;
    this.#leadership = { term: Math.max(this.#leadership.term, termOf(lease)), renewedAt: sentAt };
    this.#setDeadline(sentAt);
  }

  /** metav1.MicroTime; the microseconds count the writes, so that no two of this process look the same. */
  #microTime(): string {
    this.#renewals = (this.#renewals + 1) % 1000;
    const micros = String(this.#renewals).padStart(3, '0');
    return `${new Date(this.#options.clock.now()).toISOString().slice(0, -1)}${micros}Z`;
  }

  #patch(lease: Lease, term: number, spec: NonNullable<Lease['spec']>): Promise<Lease> {
    const { client, namespace, name } = this.#options;
    const { uid, resourceVersion } = lease.metadata;
    const patch = { metadata: { annotations: { [termAnnotation]: String(term) } }, spec };
    return client.patch<Lease>(leaseKind, { namespace, name }, patch, {
      type: 'merge',
      ...(uid === undefined ? {} : { uid }),
      ...(resourceVersion === undefined ? {} : { resourceVersion }),
    });
  }

  #elected(lease: Lease, sentAt: number): void {
    const term = termOf(lease);
    this.#lease = lease;
    this.#highestSeen = Math.max(this.#highestSeen, term);
    this.#observedAt = this.#options.clock.monotonic();
    if (this.#stopping.signal.aborted || this.#observedAt - sentAt >= this.#renewDeadlineMs) return;
    this.#leadership = { term, renewedAt: sentAt };
    this.#setDeadline(sentAt);
    this.#log.info('leading', { term, identity: this.identity });
    this.#options.onElected(term);
  }

  #setDeadline(renewedAt: number): void {
    const { clock } = this.#options;
    this.#cancelDeadline();
    const leftMs = Math.max(0, renewedAt + this.#renewDeadlineMs - clock.monotonic());
    this.#cancelDeadline = clock.setTimer(leftMs, () => this.#lose('the Lease could not be renewed in time'));
  }

  #lose(reason: string): void {
    if (this.#leadership === undefined) return;
    this.#leadership = undefined;
    this.#cancelDeadline();
    this.#log.warn('no longer leading', { reason });
    this.#options.onLost(reason);
  }

  /** Only after `onLost` has returned may the Lease show that it is free. */
  async #release(): Promise<void> {
    this.#lose('stopping');
    const lease = this.#lease;
    if (lease?.spec?.holderIdentity !== this.identity) return;
    try {
      await this.#patch(lease, termOf(lease), { holderIdentity: '', leaseDurationSeconds: 1 });
    } catch (error) {
      this.#log.info('the Lease was not released; it will expire', { err: error });
    }
  }
}

export function startElection(options: ElectionOptions): Election {
  return new Elector(options);
}

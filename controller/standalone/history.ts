/**
 * The recent changes of every resource, in memory: what watches are served from and what consistent paging undoes.
 *
 * Invariants:
 * 1. Bounded in events and in bytes; the oldest go first, over all resources.
 * 2. A question about a time before the oldest kept change is answered with `undefined` (410 Gone to clients), never with a gap.
 * 3. Begins empty at a start of the server, at the version of that start.
 */
import type { Change } from './storage.ts';

/** A change, with the line that watchers get, made once. */
export interface LoggedChange extends Change {
  line?: Buffer;
}

export interface HistoryLimits {
  readonly events: number;
  /** Bytes of JSON text, counted once: with the state before and the line for watchers, up to three times as much is held. */
  readonly bytes: number;
}

export const defaultHistoryLimits: HistoryLimits = { events: 100_000, bytes: 64 * 1024 * 1024 };

/** Changes of one resource; positions count from its first change and never shift. */
export class ResourceLog {
  #changes: LoggedChange[] = [];
  #head = 0;
  #evicted = 0;
  /** Changes up to this version may be missing. */
  floor: number;
  readonly #subscribers = new Set<() => void>();

  constructor(floor: number) {
    this.floor = floor;
  }

  /** The position after the newest change. */
  get end(): number {
    return this.#evicted + this.#changes.length - this.#head;
  }

  append(change: LoggedChange): void {
    this.#changes.push(change);
  }

  evict(): LoggedChange | undefined {
    const change = this.#changes[this.#head];
    if (change === undefined) return undefined;
    this.#head++;
    this.#evicted++;
    this.floor = change.version;
    if (this.#head > 1024 && this.#head * 2 > this.#changes.length) {
      this.#changes = this.#changes.slice(this.#head);
      this.#head = 0;
    }
    return change;
  }

  /** The change at a position; undefined when it is evicted or not there yet. */
  at(position: number): LoggedChange | undefined {
    const index = position - this.#evicted;
    return index < 0 ? undefined : this.#changes[this.#head + index];
  }

  isEvicted(position: number): boolean {
    return position < this.#evicted;
  }

  /** The position of the first change after a version, or undefined when that time is forgotten. */
  after(version: number): number | undefined {
    if (version < this.floor) return undefined;
    let low = this.#head;
    let high = this.#changes.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#changes[middle]?.version ?? 0) <= version) low = middle + 1;
      else high = middle;
    }
    return this.#evicted + low - this.#head;
  }

  /**
   * What every object that has changed since then was at a version: its JSON text, or null where it did not exist.
   * Undefined when that time is forgotten.
   */
  since(version: number): Map<string, { namespace: string; name: string; body: string | null }> | undefined {
    const start = this.after(version);
    if (start === undefined) return undefined;
    const states = new Map<string, { namespace: string; name: string; body: string | null }>();
    for (let position = start; position < this.end; position++) {
      const change = this.at(position);
      if (change === undefined) break;
      const key = `${change.namespace}\u0000${change.name}`;
      if (!states.has(key)) {
        states.set(key, { namespace: change.namespace, name: change.name, body: change.previous ?? null });
      }
    }
    return states;
  }

  /** Calls `wake` after each commit that changed this resource, until the returned function is called. */
  subscribe(wake: () => void): () => void {
    this.#subscribers.add(wake);
    return () => this.#subscribers.delete(wake);
  }

  wake(): void {
    for (const wake of this.#subscribers) wake();
  }
}

export class History {
  readonly #logs = new Map<string, ResourceLog>();
  readonly #limits: HistoryLimits;
  readonly #startVersion: number;
  /** Whose change is the oldest, next oldest, ... */
  #order: ResourceLog[] = [];
  #head = 0;
  #bytes = 0;

  constructor(startVersion: number, limits: HistoryLimits = defaultHistoryLimits) {
    this.#startVersion = startVersion;
    this.#limits = limits;
  }

  log(resource: string): ResourceLog {
    let log = this.#logs.get(resource);
    if (log === undefined) {
      log = new ResourceLog(this.#startVersion);
      this.#logs.set(resource, log);
    }
    return log;
  }

  /** Takes in a commit and wakes the watchers that it concerns. */
  append(changes: readonly Change[]): void {
    const touched = new Set<ResourceLog>();
    for (const change of changes) {
      const log = this.log(change.resource);
      log.append({ ...change });
      this.#order.push(log);
      this.#bytes += change.body.length;
      touched.add(log);
    }
    this.#evict();
    for (const log of touched) log.wake();
  }

  #evict(): void {
    while (this.#order.length - this.#head > this.#limits.events || this.#bytes > this.#limits.bytes) {
      const gone = this.#order[this.#head]?.evict();
      if (gone === undefined) return;
      this.#head++;
      this.#bytes -= gone.body.length;
    }
    if (this.#head > 4096 && this.#head * 2 > this.#order.length) {
      this.#order = this.#order.slice(this.#head);
      this.#head = 0;
    }
  }
}

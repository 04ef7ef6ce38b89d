/**
 * The work queue between what changed and who reconciles it.
 *
 * Invariants:
 * 1. A key stands in the queue at most once; adding it again keeps the earlier deadline and the higher priority.
 * 2. A key is in the hands of at most one worker. Added meanwhile, it is handed out again after `done`.
 * 3. Among ready keys the higher priority goes first, then the one that became ready first.
 * 4. Every operation is O(log n); one timer is set, for the earliest delayed key.
 */
import type { Clock } from './clock.ts';
import { Heap, type HeapMember } from './heap.ts';

export interface AddOptions {
  /** Not before this many milliseconds from now. */
  readonly afterMs?: number;
  /** Higher goes first. Default 0; work found by a relist or a restart is best added below that. */
  readonly priority?: number;
}

interface Entry extends HeapMember {
  readonly key: string;
  /** Monotonic milliseconds; an entry is delayed while this lies ahead. */
  readyAt: number;
  priority: number;
  /** When it took its place, to break ties. */
  order: number;
  place: 'ready' | 'delayed' | 'held';
}

export class WorkQueue {
  readonly #clock: Clock;
  readonly #entries = new Map<string, Entry>();
  readonly #inFlight = new Set<string>();
  readonly #ready = new Heap<Entry>(
    (a, b) => a.priority > b.priority || (a.priority === b.priority && a.order < b.order),
  );
  readonly #delayed = new Heap<Entry>(
    (a, b) => a.readyAt < b.readyAt || (a.readyAt === b.readyAt && a.order < b.order),
  );
  #takers: ((key: string | undefined) => void)[] = [];
  #order = 0;
  #timer: { readonly at: number; readonly cancel: () => void } | undefined;
  #closed = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Keys that could be handed out now. */
  get depth(): number {
    return this.#ready.size;
  }

  /** Keys that wait for their time. */
  get delayed(): number {
    return this.#delayed.size;
  }

  get inFlight(): number {
    return this.#inFlight.size;
  }

  /** Does nothing once the queue is closed. */
  add(key: string, options: AddOptions = {}): void {
    if (this.#closed) return;
    const readyAt = this.#clock.monotonic() + Math.max(0, options.afterMs ?? 0);
    const priority = options.priority ?? 0;
    const present = this.#entries.get(key);
    if (present === undefined) {
      const entry: Entry = { key, readyAt, priority, order: this.#order++, place: 'held', heapIndex: -1 };
      this.#entries.set(key, entry);
      if (!this.#inFlight.has(key)) this.#enqueue(entry);
    } else {
      this.#merge(present, readyAt, priority);
    }
    this.#handOut();
  }

  /** The next key, waiting for one if need be; undefined once the queue is closed. Each key must be given back by `done`. */
  take(): Promise<string | undefined> {
    if (this.#closed) return Promise.resolve(undefined);
    return new Promise((resolve) => {
      this.#takers.push(resolve);
      this.#handOut();
    });
  }

  /** Gives `key` back; if it was added meanwhile, it is queued now. */
  done(key: string): void {
    this.#inFlight.delete(key);
    const entry = this.#entries.get(key);
    if (entry?.place === 'held') this.#enqueue(entry);
    this.#handOut();
  }

  /** Forgets what waits and wakes every taker with undefined. Keys in flight are still given back by `done`. */
  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    this.#timer = undefined;
    for (let entry = this.#ready.pop(); entry !== undefined; entry = this.#ready.pop());
    for (let entry = this.#delayed.pop(); entry !== undefined; entry = this.#delayed.pop());
    this.#entries.clear();
    const takers = this.#takers;
    this.#takers = [];
    for (const take of takers) take(undefined);
  }

  #merge(entry: Entry, readyAt: number, priority: number): void {
    entry.priority = Math.max(entry.priority, priority);
    const earlier = readyAt < entry.readyAt;
    if (earlier) entry.readyAt = readyAt;
    if (entry.place === 'ready') this.#ready.moved(entry);
    if (entry.place === 'delayed' && earlier) {
      this.#delayed.remove(entry);
      this.#enqueue(entry);
    }
  }

  #enqueue(entry: Entry): void {
    if (entry.readyAt > this.#clock.monotonic()) {
      entry.place = 'delayed';
      this.#delayed.push(entry);
      this.#armTimer();
    } else {
      entry.place = 'ready';
      entry.order = this.#order++;
      this.#ready.push(entry);
    }
  }

  #handOut(): void {
    while (this.#takers.length > 0) {
      const entry = this.#ready.pop();
      if (entry === undefined) return;
      this.#entries.delete(entry.key);
      this.#inFlight.add(entry.key);
      this.#takers.shift()?.(entry.key);
    }
  }

  #armTimer(): void {
    const next = this.#delayed.peek();
    if (next === undefined || (this.#timer !== undefined && this.#timer.at <= next.readyAt)) return;
    this.#timer?.cancel();
    const delayMs = Math.max(0, next.readyAt - this.#clock.monotonic());
    this.#timer = { at: next.readyAt, cancel: this.#clock.setTimer(delayMs, () => this.#onTimer()) };
  }

  #onTimer(): void {
    this.#timer = undefined;
    const now = this.#clock.monotonic();
    for (let next = this.#delayed.peek(); next !== undefined && next.readyAt <= now; next = this.#delayed.peek()) {
      this.#delayed.pop();
      this.#enqueue(next);
    }
    this.#armTimer();
    this.#handOut();
  }
}

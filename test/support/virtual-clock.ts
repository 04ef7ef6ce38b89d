/**
 * A clock that stands still until a test moves it, so that hours pass in milliseconds and every run is the same.
 *
 * Invariants:
 * 1. Timers fire in the order of their due time, then of their creation; between two of them every promise that can
 *    settle does.
 * 2. Inside a timer, `monotonic()` is exactly that timer's due time.
 * 3. Whoever keeps setting timers that are due at once does not hang the test: it throws a HotLoopError.
 */
import process from 'node:process';
import { setImmediate } from 'node:timers';
import type { Clock } from '../../controller/runtime/clock.ts';
import { Heap, type HeapMember } from '../../controller/runtime/heap.ts';

interface Timer extends HeapMember {
  dueAt: number;
  order: number;
  fn: () => void;
}

/** Lets every promise that needs no timer and no I/O settle: the microtask queue is empty before an immediate runs. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

const ticksBetweenTurns = 64;
let ticks = 0;

/**
 * The same where nothing does I/O, at a fraction of the cost: ticks that microtasks queue run once no microtask is left. Now and then the
 * event loop has its turn, for what looks after the run from outside (a watchdog's beat, signals).
 */
export function settleWithoutIo(): Promise<void> {
  ticks += 1;
  if (ticks % ticksBetweenTurns === 0) return settle();
  return new Promise((resolve) => process.nextTick(resolve));
}

/** So many timers at one moment are no burst of work any more: the largest known one has some thousands. */
const timersAtOneMoment = 200_000;

/** Something does its work again and again without letting time pass. */
export class HotLoopError extends Error {
  override readonly name = 'HotLoopError';
}

export class VirtualClock implements Clock {
  #elapsedMs = 0;
  #firedAtThisMoment = 0;
  #wallOffsetMs: number;
  #created = 0;
  readonly #settle: () => Promise<void>;
  readonly #timers = new Heap<Timer>((a, b) => a.dueAt < b.dueAt || (a.dueAt === b.dueAt && a.order < b.order));

  /** @param settled lets every promise settle that can without a timer */
  constructor(startMs: number = Date.UTC(2026, 0, 1), settled: () => Promise<void> = settle) {
    this.#wallOffsetMs = startMs;
    this.#settle = settled;
  }

  now(): number {
    return this.#wallOffsetMs + this.#elapsedMs;
  }

  monotonic(): number {
    return this.#elapsedMs;
  }

  setTimer(delayMs: number, fn: () => void): () => void {
    const timer: Timer = {
      dueAt: this.#elapsedMs + Math.max(0, delayMs),
      order: this.#created++,
      fn,
      heapIndex: -1,
    };
    this.#timers.push(timer);
    return () => this.#timers.remove(timer);
  }

  /** Timers not yet fired. */
  get pendingTimers(): number {
    return this.#timers.size;
  }

  /** Milliseconds until the next timer, or undefined when there is none. */
  get nextTimerInMs(): number | undefined {
    const next = this.#timers.peek();
    return next === undefined ? undefined : Math.max(0, next.dueAt - this.#elapsedMs);
  }

  /** The wall clock jumps (NTP, an operator's hand); deadlines must not notice. */
  jumpWallClock(byMs: number): void {
    this.#wallOffsetMs += byMs;
  }

  /** Lets `ms` pass, firing what falls due on the way. */
  async advance(ms: number): Promise<void> {
    const until = this.#elapsedMs + ms;
    await this.#settle();
    while (this.#fireNext(until)) await this.#settle();
    this.#elapsedMs = Math.max(this.#elapsedMs, until);
    await this.#settle();
  }

  /** Fires timers until none is left; throws after `limitMs` of virtual time, naming that something keeps going. */
  async runUntilIdle(limitMs = 3_600_000): Promise<void> {
    const until = this.#elapsedMs + limitMs;
    await this.#settle();
    while (this.#fireNext(until)) await this.#settle();
    if (this.#timers.size > 0) {
      throw new Error(`${this.#timers.size} timers are still set after ${limitMs} ms of virtual time`);
    }
  }

  /** Fires timers until `condition` holds; throws when no timer is left or `limitMs` of virtual time passed before. */
  async runUntil(condition: () => boolean, limitMs = 3_600_000): Promise<void> {
    const until = this.#elapsedMs + limitMs;
    await this.#settle();
    while (!condition()) {
      if (!this.#fireNext(until)) {
        throw new Error(`condition not reached within ${limitMs} ms of virtual time: ${condition.toString()}`);
      }
      await this.#settle();
    }
  }

  #fireNext(until: number): boolean {
    const next = this.#timers.peek();
    if (next === undefined || next.dueAt > until) return false;
    this.#timers.pop();
    if (next.dueAt > this.#elapsedMs) this.#firedAtThisMoment = 0;
    else if (++this.#firedAtThisMoment > timersAtOneMoment) {
      throw new HotLoopError(
        `${timersAtOneMoment} timers fired at ${this.#elapsedMs} ms, and more are due at once: ${next.fn}`,
      );
    }
    this.#elapsedMs = Math.max(this.#elapsedMs, next.dueAt);
    next.fn();
    return true;
  }
}

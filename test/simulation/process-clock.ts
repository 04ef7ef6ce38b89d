/**
 * The clock of one simulated process on the clock of the world: it may be skewed, run slow, stand still (SIGSTOP) or be over.
 *
 * Invariants:
 * 1. While the process is paused nothing of it runs; what fell due meanwhile runs when it wakes up, in order.
 * 2. After `kill` nothing of it ever runs again: no timer fires, no answer comes.
 */
import type { Clock } from '../../controller/runtime/clock.ts';
import type { VirtualClock } from '../support/virtual-clock.ts';

export class ProcessClock implements Clock {
  readonly #world: VirtualClock;
  readonly #skewMs: number;
  readonly #rate: number;
  readonly #bornAt: number;
  #state: 'Running' | 'Paused' | 'Dead' = 'Running';
  #waiting: (() => void)[] = [];
  /** Of what waited while it was paused, how much did not run yet. */
  #behind = 0;

  /** @param rate how fast its monotonic clock runs; 0.5: a second of it lasts two */
  constructor(world: VirtualClock, skewMs = 0, rate = 1) {
    this.#world = world;
    this.#skewMs = skewMs;
    this.#rate = rate;
    this.#bornAt = world.monotonic();
  }

  get state(): 'Running' | 'Paused' | 'Dead' {
    return this.#state;
  }

  now(): number {
    return this.#world.now() + this.#skewMs;
  }

  monotonic(): number {
    return (this.#world.monotonic() - this.#bornAt) * this.#rate;
  }

  setTimer(delayMs: number, fn: () => void): () => void {
    if (this.#state === 'Dead') return () => {};
    let cancelled = false;
    // Whole milliseconds and never early, as timers are: a deadline that is short of its time by a rounding error would be set again
    // without end.
    const worldMs = Math.ceil(delayMs / this.#rate) + (this.#rate === 1 ? 0 : 1);
    const cancel = this.#world.setTimer(worldMs, () =>
      this.run(() => {
        if (!cancelled) fn();
      }),
    );
    return () => {
      cancelled = true;
      cancel();
    };
  }

  /** Runs `fn` as the process would: now, behind what waited for it to wake up, or never. */
  run(fn: () => void): void {
    if (this.#state === 'Paused') this.#waiting.push(fn);
    else if (this.#state === 'Running' && this.#behind > 0) this.#catchUp(fn);
    else if (this.#state === 'Running') fn();
  }

  #catchUp(fn: () => void): void {
    this.#behind++;
    this.#world.setTimer(0, () => {
      this.#behind--;
      if (this.#state === 'Running') fn();
      else if (this.#state === 'Paused') this.#waiting.push(fn);
    });
  }

  /** An answer from outside: it comes when the process can take it, or never. */
  receive<T>(work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      work.then(
        (value) => this.run(() => resolve(value)),
        (error: unknown) => this.run(() => reject(error)),
      );
    });
  }

  pause(): void {
    if (this.#state === 'Running') this.#state = 'Paused';
  }

  resume(): void {
    if (this.#state !== 'Paused') return;
    this.#state = 'Running';
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const fn of waiting) this.#catchUp(fn);
  }

  kill(): void {
    this.#state = 'Dead';
    this.#waiting = [];
  }
}

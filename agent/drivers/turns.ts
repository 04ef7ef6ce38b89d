/** What concerns one machine, in its order: work takes turns, and that a reading changed is told after what changed it. */
import type { Clock } from '../../controller/runtime/clock.ts';

export class Turns {
  #last: Promise<unknown> = Promise.resolve();

  /** Begins the work once all that was given before has ended, however it ended. Settles as the work does. */
  take<Value>(work: () => Promise<Value>): Promise<Value> {
    const next = this.#last.then(work);
    this.#last = next.catch(() => {});
    return next;
  }
}

export class Telling {
  readonly #clock: Clock;
  readonly #listener: () => void;
  #isDue = false;
  #isClosed = false;

  constructor(clock: Clock, listener: () => void) {
    this.#clock = clock;
    this.#listener = listener;
  }

  /** Calls the listener later, once for all that is told until then. */
  tell(): void {
    if (this.#isClosed || this.#isDue) return;
    this.#isDue = true;
    this.#clock.setTimer(0, () => {
      this.#isDue = false;
      if (!this.#isClosed) this.#listener();
    });
  }

  /** Nobody is told any more. */
  close(): void {
    this.#isClosed = true;
  }
}

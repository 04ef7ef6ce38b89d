/**
 * News of somebody who may send any number of them.
 *
 * Invariants:
 * 1. The first is taken at once, and whatever comes in the pause after it is taken once, at its end: nobody waits for longer than the pause.
 * 2. A fault while it is taken later goes to `onError`: nobody else would hear of it.
 */
import type { Clock } from '../../../controller/runtime/clock.ts';

export interface NewsOptions {
  readonly clock: Clock;
  readonly pauseMs: number;
  /** Looks at the newest state, however many news led to it. */
  readonly take: () => void;
  readonly onError: (error: unknown) => void;
}

export class News {
  readonly #options: NewsOptions;
  #cancel: (() => void) | undefined;
  #isWaiting = false;

  constructor(options: NewsOptions) {
    this.#options = options;
  }

  /** @throws what `take` throws, where it is taken at once */
  came(): void {
    if (this.#cancel !== undefined) this.#isWaiting = true;
    else this.takeNow();
  }

  /** Also within the pause. @throws what `take` throws */
  takeNow(): void {
    this.#isWaiting = false;
    this.#cancel?.();
    const { clock, pauseMs, take, onError } = this.#options;
    this.#cancel = clock.setTimer(pauseMs, () => {
      this.#cancel = undefined;
      if (!this.#isWaiting) return;
      try {
        this.takeNow();
      } catch (error) {
        onError(error);
      }
    });
    take();
  }

  /** Takes what waits; then the first that comes is taken at once again. @throws what `take` throws */
  end(): void {
    if (this.#isWaiting) this.takeNow();
    this.stop();
  }

  /** What waits is not taken any more. */
  stop(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    this.#isWaiting = false;
  }
}

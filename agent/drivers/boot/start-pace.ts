/**
 * How often one machine is given something to boot.
 *
 * A machine is handed a system, and the agent keeps a record of it, for each request that it sends; a tenant with root can send them without
 * end. Firmware takes longer than this for a start, and a script that fails asks again seldom enough for a while.
 *
 * Invariant: over any time T a machine is given at most `burst + T / everyMs` starts.
 */
import type { Clock } from '../../../controller/runtime/clock.ts';

const burst = 10;
const everyMs = 10_000;

export class StartPace {
  readonly #clock: Clock;
  #left = burst;
  #countedAt: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#countedAt = clock.monotonic();
  }

  /** Whether one more may be given now; it then counts. */
  take(): boolean {
    const now = this.#clock.monotonic();
    this.#left = Math.min(burst, this.#left + (now - this.#countedAt) / everyMs);
    this.#countedAt = now;
    if (this.#left < 1) return false;
    this.#left -= 1;
    return true;
  }
}

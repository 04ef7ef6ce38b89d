/**
 * A clock for simulated machines that runs `factor` times as fast as the one it is made from: a timer of a minute fires after
 * a second under a factor of 60. `now()` stays the wall clock, because certificates are dated by it.
 */
import type { Clock } from '../controller/runtime/clock.ts';

export function scaledClock(clock: Clock, factor: number): Clock {
  if (!(factor > 0)) throw new RangeError(`the clock factor must be greater than 0, not ${factor}`);
  if (factor === 1) return clock;
  return {
    now: () => clock.now(),
    monotonic: () => clock.monotonic() * factor,
    setTimer: (delayMs, fn) => clock.setTimer(delayMs / factor, fn),
  };
}

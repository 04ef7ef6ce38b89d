/** Waiting for what nobody announces: a look every few milliseconds of real time. (What is announced: wakers.ts.) */
import { systemClock as clock, sleep } from '../../controller/runtime/clock.ts';

const everyMs = 10;

/**
 * Waits for a condition, not for a time.
 * @param limitMs generous to a machine that others share: what comes about ends it at once
 * @throws with what was waited for
 */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  limitMs = 60_000,
): Promise<void> {
  const end = clock.monotonic() + limitMs;
  while (!(await condition())) {
    if (clock.monotonic() > end) throw new Error(`not within ${limitMs} ms: ${what}`);
    await sleep(clock, everyMs);
  }
}

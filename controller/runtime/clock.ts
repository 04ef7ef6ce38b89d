/**
 * Time as a parameter: everything that waits or tells the time takes a `Clock`.
 *
 * Invariants:
 * 1. No file outside this one reads the machine's clock or sets a timer; a virtual clock can therefore replay a run.
 * 2. `now()` is wall-clock milliseconds since the epoch and is only compared with times from API objects;
 *    `monotonic()` never goes back and is what deadlines and backoff use.
 */

export interface Clock {
  /** Wall-clock time in milliseconds since 1970-01-01T00:00:00Z. */
  now(): number;
  /** Milliseconds from an arbitrary origin; never decreases. */
  monotonic(): number;
  /** Calls `fn` once after `delayMs` (0 or more); the returned function cancels it and may be called any number of times. */
  setTimer(delayMs: number, fn: () => void): () => void;
}

/** setTimeout holds a 32-bit signed delay; a longer one would fire at once. */
const longestTimerMs = 2_147_483_647;

/** The machine's own clock. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  setTimer(delayMs, fn) {
    let handle: NodeJS.Timeout;
    const arm = (leftMs: number): void => {
      handle = setTimeout(
        () => (leftMs > longestTimerMs ? arm(leftMs - longestTimerMs) : fn()),
        Math.max(0, Math.min(leftMs, longestTimerMs)),
      );
    };
    arm(delayMs);
    return () => clearTimeout(handle);
  },
};

/** Resolves after `delayMs`, or rejects with the signal's reason when it is aborted first. */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const onAbort = (): void => {
      cancel();
      reject(signal?.reason);
    };
    const cancel = clock.setTimer(delayMs, () => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    });
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}

let lastSecond = Number.NaN;
let lastMetaTime = '';

/** RFC 3339 with whole seconds, as `metav1.Time` is written. */
export function toMetaTime(ms: number): string {
  const second = Math.floor(ms / 1000);
  // Every reconcile asks for the present second, and most of them for the same.
  if (second !== lastSecond) {
    lastMetaTime = `${new Date(ms).toISOString().slice(0, 19)}Z`;
    lastSecond = second;
  }
  return lastMetaTime;
}

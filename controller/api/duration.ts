/**
 * Durations as Go and Kubernetes write them ("1h30m", "90s", "1.5h"), in whole milliseconds.
 *
 * Invariants:
 * 1. Nothing is rounded: what is not a whole number of milliseconds is refused.
 * 2. Parsing what was formatted gives the same number.
 */

/** A text that is not a duration, or not one that can be used here. */
export class DurationError extends Error {
  constructor(text: string, reason: string) {
    super(`${JSON.stringify(text.slice(0, 64))} ${reason}`);
    this.name = 'DurationError';
  }
}

const nanoseconds = new Map<string, bigint>([
  ['h', 3_600_000_000_000n],
  ['m', 60_000_000_000n],
  ['s', 1_000_000_000n],
  ['ms', 1_000_000n],
  ['us', 1000n],
  ['µs', 1000n],
  ['ns', 1n],
]);
const nanosecondsInMs = 1_000_000n;
/** Go's longest duration: 2^63-1 ns, about 292 years. */
const longest = 2n ** 63n - 1n;
const longestMs = Number(longest / nanosecondsInMs);
const maxTextLength = 64;
const item = /(\d{1,19})(?:\.(\d{1,9}))?(h|ms|m|s|us|µs|ns)/y;

/** Milliseconds. Throws DurationError when the text is no duration, is negative, too long, or finer than a millisecond. */
export function parseDuration(text: string): number {
  if (text === '0') return 0;
  if (text === '' || text.length > maxTextLength)
    throw new DurationError(text, 'is not a duration; write for example "1h30m" or "90s"');
  let total = 0n;
  item.lastIndex = 0;
  for (let at = 0; at < text.length; at = item.lastIndex) {
    const match = item.exec(text);
    if (match === null)
      throw new DurationError(text, `is not a duration (see character ${at + 1}); write for example "1h30m" or "90s"`);
    const [, whole = '', fraction = '', unit = ''] = match;
    const product = BigInt(whole + fraction) * (nanoseconds.get(unit) ?? 1n);
    const divisor = 10n ** BigInt(fraction.length);
    if (product % divisor !== 0n) throw new DurationError(text, 'is finer than a millisecond');
    total += product / divisor;
  }
  if (total > longest) throw new DurationError(text, 'is longer than 292 years');
  if (total % nanosecondsInMs !== 0n) throw new DurationError(text, 'is finer than a millisecond');
  return Number(total / nanosecondsInMs);
}

/** "1h30m", "72h", "1.5s", "250ms", "0s". Throws RangeError for what is no whole number of milliseconds or too long. */
export function formatDuration(ms: number): string {
  if (!Number.isSafeInteger(ms) || ms < 0 || ms > longestMs)
    throw new RangeError(`${ms} is no whole number of milliseconds from 0 to ${longestMs}`);
  if (ms === 0) return '0s';
  if (ms < 1000) return `${ms}ms`;
  const hours = Math.floor(ms / 3_600_000);
  const minutes = Math.floor(ms / 60_000) % 60;
  const seconds = (ms % 60_000) / 1000;
  return `${hours > 0 ? `${hours}h` : ''}${minutes > 0 ? `${minutes}m` : ''}${seconds > 0 ? `${seconds}s` : ''}`;
}

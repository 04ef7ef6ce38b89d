/**
 * Kubernetes quantities ("32Gi", "100M") that count whole things: bytes, bytes a second.
 *
 * Invariants:
 * 1. Nothing is rounded: what is not a whole number, or does not fit the type that is asked for, is refused.
 * 2. Parsing what was formatted gives the same number.
 */

/** A text that is not a quantity, or not one of the kind that is needed here. */
export class QuantityError extends Error {
  constructor(text: string, reason: string) {
    super(`${JSON.stringify(text.slice(0, 64))} ${reason}`);
    this.name = 'QuantityError';
  }
}

const binary: readonly [suffix: string, factor: bigint][] = [
  ['Ei', 2n ** 60n],
  ['Pi', 2n ** 50n],
  ['Ti', 2n ** 40n],
  ['Gi', 2n ** 30n],
  ['Mi', 2n ** 20n],
  ['Ki', 2n ** 10n],
];
const decimal: readonly [suffix: string, factor: bigint][] = [
  ['E', 10n ** 18n],
  ['P', 10n ** 15n],
  ['T', 10n ** 12n],
  ['G', 10n ** 9n],
  ['M', 10n ** 6n],
  ['k', 10n ** 3n],
];
const multipliers = new Map<string, bigint>([...binary, ...decimal, ['', 1n]]);
const divisors = new Map<string, bigint>([
  ['m', 10n ** 3n],
  ['u', 10n ** 6n],
  ['n', 10n ** 9n],
]);

/** The largest quantity that Kubernetes keeps exactly. */
const largest = 2n ** 63n - 1n;
const shape = /^\+?(\d{1,19})(?:\.(\d{0,9}))?(?:([KMGTPE]i|[kMGTPEmun])|[eE]\+?(\d{1,2}))?$/;

/**
 * The whole number that a quantity stands for. Throws QuantityError when the text is no quantity, is negative, is no whole
 * number ("1500m") or is above 2^63-1.
 */
export function parseQuantity(text: string): bigint {
  const match = shape.exec(text);
  if (match === null)
    throw new QuantityError(
      text,
      'is not a quantity; write a whole number with or without a unit, such as "32Gi" or "100M"',
    );
  const [, whole = '', fraction = '', suffix = '', exponent] = match;
  const multiplier = exponent === undefined ? (multipliers.get(suffix) ?? 1n) : 10n ** BigInt(exponent);
  const divisor = 10n ** BigInt(fraction.length) * (divisors.get(suffix) ?? 1n);
  const product = BigInt(whole + fraction) * multiplier;
  if (product % divisor !== 0n) throw new QuantityError(text, 'is not a whole number');
  const value = product / divisor;
  if (value > largest) throw new QuantityError(text, 'is larger than 2^63-1');
  return value;
}

/** As parseQuantity, for sizes in bytes that are counted in numbers: above 2^53-1 (8 PiB) it throws QuantityError. */
export function parseBytes(text: string): number {
  const value = parseQuantity(text);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new QuantityError(text, 'is larger than 2^53-1 bytes (8 PiB)');
  return Number(value);
}

/** The shortest exact text; binary units where two are equally short. Throws RangeError for what is no whole number >= 0. */
export function formatQuantity(value: bigint | number): string {
  const whole = BigInt(value);
  if (whole < 0n) throw new RangeError(`${whole} is negative: no quantity`);
  let best = String(whole);
  if (whole === 0n) return best;
  for (const [suffix, factor] of [...binary, ...decimal]) {
    if (whole % factor !== 0n) continue;
    const text = `${whole / factor}${suffix}`;
    if (text.length < best.length) best = text;
  }
  return best;
}

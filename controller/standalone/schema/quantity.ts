/**
 * Kubernetes' resource.Quantity for CEL rules: exact decimal and binary amounts ("1.5Gi", "250m", "1e3").
 *
 * Invariant: amounts are whole nano-units in a BigInt, as exact as Kubernetes' own (which also rounds up below a nano-unit).
 */

const shape = /^([+-]?)(\d+(?:\.\d*)?|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?\d{1,3})?$/;
const nanoPerUnit = 1_000_000_000n;
const binaryPower: Record<string, bigint> = { Ki: 10n, Mi: 20n, Gi: 30n, Ti: 40n, Pi: 50n, Ei: 60n };
const decimalPower: Record<string, number> = { n: -9, u: -6, m: -3, k: 3, M: 6, G: 9, T: 12, P: 15, E: 18 };

export class Quantity {
  readonly nano: bigint;
  constructor(nano: bigint) {
    this.nano = nano;
  }
  compareTo(other: Quantity): -1 | 0 | 1 {
    return this.nano < other.nano ? -1 : this.nano > other.nano ? 1 : 0;
  }
  sign(): -1 | 0 | 1 {
    return this.nano < 0n ? -1 : this.nano > 0n ? 1 : 0;
  }
  isInteger(): boolean {
    return this.nano % nanoPerUnit === 0n;
  }
  asInteger(): bigint {
    if (!this.isInteger()) throw new Error('cannot convert value to integer');
    return this.nano / nanoPerUnit;
  }
  asApproximateFloat(): number {
    return Number(this.nano) / Number(nanoPerUnit);
  }
  add(other: Quantity): Quantity {
    return new Quantity(this.nano + other.nano);
  }
  sub(other: Quantity): Quantity {
    return new Quantity(this.nano - other.nano);
  }
}

/** The amount that a text stands for, or undefined when it is no quantity. */
export function parseQuantity(text: string): Quantity | undefined {
  const match = text.length > 64 ? null : shape.exec(text);
  if (match === null) return undefined;
  const [, sign = '', digits = '', suffix = ''] = match;
  const [whole = '', fraction = ''] = digits.split('.');
  const power = binaryPower[suffix];
  const exponent = decimalPower[suffix] ?? (/^[eE][+-]?\d/.test(suffix) ? Number(suffix.slice(1)) : 0);
  let numerator = BigInt(`${whole}${fraction}` || '0') * nanoPerUnit;
  let denominator = 10n ** BigInt(fraction.length);
  if (power !== undefined) numerator <<= power;
  else if (exponent >= 0) numerator *= 10n ** BigInt(exponent);
  else denominator *= 10n ** BigInt(-exponent);
  const rounded = (numerator + denominator - 1n) / denominator;
  return new Quantity(sign === '-' ? -rounded : rounded);
}

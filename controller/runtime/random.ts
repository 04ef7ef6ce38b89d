/**
 * Chance as a parameter: everything random takes a `Random`, so that one seed replays a run.
 */
import { randomBytes } from 'node:crypto';

export interface Random {
  /** A uniformly drawn number in [0, 1). */
  next(): number;
  /** A random version-4-shaped UUID, lower case. */
  uuid(): string;
}

function uuidFrom(hex: string): string {
  const variant = ((Number.parseInt(hex.slice(16, 17), 16) & 0x3) | 0x8).toString(16);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/** The operating system's cryptographic source. */
export const systemRandom: Random = {
  next: () => randomBytes(6).readUIntBE(0, 6) / 2 ** 48,
  uuid: () => uuidFrom(randomBytes(16).toString('hex')),
};

/**
 * A repeatable source: sfc32 (Chris Doty-Humphrey's PractRand), seeded with a 32-bit integer. Not for secrets.
 */
export function seededRandom(seed: number): Random {
  let a = 0x9e3779b9;
  let b = 0x243f6a88;
  let c = 0xb7e15162;
  let counter = seed >>> 0;
  const next32 = (): number => {
    const sum = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum;
    c |= 0;
    return sum >>> 0;
  };
  for (let warmUp = 0; warmUp < 16; warmUp++) next32();
  const word = (): string => next32().toString(16).padStart(8, '0');
  return {
    next: () => next32() / 2 ** 32,
    uuid: () => uuidFrom(word() + word() + word() + word()),
  };
}

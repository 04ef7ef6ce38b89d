/**
 * Chance in a run: every source has a stream of its own, named, so that a fault more here does not change what is drawn there.
 */
import { type Random, seededRandom } from '../../controller/runtime/random.ts';

/** FNV-1a, 32 bits. */
function hash32(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    hash ^= text.charCodeAt(index);
    hash = Math.imul(hash, 0x01000193);
  }
  return hash >>> 0;
}

export function stream(seed: number, name: string): Random {
  return seededRandom(hash32(`${seed}/${name}`));
}

export const int = (random: Random, below: number): number => Math.floor(random.next() * below);

export const chance = (random: Random, probability: number): boolean => probability > 0 && random.next() < probability;

/** @throws when there is nothing to pick from */
export function pick<T>(random: Random, list: readonly T[]): T {
  const one = list[int(random, list.length)];
  if (one === undefined) throw new Error('nothing to pick from');
  return one;
}

/** Like `pick`, undefined for an empty list. */
export function pickMaybe<T>(random: Random, list: readonly T[]): T | undefined {
  return list.length === 0 ? undefined : list[int(random, list.length)];
}

/** By weight; undefined when all weights are 0. */
export function weighted<T>(random: Random, list: readonly (readonly [T, number])[]): T | undefined {
  const total = list.reduce((sum, [, weight]) => sum + weight, 0);
  let left = random.next() * total;
  for (const [one, weight] of list) {
    left -= weight;
    if (left < 0) return one;
  }
  return undefined;
}

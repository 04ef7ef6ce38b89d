/**
 * How much of the time the copy has while the guest uses its disk: pure.
 *
 * What copying a byte costs the guest differs from site to site (disk, network, processor); the copy's time does not. With a fifth of the
 * time it takes at most a fifth of whatever both need, so that the guest keeps four fifths, and the installation takes at
 * most five times as long as on an idle machine.
 *
 * Invariant: a fair copy never stands, unless it is bounded at 0.
 */
import type { Environment } from '../../../controller/api/protocol.generated.ts';
import { leastFairShare } from '../port.ts';

export interface PaceInput {
  readonly yielding: Environment['install']['yield'];
  /** Bound that environment or operator set; absent: none. 0 stops the copy. */
  readonly maxRateBytes?: number;
  /** For how long the guest has left its disk alone. */
  readonly quietMs: number;
  /** For how long it has hardly had to wait for its disk. */
  readonly easyMs: number;
}

export interface Pace {
  /** Of the time, in which the copy goes: 0, it stands, to 1. */
  readonly timeShare: number;
  /** While it goes; 0: no bound. */
  readonly bytesPerSecond: number;
}

/** A guest that pauses between two reads is not done yet. */
const quietEnoughMs = 700;
/** A guest that boots reads in bursts, with seconds between them: the copy comes back by and by. */
const easyEnoughMs = { toBegin: 500, toGoOn: 2_000 };
/** A guest that waits for its disk less than this share of the time is not held up by it. */
const waitingShare = 0.1;

export const isHeldUp = (waitedMs: number, elapsedMs: number): boolean => waitedMs > waitingShare * elapsedMs;

function fairShare(easyMs: number): number {
  const { toBegin, toGoOn } = easyEnoughMs;
  const way = Math.min(1, Math.max(0, (easyMs - toBegin) / (toGoOn - toBegin)));
  return leastFairShare + (1 - leastFairShare) * way;
}

export function paceOf({ yielding, maxRateBytes, quietMs, easyMs }: PaceInput): Pace {
  if (maxRateBytes === 0) return { timeShare: 0, bytesPerSecond: 0 };
  const bytesPerSecond = maxRateBytes ?? 0;
  if (yielding === 'Strict') return { timeShare: quietMs < quietEnoughMs ? 0 : 1, bytesPerSecond };
  return { timeShare: yielding === 'Fair' ? fairShare(easyMs) : 1, bytesPerSecond };
}

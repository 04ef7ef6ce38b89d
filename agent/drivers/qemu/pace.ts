/** How fast the copy goes while the guest uses its disk: pure. */
import type { Environment } from '../../../controller/api/protocol.generated.ts';

export interface PaceInput {
  readonly yielding: Environment['install']['yield'];
  /** Bound that environment or operator set; absent: none. 0 stops the copy. */
  readonly maxRateBytes?: number;
  /** What the guest read and wrote since the last look, in bytes a second; 0 when it left its disk alone. */
  readonly guestBytesPerSecond: number;
  /** For how long it has left its disk alone. */
  readonly quietMs: number;
}

export interface Pace {
  readonly isPaused: boolean;
  /** 0: no bound. */
  readonly bytesPerSecond: number;
}

/** A guest that pauses between two reads is not done yet. */
const quietEnoughMs = 700;
/** Below this a share would stop the copy for the sake of a guest that hardly reads. */
const leastShareBytes = 4_000_000;

export function paceOf({ yielding, maxRateBytes, guestBytesPerSecond, quietMs }: PaceInput): Pace {
  if (maxRateBytes === 0) return { isPaused: true, bytesPerSecond: 0 };
  const isBusy = quietMs < quietEnoughMs;
  if (yielding === 'Strict' && isBusy) return { isPaused: true, bytesPerSecond: 0 };
  const free = maxRateBytes ?? 0;
  if (yielding !== 'Fair' || !isBusy) return { isPaused: false, bytesPerSecond: free };
  // Half and half: as much as the guest itself gets.
  const share = Math.max(leastShareBytes, Math.floor(guestBytesPerSecond));
  return { isPaused: false, bytesPerSecond: free === 0 ? share : Math.min(free, share) };
}

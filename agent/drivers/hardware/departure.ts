/**
 * Whether a hypervisor has left, judged from outside: pure.
 *
 * Invariants:
 * 1. Silence proves nothing by itself: it counts only while the machine could be heard (its control port is open) and is on.
 * 2. The VMM's own last word shortens the wait; it is not enough alone.
 */
import type { PowerState } from '../port.ts';

export interface Evidence {
  /** A connection of its boot is there. */
  readonly connected: boolean;
  /** For how long none was. */
  readonly silentMs: number;
  /** LEAVING came. */
  readonly saidSo: boolean;
  readonly power: PowerState;
  /** Every control port was read back in `provisioning`, and was for all the silence. */
  readonly couldSpeak: boolean;
  /** Nobody reads the image, and none is exported. */
  readonly exportClosed: boolean;
  /** Whether its address on the control network answers; undefined: not asked yet. */
  readonly answers: boolean | undefined;
}

export interface DepartureTimes {
  /** Without its last word: longer than the longest pause after which a VMM connects again (30 s). */
  readonly quietMs: number;
  /** After its last word. */
  readonly quietAfterWordMs: number;
}

export const departureTimes: DepartureTimes = { quietMs: 45_000, quietAfterWordMs: 2_000 };

export function hasLeft(evidence: Evidence, times: DepartureTimes): boolean {
  const { connected, silentMs, saidSo, power, couldSpeak, exportClosed, answers } = evidence;
  if (connected || power !== 'On' || !exportClosed) return false;
  if (saidSo) return silentMs >= times.quietAfterWordMs;
  return couldSpeak && answers === false && silentMs >= times.quietMs;
}

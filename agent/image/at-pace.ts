/**
 * What an origin sends, at a least pace: its address is a tenant's word, and a server that sends a byte now and then would hold whoever
 * waits for it, and other tenants' machines with them, for as long as it likes.
 *
 * Invariants:
 * 1. Only the time that the origin takes counts, never that of the reader.
 * 2. An origin below the pace is away: its reader goes on with another one, or tries again.
 */
import type { Clock } from '../../controller/runtime/clock.ts';
import { type Origin, OriginError } from './origin.ts';

/** A lost packet costs seconds, and a server that is restarted some more. */
const graceMs = 30_000;
/** A tenth of a megabit a second: no origin that a guest could boot from is slower. */
const leastBytesASecond = 16_384;

/** As `Origin.read`. @throws OriginError, or the signal's reason */
export async function* readAtPace(
  origin: Origin,
  { offset, length }: { readonly offset: number; readonly length: number },
  clock: Clock,
  signal: AbortSignal,
): AsyncIterable<Buffer> {
  const slow = new AbortController();
  const pieces = origin.read(offset, length, AbortSignal.any([signal, slow.signal]))[Symbol.asyncIterator]();
  const tooSlow = `${origin.address} sends less than ${leastBytesASecond} bytes a second`;
  let leftMs = graceMs;
  try {
    for (;;) {
      const askedAt = clock.monotonic();
      const cancel = clock.setTimer(leftMs, () => slow.abort(new OriginError('Away', tooSlow)));
      const piece = await pieces.next().finally(cancel);
      if (piece.done === true) return;
      const earnedMs = (piece.value.length * 1000) / leastBytesASecond;
      leftMs = Math.max(0, Math.min(graceMs, leftMs - (clock.monotonic() - askedAt) + earnedMs));
      yield piece.value;
    }
  } finally {
    await pieces.return?.();
  }
}

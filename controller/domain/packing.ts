/**
 * Packing into the fewest bins (racks), whole big bins spared.
 *
 * Invariants:
 * 1. The number of bins is the smallest possible.
 * 2. The result depends on the set of bins, not on their order.
 */

/** Something with room in it; names are distinct. */
export interface Bin {
  readonly name: string;
  readonly room: number;
}

/** The smallest first, equal ones by name: the order in which bins are considered. */
const byRoomThenName = (a: Bin, b: Bin): number => a.room - b.room || (a.name < b.name ? -1 : 1);

/** How many bins it takes to hold `count`; undefined when all together cannot. */
export function fewestBins(bins: readonly Bin[], count: number): number | undefined {
  let missing = count;
  let used = 0;
  for (const { room } of bins.toSorted((a, b) => b.room - a.room)) {
    if (missing <= 0) break;
    missing -= room;
    used++;
  }
  return missing <= 0 ? used : undefined;
}

/**
 * Takes `count` out of the fewest bins: of all ways to do so, each time the smallest bin is taken with which the rest still
 * fits. All bins but the last are emptied. Undefined when all together cannot.
 */
export function pack<B extends Bin>(bins: readonly B[], count: number): { bin: B; take: number }[] | undefined {
  let needed = fewestBins(bins, count);
  if (needed === undefined) return undefined;
  const sorted = bins.toSorted(byRoomThenName);
  // largest[k] is the room of the k largest bins together.
  const largest = [0];
  for (const { room } of sorted.toReversed()) largest.push((largest.at(-1) ?? 0) + room);
  const taken: { bin: B; take: number }[] = [];
  let missing = count;
  // One pass is enough: a bin that is taken is no larger than those that were counted on for the rest, so what the next
  // bin must hold at least never falls, and a bin that was too small stays so.
  for (const bin of sorted) {
    if (needed === 0) break;
    if (bin.room < missing - (largest[needed - 1] ?? 0)) continue;
    const take = Math.min(bin.room, missing);
    taken.push({ bin, take });
    missing -= take;
    needed--;
  }
  return taken;
}

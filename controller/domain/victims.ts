/**
 * Scale-down: which nodes an allocation gives back.
 *
 * Order: nodes that its owner named; then failed ones; then those whose work so far is worth least (not started, booting,
 * streaming by bytes, installed, bare metal); then those in racks where the allocation has the fewest nodes, so that the rest
 * stays packed; then by rack and name, the last first.
 *
 * Invariants:
 * 1. Exactly `count` different nodes of `held` are chosen, or all of them where there are fewer.
 * 2. The choice depends on the set of nodes, not on its order.
 */
import type { NodeState } from './states.ts';

/** What the choice is made from; `rack` identifies the rack across sites. */
export interface HeldNode {
  readonly name: string;
  readonly rack: string;
  readonly state: NodeState;
  /** Bytes of the image that are on the local disk. */
  readonly localBytes: number;
  /** Present when the node failed. */
  readonly failure?: unknown;
}

export interface VictimRequest {
  readonly held: readonly HeldNode[];
  /** How many nodes are to go. */
  readonly count: number;
  /** Named by the owner (spec.release); names that are not held do not matter. */
  readonly releaseFirst: ReadonlySet<string>;
}

/** What a node in this state has cost so far, in steps; what the tenant has lost anyway costs nothing. */
const costs: Readonly<Record<NodeState, number>> = {
  Draining: 0,
  Fencing: 0,
  PoweringOff: 0,
  Attesting: 0,
  Wiping: 0,
  Checking: 0,
  Quarantined: 0,
  Maintenance: 0,
  Orphaned: 0,
  Enrolling: 1,
  Available: 1,
  Isolating: 1,
  Booting: 2,
  Streaming: 3,
  Installed: 4,
  Sealing: 4,
  Resident: 4,
  Devirtualizing: 5,
  BareMetal: 5,
};

interface Ranked {
  readonly node: HeldNode;
  /** Lower goes first. */
  readonly ranks: readonly number[];
}

function compare(a: Ranked, b: Ranked): number {
  for (const [i, rank] of a.ranks.entries()) {
    const difference = rank - (b.ranks[i] ?? 0);
    if (difference !== 0) return difference;
  }
  if (a.node.rack !== b.node.rack) return a.node.rack < b.node.rack ? 1 : -1;
  return a.node.name < b.node.name ? 1 : -1;
}

/** The names, the first to go first. */
export function chooseVictims({ held, count, releaseFirst }: VictimRequest): string[] {
  const inRack = new Map<string, number>();
  for (const { rack } of held) inRack.set(rack, (inRack.get(rack) ?? 0) + 1);
  const ranked = held.map((node): Ranked => {
    const named = releaseFirst.has(node.name) ? 0 : 1;
    const cost = node.failure !== undefined ? 0 : costs[node.state];
    const bytes = node.state === 'Streaming' ? node.localBytes : 0;
    return { node, ranks: [named, cost, cost === 0 ? 0 : bytes, inRack.get(node.rack) ?? 0] };
  });
  return ranked
    .sort(compare)
    .slice(0, Math.max(0, count))
    .map(({ node }) => node.name);
}

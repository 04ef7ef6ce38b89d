/**
 * Placement: which free nodes an allocation gets.
 *
 * Policy: as many as asked for, or as many as there are down to the minimum, all or nothing below it; within the fewest sites,
 * there within the fewest racks; racks that the allocation already has nodes in come first; of equally few racks the smallest
 * that hold the rest, so that big free racks stay whole. A topology that is Preferred asks for nothing more than this;
 * Required restricts it to one rack or one site.
 *
 * Invariants:
 * 1. Only free nodes of matching classes that are not to be avoided are chosen, each once.
 * 2. The result has between minReplicas and replicas nodes, or there is none, with a reason for people.
 * 3. The same index and request give the same nodes; ties are broken by name.
 * 4. The cost grows with classes, racks and the nodes of the chosen racks, never with all nodes; `looked` counts it.
 */
import type { NodeAllocationSpec } from '../api/types.generated.ts';
import type { FreeIndex, Location, NodeClass, Rack } from './free-index.ts';
import { type Bin, fewestBins, pack } from './packing.ts';
import { refusal } from './placement-refusal.ts';
import type { Mismatch } from './requirements.ts';

export type Topology = NonNullable<NodeAllocationSpec['placement']['topology']>;

export interface PlacementRequest {
  /** How many nodes more. */
  readonly replicas: number;
  /** Fewer than this many more are not worth having; at least 1 is meant. */
  readonly minReplicas: number;
  readonly mismatch: Mismatch;
  readonly topology?: Topology | undefined;
  /** Where the nodes stand that the allocation already has. */
  readonly held?: readonly Location[];
  /** Free nodes that are not to be chosen now, because they recently failed. The caller bounds how long. */
  readonly avoid?: ReadonlySet<string>;
  /** Matching nodes that are not free, for the reason of a refusal. */
  readonly elsewhere?: { readonly inUse: number; readonly reclaiming: number; readonly heldBack: number };
}

/** How much was looked at. */
export interface Looked {
  readonly classes: number;
  readonly racks: number;
  readonly nodes: number;
}

export interface Placed {
  readonly kind: 'placed';
  /** By rack, then by name. */
  readonly nodes: string[];
  /** Racks and sites of these nodes alone. */
  readonly racks: number;
  readonly sites: number;
  readonly looked: Looked;
}

export interface Refused {
  readonly kind: 'refused';
  /** A sentence for people, without a full stop. */
  readonly reason: string;
  /** The most nodes that the request could be given now; below minReplicas. */
  readonly feasibleNow: number;
  /** The most that it could ever be given; only where that is known: `elsewhere` given and no topology Required. */
  readonly feasibleEver?: number;
  readonly looked: Looked;
}

/** A rack with nodes that match. */
interface Candidate extends Bin {
  readonly rack: Rack;
  /** The allocation already has nodes there. */
  readonly near: boolean;
}

interface Site {
  readonly name: string;
  readonly candidates: Candidate[];
  room: number;
  near: boolean;
}

interface Survey {
  readonly sites: Site[];
  readonly matching: NodeClass[];
  /** Free nodes that will not do, by reason. */
  readonly mismatched: Map<string, number>;
  readonly avoided: number;
  readonly classes: number;
  readonly racks: number;
}

const locationKey = ({ site, rack }: Location): string => JSON.stringify([site, rack]);
const byName = (a: { name: string }, b: { name: string }): number => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
const sum = (bins: readonly { room: number }[]): number => bins.reduce((total, { room }) => total + room, 0);

const largest = (bins: readonly { room: number }[]): number => bins.reduce((most, { room }) => Math.max(most, room), 0);

/** What is free and matches, by site and rack. */
function survey(index: FreeIndex, { mismatch, avoid, held = [] }: PlacementRequest): Survey {
  const mismatched = new Map<string, number>();
  const matching = new Set<NodeClass>();
  const rooms = new Map<Rack, number>();
  let classes = 0;
  let racks = 0;
  for (const nodeClass of index.classes()) {
    classes++;
    const reason = mismatch(nodeClass.facts);
    if (reason !== undefined) {
      mismatched.set(reason, (mismatched.get(reason) ?? 0) + nodeClass.free);
      continue;
    }
    matching.add(nodeClass);
    for (const [rack, names] of nodeClass.racks) {
      racks++;
      rooms.set(rack, (rooms.get(rack) ?? 0) + names.size);
    }
  }
  let avoided = 0;
  for (const name of avoid ?? []) {
    const found = index.find(name);
    if (found === undefined || !matching.has(found.nodeClass)) continue;
    avoided++;
    rooms.set(found.rack, (rooms.get(found.rack) ?? 0) - 1);
  }
  const nearRacks = new Set<string>();
  const nearSites = new Set<string>();
  for (const location of held) {
    nearRacks.add(locationKey(location));
    nearSites.add(location.site);
  }
  const sites = new Map<string, Site>();
  for (const [rack, room] of rooms) {
    if (room === 0) continue;
    const name = locationKey(rack);
    const site = sites.get(rack.site) ?? { name: rack.site, candidates: [], room: 0, near: nearSites.has(rack.site) };
    sites.set(rack.site, site);
    site.candidates.push({ name, rack, room, near: nearRacks.has(name) });
    site.room += room;
  }
  return { sites: [...sites.values()].sort(byName), matching: [...matching], mismatched, avoided, classes, racks };
}

/** Fills the racks that are near first: they cost no further rack. */
function packNearFirst(candidates: readonly Candidate[], count: number): { bin: Candidate; take: number }[] {
  const near = candidates.filter((candidate) => candidate.near);
  const nearCount = Math.min(count, sum(near));
  const far = candidates.filter((candidate) => !candidate.near);
  return [...(pack(near, nearCount) ?? []), ...(pack(far, count - nearCount) ?? [])];
}

/** How many racks more the site's nodes would add. */
function newRacks(site: Site, count: number): number {
  const near = sum(site.candidates.filter((candidate) => candidate.near));
  const far = site.candidates.filter((candidate) => !candidate.near);
  return fewestBins(far, count - Math.min(count, near)) ?? Number.POSITIVE_INFINITY;
}

/** Of the sites that hold `count`, the one with the fewest further racks; then the one with the least room. */
function bestSite(sites: readonly Site[], count: number): Site | undefined {
  let best: { site: Site; racks: number } | undefined;
  for (const site of sites) {
    if (site.room < count) continue;
    const racks = newRacks(site, count);
    if (best === undefined || racks < best.racks || (racks === best.racks && site.room < best.site.room))
      best = { site, racks };
  }
  return best?.site;
}

/** The fewest sites that hold `count` together: those that are near, then the one that holds the rest, else the largest. */
function fewestSites(sites: readonly Site[], count: number): Site[] {
  const near = sites.filter((site) => site.near);
  if (near.length > 0 && sum(near) >= count) return near;
  const chosen = [...near];
  let missing = count - sum(near);
  const others = sites.filter((site) => !site.near).sort((a, b) => b.room - a.room || byName(a, b));
  while (missing > 0 && others.length > 0) {
    const next = bestSite(others, missing) ?? others[0];
    if (next === undefined) break;
    chosen.push(next);
    others.splice(others.indexOf(next), 1);
    missing -= next.room;
  }
  return chosen;
}

/** The one rack to use when all must be in one: the smallest that holds all, else the largest. */
function oneRack(racks: readonly Candidate[], count: number): Candidate | undefined {
  const target = Math.min(count, largest(racks));
  return target === 0 ? undefined : pack(racks, target)?.[0]?.bin;
}

/** The racks that may be used, given the topology. */
function scope(found: Survey, request: PlacementRequest): Candidate[] {
  const { topology, replicas } = request;
  if (topology?.mode !== 'Required')
    return fewestSites(found.sites, Math.min(replicas, sum(found.sites))).flatMap(({ candidates }) => candidates);
  const { held = [] } = request;
  if (topology.level === 'Rack') {
    const all = found.sites.flatMap(({ candidates }) => candidates);
    const rack = oneRack(held.length > 0 ? all.filter(({ near }) => near) : all, replicas);
    return rack === undefined ? [] : [rack];
  }
  const sites = held.length > 0 ? found.sites.filter(({ near }) => near) : found.sites;
  return bestSite(sites, Math.min(replicas, largest(sites)))?.candidates ?? [];
}

/** The first names of the rack that match. */
function namesIn(
  rack: Rack,
  take: number,
  found: Survey,
  request: PlacementRequest,
): { names: string[]; looked: number } {
  const names: string[] = [];
  let looked = 0;
  for (const nodeClass of found.matching) {
    for (const name of nodeClass.racks.get(rack) ?? []) {
      looked++;
      if (!request.avoid?.has(name)) names.push(name);
    }
  }
  return { names: names.sort().slice(0, take), looked };
}

/** Chooses nodes; takes nothing out of the index. */
export function place(index: FreeIndex, request: PlacementRequest): Placed | Refused {
  const found = survey(index, request);
  const looked = { classes: found.classes, racks: found.racks, nodes: 0 };
  const candidates = scope(found, request);
  const count = Math.min(request.replicas, sum(candidates));
  if (count < Math.max(1, request.minReplicas)) {
    const facts = {
      feasibleNow: count,
      free: index.size,
      matching: sum(found.sites),
      mismatched: found.mismatched,
      avoided: found.avoided,
      largestRack: largest(found.sites.flatMap((site) => site.candidates)),
      largestSite: largest(found.sites),
      holdsNodes: (request.held ?? []).length > 0,
    };
    return { kind: 'refused', ...refusal(request, facts), feasibleNow: count, looked };
  }
  const taken = packNearFirst(candidates, count).sort((a, b) => byName(a.bin, b.bin));
  const nodes: string[] = [];
  for (const { bin, take } of taken) {
    const { names, looked: nodesLooked } = namesIn(bin.rack, take, found, request);
    nodes.push(...names);
    looked.nodes += nodesLooked;
  }
  const sites = new Set(taken.map(({ bin }) => bin.rack.site)).size;
  return { kind: 'placed', nodes, racks: taken.length, sites, looked };
}

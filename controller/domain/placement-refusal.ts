/**
 * Why no nodes were chosen, in one sentence that tells a person what stands in the way: too few nodes, nodes of the wrong
 * kind, or nodes in too many places.
 */
import type { PlacementRequest } from './placement.ts';

export interface RefusalFacts {
  readonly feasibleNow: number;
  /** Free nodes of every kind. */
  readonly free: number;
  /** Free nodes that would do. */
  readonly matching: number;
  readonly mismatched: ReadonlyMap<string, number>;
  readonly avoided: number;
  readonly largestRack: number;
  readonly largestSite: number;
  readonly holdsNodes: boolean;
}

/** More reasons than these are summed up: the sentence goes into a condition's message. */
const maxReasons = 3;

const counted = (count: number, word: string): string => `${count} ${word}${count === 1 ? '' : 's'}`;

function mismatches(mismatched: ReadonlyMap<string, number>): string[] {
  const sorted = [...mismatched].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
  const clauses = sorted.slice(0, maxReasons).map(([reason, count]) => `${count} will not do because ${reason}`);
  const rest = sorted.slice(maxReasons).reduce((total, [, count]) => total + count, 0);
  return rest > 0 ? [...clauses, `${rest} will not do for other reasons`] : clauses;
}

function places(
  { topology }: PlacementRequest,
  { largestRack, largestSite, holdsNodes, feasibleNow }: RefusalFacts,
): string[] {
  if (topology?.mode !== 'Required') return [];
  const level = topology.level === 'Rack' ? 'rack' : 'site';
  if (holdsNodes) return [`the ${level} that holds its other nodes has ${feasibleNow}, and one ${level} must hold all`];
  const largest = topology.level === 'Rack' ? largestRack : largestSite;
  return [`the largest ${level} has ${largest}, and one ${level} must hold all`];
}

/** The sentence, and how many nodes there could ever be where that is known. */
export function refusal(request: PlacementRequest, facts: RefusalFacts): { reason: string; feasibleEver?: number } {
  const { replicas, minReplicas, elsewhere, topology } = request;
  const least = minReplicas < replicas ? ` (${Math.max(1, minReplicas)} at least)` : '';
  const clauses = [`${counted(replicas, 'node')}${least} asked for, ${facts.matching} free and matching`];
  if (elsewhere !== undefined) {
    if (elsewhere.inUse > 0) clauses.push(`${elsewhere.inUse} more are in use`);
    if (elsewhere.reclaiming > 0) clauses.push(`${elsewhere.reclaiming} are on their way back`);
    if (elsewhere.heldBack > 0) clauses.push(`${elsewhere.heldBack} are quarantined, orphaned or in maintenance`);
  }
  if (facts.avoided > 0) clauses.push(`${facts.avoided} recently failed and are left alone for now`);
  clauses.push(...places(request, facts));
  if (facts.matching < Math.max(1, minReplicas)) clauses.push(...mismatches(facts.mismatched));
  if (elsewhere === undefined || topology?.mode === 'Required') return { reason: clauses.join('; ') };
  const feasibleEver = facts.matching + facts.avoided + elsewhere.inUse + elsewhere.reclaiming + elsewhere.heldBack;
  if (feasibleEver < minReplicas)
    clauses.push(`waiting will not help: only ${counted(feasibleEver, 'node')} could ever do`);
  return { reason: clauses.join('; '), feasibleEver };
}

/**
 * The hold on mass deletions: an emptied repository or a wrong `kubectl delete --all` waits for a person.
 *
 * Invariants:
 * 1. A deletion is held when a window holds it together with so many others, of so many nodes, that both bounds are passed;
 *    what was confirmed or has ended still counts as one of them, so that confirming some never frees the rest.
 * 2. A hold ends by its own confirmation alone, never by time or by other deletions (given `heldBefore`).
 * 3. What has ended, and what ends no node, is never held.
 */
import { formatDuration } from '../api/duration.ts';
import { confirmDeletionAnnotation } from './allocation-draft.ts';

export interface GuardSettings {
  readonly windowMs: number;
  /** More allocations than this are needed for a hold, ... */
  readonly maxAllocations: number;
  /** ... and more than this share (0 to 1) of the nodes in use. */
  readonly maxShare: number;
}

export const defaultGuardSettings: GuardSettings = { windowMs: 600_000, maxAllocations: 3, maxShare: 0.1 };

export interface Deletion {
  /** UID of the allocation. */
  readonly uid: string;
  /** Epoch milliseconds. */
  readonly deletedAt: number;
  /** Nodes that the allocation had in use when it was deleted. */
  readonly nodesInUse: number;
  readonly confirmed: boolean;
  /** Its end was decided: there is nothing to hold any more. */
  readonly alreadyEnded: boolean;
  /** It was found to be held before, or nobody knows any more that it was not. */
  readonly heldBefore?: boolean;
}

/** Whether this very allocation's deletion was confirmed: a copied annotation confirms nothing. */
export function isDeletionConfirmed(metadata: {
  readonly uid?: string | undefined;
  readonly annotations?: Readonly<Record<string, string | undefined>> | undefined;
}): boolean {
  return metadata.uid !== undefined && metadata.annotations?.[confirmDeletionAnnotation] === metadata.uid;
}

/** A window that passed both bounds. */
interface Mass {
  readonly allocations: number;
  readonly nodes: number;
  readonly base: number;
}

/** The largest such window that each deletion stands in. */
function findMasses(sorted: readonly Deletion[], inUseNow: number, settings: GuardSettings): Map<string, Mass> {
  const masses = new Map<string, Mass>();
  let nodes = 0;
  let ended = 0;
  let first = 0;
  for (const [last, deletion] of sorted.entries()) {
    nodes += deletion.nodesInUse;
    if (deletion.alreadyEnded) ended += deletion.nodesInUse;
    for (let oldest = sorted[first]; oldest && deletion.deletedAt - oldest.deletedAt > settings.windowMs; ) {
      nodes -= oldest.nodesInUse;
      if (oldest.alreadyEnded) ended -= oldest.nodesInUse;
      oldest = sorted[++first];
    }
    const mass = { allocations: last - first + 1, nodes, base: inUseNow + ended };
    if (mass.allocations <= settings.maxAllocations || nodes <= settings.maxShare * mass.base) continue;
    for (const { uid } of sorted.slice(first, last + 1))
      if ((masses.get(uid)?.nodes ?? 0) < nodes) masses.set(uid, mass);
  }
  return masses;
}

function sentence(uid: string, mass: Mass | undefined, { windowMs, maxShare }: GuardSettings): string {
  const how = `to confirm this deletion, set the annotation ${confirmDeletionAnnotation} to ${uid}`;
  if (mass === undefined)
    return `it was, or with its status lost may have been, one of many deletions in a short time; ${how}`;
  const percent = (share: number): string => `${Math.round(share * 1000) / 10} %`;
  return (
    `${mass.allocations} allocations were deleted within ${formatDuration(windowMs)}, with ${mass.nodes} of ${mass.base} nodes in ` +
    `use (${percent(mass.nodes / mass.base)}; ${percent(maxShare)} go without asking); ${how}`
  );
}

/**
 * The deletions that wait for a confirmation, by uid, each with a sentence for people. `inUseNow` counts the nodes in use without
 * those of deletions that already ended.
 */
export function heldDeletions(
  deletions: readonly Deletion[],
  inUseNow: number,
  settings: GuardSettings = defaultGuardSettings,
): Map<string, string> {
  const sorted = deletions.toSorted((a, b) => a.deletedAt - b.deletedAt || (a.uid < b.uid ? -1 : 1));
  const masses = findMasses(sorted, inUseNow, settings);
  const held = new Map<string, string>();
  for (const { uid, confirmed, alreadyEnded, nodesInUse, heldBefore } of sorted) {
    if (confirmed || alreadyEnded || nodesInUse === 0) continue;
    const mass = masses.get(uid);
    if (mass !== undefined || heldBefore) held.set(uid, sentence(uid, mass, settings));
  }
  return held;
}

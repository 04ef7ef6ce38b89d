/**
 * What may be deleted because it left the repository. Pure.
 *
 * Invariants:
 * 1. Only what the inventory says was applied, with the uid that was applied, is ever in `prune`.
 * 2. What a file names, validly or not, and what a file that now fails once defined, is kept.
 * 3. While new content hides which objects it defines, nothing is pruned: an object may have moved there.
 * 4. A path that names nothing any more, a rewritten branch, and the loss of a large share wait for a person. Such a hold
 *    ends by a confirmation, or when the object is defined again, and never by what else the repository says later.
 * 5. A Namespace is never pruned: others' objects would go with it.
 */
import type { DesiredState } from './desired.ts';
import type { Inventory, InventoryEntry } from './inventory.ts';
import type { History } from './source.ts';

export interface PruneSettings {
  /** More than this share of the inventory at once waits for a confirmation. */
  readonly largestShare: number;
  /** Fewer than this many never wait for the share's sake. */
  readonly smallestHeld: number;
}

/** Half of everything at once is more likely a mistake than a wish; three objects are a common commit. */
export const defaultPruneSettings: PruneSettings = { largestShare: 0.5, smallestHeld: 4 };

export interface PruneInput {
  readonly inventory: Inventory;
  readonly desired: Pick<DesiredState, 'valid' | 'named' | 'failing' | 'unread'>;
  readonly history: History;
  readonly commit: string;
  /** The commit that a person named, whole or at least its first seven digits. */
  readonly confirmed: string | undefined;
  readonly settings: PruneSettings;
}

export interface PrunePlan {
  readonly prune: readonly InventoryEntry[];
  /** Forgotten without being deleted. */
  readonly release: readonly InventoryEntry[];
  /** Missing, but kept because a file cannot be read; `held` where they would wait as well. */
  readonly kept: readonly InventoryEntry[];
  /** Missing, and waiting for a confirmation; all of them `held`, to be remembered so. */
  readonly waiting: readonly InventoryEntry[];
  /** Why `kept` is not empty. */
  readonly keptReason: string | undefined;
  /** Why `waiting` is not empty. */
  readonly waitingReason: string | undefined;
  /** Unread content that was already so when everything in the inventory was last accounted for, or that hides only what it defined before. */
  readonly unread: Readonly<Record<string, string>>;
}

/** Whether the entry's file, or a directory around it, is one of those. */
function isBelow(file: string, paths: ReadonlySet<string>): boolean {
  if (paths.has(file)) return true;
  for (let at = file.lastIndexOf('/'); at > 0; at = file.lastIndexOf('/', at - 1)) {
    if (paths.has(file.slice(0, at))) return true;
  }
  return false;
}

export function isConfirmed(confirmed: string | undefined, commit: string): boolean {
  return confirmed !== undefined && confirmed.length >= 7 && commit.startsWith(confirmed);
}

export function planPrune(input: PruneInput): PrunePlan {
  const { inventory, desired, history, commit, confirmed, settings } = input;
  const isAllowed = isConfirmed(confirmed, commit);
  const isRewritten = isRewriting(history);
  const held = (entry: InventoryEntry): InventoryEntry => ({ ...entry, held: true });
  /** What is missing on a rewritten branch may stand in the commits that were cut off. */
  const keptOf = (entries: readonly InventoryEntry[]): InventoryEntry[] =>
    isRewritten && !isAllowed ? entries.map(held) : [...entries];

  const missing = inventory.entries.filter((entry) => !desired.valid.has(entry.key) && !desired.named.has(entry.key));
  const failing = missing.filter((entry) => isBelow(entry.file, desired.failing));
  const gone = missing.filter((entry) => !failing.includes(entry));
  const release = gone.filter((entry) => entry.group === '' && entry.kind === 'Namespace');
  const candidates = gone.filter((entry) => !release.includes(entry));
  const unreadNow = Object.fromEntries(desired.unread);
  const kept = keptOf(failing);
  const keptReason = kept.length === 0 ? undefined : 'objects of files with errors keep their last good state';
  const reasons = { keptReason, waitingReason: undefined };
  const plan = { prune: [], release, kept, waiting: [], unread: unreadNow, ...reasons };
  if (candidates.length === 0) return { ...plan, unread: accountedFor(unreadNow, inventory, kept) };

  const suspects = Object.entries(unreadNow).filter(([path, id]) => inventory.unread[path] !== id);
  if (suspects.length > 0) {
    const names = suspects.map(([path]) => path).slice(0, 3);
    const why = `nothing is pruned until ${names.join(', ')} can be read: removed objects may have moved there`;
    const all = keptOf([...failing, ...gone]);
    return { ...plan, release: [], kept: all, keptReason: why, unread: inventory.unread };
  }
  if (isAllowed) return { ...plan, prune: candidates };
  const alarm = alarmOf(candidates.length, inventory.entries.length, desired, isRewritten, settings);
  if (alarm !== undefined) return { ...plan, release: [], waiting: gone.map(held), waitingReason: alarm };
  const waiting = candidates.filter((entry) => entry.held);
  const waitingReason = waiting.length > 0 ? 'they wait since an earlier commit, and nobody confirmed it' : undefined;
  return { ...plan, prune: candidates.filter((entry) => !entry.held), waiting, waitingReason };
}

/** Whether the branch does not lead on from what was applied last. */
export const isRewriting = (history: History): boolean => history === 'Rewritten' || history === 'Unrelated';

/** What is kept may have moved into unread content that is new, unless it is the file in which it stood. */
function accountedFor(
  unreadNow: Readonly<Record<string, string>>,
  inventory: Inventory,
  kept: readonly InventoryEntry[],
): Record<string, string> {
  const known = Object.entries(unreadNow).filter(
    ([path, id]) => inventory.unread[path] === id || kept.every((entry) => isBelow(entry.file, new Set([path]))),
  );
  return Object.fromEntries(known);
}

function alarmOf(
  candidates: number,
  total: number,
  desired: PruneInput['desired'],
  isRewritten: boolean,
  settings: PruneSettings,
): string | undefined {
  if (desired.valid.size + desired.named.size === 0) return 'the path defines no objects any more';
  if (isRewritten) return 'the branch was rewritten';
  if (candidates >= settings.smallestHeld && candidates > total * settings.largestShare) {
    return `${candidates} of ${total} objects left the repository at once`;
  }
  return undefined;
}

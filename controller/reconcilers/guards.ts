/**
 * The two bounds on what happens without a person: mass deletions wait for a confirmation, and automatic failure handling
 * touches at most a share of the nodes in a time (rule 9).
 *
 * Invariants:
 * 1. A deletion that was held stays held over a restart of the operator, and when records of its nodes are taken away: its condition
 *    remembers it, for as long as it lists a node. Where its status is taken away as well, this process remembers it, and those that it was
 *    deleted together with count for as long as one of them waits. A process that first sees a deletion without a status takes it for held.
 * 2. An allocation counts among the deletions of its window also when its object is gone already, after a restart too: its nodes say
 *    whose they were, by a claim that nobody ended, on their way back by their ends and then, until they are released again, by what they
 *    were released from.
 * 3. What an operator before this one handled as failed still counts: nodes and allocations say which and since when.
 */
import { parseHostlist } from '../api/hostlist.ts';
import type { NodeAllocation, PhysicalNode } from '../api/types.generated.ts';
import { admitBlast, type BlastSettings, type BlastState, blastBudget } from '../domain/blast.ts';
import {
  type Deletion,
  type GuardSettings as DeletionSettings,
  heldDeletions,
  isDeletionConfirmed,
} from '../domain/deletion-guard.ts';
import { knownEpoch } from '../domain/node-conflicts.ts';
import { failedBeforeUse } from '../domain/node-reclaim.ts';
import { isByPerson } from '../domain/node-records.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Guards } from './allocation.ts';
import type { Fleet } from './fleet.ts';
import { anyAllocation, byUse } from './indexes.ts';

type Owner = NonNullable<NonNullable<PhysicalNode['status']>['claim']>['allocation'];

export interface GuardSettings {
  readonly deletions: DeletionSettings;
  readonly blast: BlastSettings;
}

/**
 * Nodes that were handled as failed before this process began, to the time (epoch ms) at which, or before which, they were. Where no
 * record says when, it was just now. A person who ended a node most likely ended one that had failed, and its record says no more of that;
 * and where an agent knows of a newer epoch, the records here were lost, with all that they said of it.
 */
function recallBlast(fleet: Fleet, nowMs: number): BlastState {
  const handled = new Map<string, number>();
  const note = (name: string, at: string | undefined): void => {
    const time = at === undefined ? nowMs : Math.min(nowMs, Date.parse(at));
    handled.set(name, Math.max(time, handled.get(name) ?? time));
  };
  for (const { metadata, status } of fleet.nodes.values()) {
    const { end } = status ?? {};
    if (end !== undefined && (end.reason === failedBeforeUse || isByPerson(end))) note(metadata.name, end.at);
    else if (status?.lastError?.code === failedBeforeUse) note(metadata.name, status.stateSince);
    if (knownEpoch({}, fleet.lastFactsOf(metadata.name)) > (status?.epoch ?? 0)) note(metadata.name, undefined);
  }
  for (const { metadata, status } of fleet.allocations.values()) {
    for (const name of status?.replaced ? parseHostlist(status.replaced) : []) {
      const node = fleet.nodes.getByKey(name)?.status;
      note(name, node?.state === 'Quarantined' ? node.stateSince : undefined);
    }
    if (metadata.deletionTimestamp !== undefined) continue;
    for (const { reason, nodes, decidedAt } of status?.ending ?? [])
      if (reason === 'Released') for (const name of parseHostlist(nodes)) note(name, decidedAt);
  }
  return handled;
}

/** Of deletions that are over, those count that are of the last window, or of that of one which still waits. */
function forgetOver(seen: Map<string, Deletion>, present: ReadonlySet<string>, nowMs: number, windowMs: number): void {
  const waiting = [...seen.values()].filter(({ uid, alreadyEnded }) => present.has(uid) && !alreadyEnded);
  for (const { uid, deletedAt } of seen.values()) {
    const isNear = (atMs: number): boolean => Math.abs(atMs - deletedAt) <= windowMs;
    if (!present.has(uid) && !isNear(nowMs) && !waiting.some((one) => isNear(one.deletedAt))) seen.delete(uid);
  }
}

/** Whether the guest of the allocation may run on the node although no record here says so. */
const mayRunUnclaimed = (fleet: Fleet, uid: string, name: string): boolean =>
  fleet.stateOf(name) === 'Orphaned' && fleet.nodes.getByKey(name)?.status?.claim?.allocation.uid !== uid;

/** Deletions that an operator before this one let go, by uid. A scale-down or an expiry has another reason than a deletion. */
function recallDeletions(fleet: Fleet, nowMs: number): Map<string, Deletion> {
  const recalled = new Map<string, Deletion>();
  const note = ({ uid, namespace, name }: Owner, at: string | undefined, ended: number): void => {
    const owner = fleet.allocations.getByKey(`${namespace}/${name}`)?.metadata;
    // A node that failed to start was given back by an allocation that goes on.
    if (owner?.uid === uid && owner.deletionTimestamp === undefined) return;
    const known = recalled.get(uid);
    const nodesInUse = (known?.nodesInUse ?? fleet.nodes.countByIndex(byUse, uid)) + ended;
    const time = at === undefined ? nowMs : Date.parse(at);
    const deletedAt = Math.min(known?.deletedAt ?? Number.POSITIVE_INFINITY, time);
    recalled.set(uid, { uid, deletedAt, nodesInUse, confirmed: false, alreadyEnded: true });
  };
  for (const { status } of fleet.nodes.values()) {
    const { claim, end, released, state, stateSince } = status ?? {};
    const last = claim && end ? { allocation: claim.allocation, ...end } : released;
    if (last?.reason === 'Released' && last.at !== undefined) note(last.allocation, last.at, 1);
    // An object that was forced away may have been deleted with others before: when, only its being missed says.
    if (claim && !end) note(claim.allocation, state === 'Orphaned' ? stateSince : undefined, 0);
  }
  return recalled;
}

export function createGuards(fleet: Fleet, clock: Clock, settings: GuardSettings): Guards {
  let blast: BlastState | undefined;
  const seen = new Map<string, Deletion>();

  const deletionOf = (allocation: NodeAllocation): Deletion => {
    const { uid = '', deletionTimestamp = '' } = allocation.metadata;
    const inUse = fleet.nodes.countByIndex(byUse, uid);
    const isShown = allocation.status?.conditions?.some((condition) => condition.reason === 'DeletionHeld') ?? false;
    // Whoever claimed a node has conditions. One without lost its status, and nobody can say any more that it was not held.
    const heldBefore = isShown || (seen.get(uid)?.heldBefore ?? allocation.status?.conditions === undefined);
    const names = allocation.status?.nodes ? parseHostlist(allocation.status.nodes) : [];
    // A record that was taken away ends no hold: the guest may run on, and its claim come back with a backup.
    const listed = heldBefore ? names.length : inUse + names.filter((name) => mayRunUnclaimed(fleet, uid, name)).length;
    const ended = (allocation.status?.ending ?? []).length > 0 || (inUse === 0 && listed === 0);
    const nodesInUse = Math.max(inUse, listed, seen.get(uid)?.nodesInUse ?? 0);
    return {
      uid,
      deletedAt: Date.parse(deletionTimestamp),
      // What is retained ends no node.
      nodesInUse: allocation.spec.deletionPolicy === 'Retain' ? 0 : nodesInUse,
      confirmed: isDeletionConfirmed(allocation.metadata),
      alreadyEnded: ended,
      heldBefore,
    };
  };

  let recalled = false;

  const blastNow = (): BlastState => {
    blast ??= recallBlast(fleet, clock.now());
    return blast;
  };

  return {
    deletionHeld(allocation) {
      const now = clock.now();
      if (!recalled) for (const [uid, deletion] of recallDeletions(fleet, now)) seen.set(uid, deletion);
      recalled = true;
      const present = new Set<string>();
      for (const candidate of fleet.allocations.values()) {
        if (candidate.metadata.deletionTimestamp === undefined) continue;
        const deletion = deletionOf(candidate);
        present.add(deletion.uid);
        seen.set(deletion.uid, deletion);
      }
      forgetOver(seen, present, now, settings.deletions.windowMs);
      const deletions = [...seen.values()].map((deletion) =>
        present.has(deletion.uid) ? deletion : { ...deletion, alreadyEnded: true },
      );
      const inUse = fleet.nodes.countByIndex(byUse, anyAllocation);
      const held = heldDeletions(deletions, inUse, settings.deletions);
      for (const deletion of deletions)
        if (held.has(deletion.uid)) seen.set(deletion.uid, { ...deletion, heldBefore: true });
      return held.get(allocation.metadata.uid ?? '');
    },
    blastBudget: () => blastBudget(blastNow(), fleet.nodes.size, clock.now(), settings.blast),
    blastUsed(nodes) {
      for (const node of nodes) {
        blast = admitBlast(
          blastNow(),
          { node, totalNodes: fleet.nodes.size, nowMs: clock.now() },
          settings.blast,
        ).state;
      }
    },
  };
}

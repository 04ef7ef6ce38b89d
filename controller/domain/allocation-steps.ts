/**
 * The steps of deciding an allocation, in the order in which decideAllocation takes them. Each changes the draft alone.
 *
 * Invariants:
 * 1. A step that ends nodes does so through `endNodes`, with the reason that its owner will read.
 * 2. While the allocation is closing (deleted, expired) no step takes a new node.
 */
import { parseDuration } from '../api/duration.ts';
import { HostlistError, parseHostlist } from '../api/hostlist.ts';
import type { NodeAllocationSpec } from '../api/types.generated.ts';
import { allocationFinalizer, type Draft, endNodes, lookAgain, type MemberView } from './allocation-draft.ts';

const iso = (ms: number): string => `${new Date(ms).toISOString().slice(0, 19)}Z`;

/** Takes back what belongs to this allocation and is not listed; lets go of what never became its own, or is gone. */
export function healStep(draft: Draft): void {
  const { input } = draft;
  for (const [reason, names] of draft.ending) {
    // Once the node's own record says that it ends, the list has done its work: the rest is the node's.
    for (const name of names) {
      const view = input.member(name);
      if (view.claimed ? view.endRecorded : !view.claiming) names.delete(name);
    }
    if (names.size === 0) draft.ending.delete(reason);
  }
  const listed = (name: string): boolean =>
    draft.nodes.has(name) || draft.replaced.has(name) || [...draft.ending.values()].some((names) => names.has(name));
  for (const name of input.claimed) {
    if (!listed(name) && !input.member(name).endRecorded) draft.nodes.add(name);
  }
  for (const name of draft.nodes) {
    const view = input.member(name);
    if (view.claimed && view.endRecorded) draft.nodes.delete(name);
    else if (!view.claimed && view.unavailable && !isOrphanOfOurs(draft, name) && !mayBeOurs(draft, view))
      draft.nodes.delete(name);
  }
  for (const name of draft.replaced)
    if (!input.member(name).claimed || input.member(name).endRecorded) draft.replaced.delete(name);
  for (const name of draft.updating) if (!draft.nodes.has(name)) draft.updating.delete(name);
}

/**
 * An orphaned node may run this tenant's guest, its claim lost: it keeps its place until a person decides. Of an allocation that ends
 * that holds for whatever nobody knows to be clean or another's: nothing stands in for it any more, and its tenant was promised the grace.
 */
function mayBeOurs({ input, before }: Draft, { state, endRecorded }: MemberView): boolean {
  if (state === 'Orphaned') return true;
  const isEnding = input.allocation.metadata.deletionTimestamp !== undefined || before.ends !== undefined;
  return isEnding && !endRecorded && (state === 'Enrolling' || state === 'Quarantined');
}

const isOrphanOfOurs = (draft: Draft, name: string): boolean =>
  draft.input.orphans.some((orphan) => orphan.name === name && orphan.revision === draft.status.revision);

/** Deletion and expiry: first the grace, then the end of every node. */
export function endStep(draft: Draft): void {
  const { allocation, nowMs, deletionHeld } = draft.input;
  const { spec, metadata } = allocation;
  const graceMs = parseDuration(spec.reclaim.gracePeriod);
  const deletedAt = metadata.deletionTimestamp === undefined ? undefined : Date.parse(metadata.deletionTimestamp);
  if (deletedAt !== undefined) {
    draft.closing = true;
    if (spec.deletionPolicy === 'Retain') return;
    if (deletionHeld !== undefined) {
      draft.waiting = { reason: 'DeletionHeld', message: deletionHeld };
      delete draft.status.ends;
      return;
    }
    draft.status.ends = { reason: 'Deleted', at: iso(Math.max(deletedAt, heldUntil(draft) ?? deletedAt) + graceMs) };
    if (nowMs >= Date.parse(draft.status.ends.at ?? '') || nothingStarted(draft)) {
      endNodes(draft, [...draft.nodes, ...draft.replaced], 'Released');
    } else lookAgain(draft, Date.parse(draft.status.ends.at ?? '') - nowMs);
    return;
  }
  setWindowEnd(draft, spec);
  const end = draft.status.window?.end;
  if (end === undefined) {
    delete draft.status.ends;
    return;
  }
  const endMs = Date.parse(end);
  const overMs = endMs + graceMs;
  if (nowMs < endMs) {
    delete draft.status.ends;
    lookAgain(draft, endMs - nowMs);
    return;
  }
  draft.closing = true;
  draft.status.ends = { reason: 'Expired', at: iso(overMs) };
  if (nowMs >= overMs || nothingStarted(draft)) endNodes(draft, [...draft.nodes, ...draft.replaced], 'Expired');
  else lookAgain(draft, overMs - nowMs);
}

/** A deletion that was held and then confirmed gets its whole grace from the moment at which the hold ended. */
function heldUntil(draft: Draft): number | undefined {
  const { ends } = draft.before;
  if (ends?.reason === 'Deleted' && ends.at !== undefined) {
    return Date.parse(ends.at) - parseDuration(draft.input.allocation.spec.reclaim.gracePeriod);
  }
  const wasHeld = draft.before.conditions?.some((condition) => condition.reason === 'DeletionHeld');
  return wasHeld ? draft.input.nowMs : undefined;
}

const nothingStarted = (draft: Draft): boolean =>
  [...draft.nodes, ...draft.replaced].every((name) => {
    const view = draft.input.member(name);
    // One whose claim was lost, or whose agent is not heard, may run this tenant's guest: its tenant keeps the grace period.
    if (!view.claimed) return view.state === 'Available' || view.state === 'Maintenance';
    return view.reachable && !view.guestStarted && view.state === 'Isolating';
  });

function setWindowEnd(draft: Draft, spec: NodeAllocationSpec): void {
  const { window } = draft.status;
  if (window?.start === undefined) return;
  const { end: _old, ...rest } = window;
  const duration = spec.schedule?.duration;
  draft.status.window =
    duration === undefined ? rest : { ...rest, end: iso(Date.parse(window.start) + parseDuration(duration)) };
}

export function acceptStep(draft: Draft): void {
  const { allocation, environment } = draft.input;
  if (draft.closing) return;
  if (allocation.spec.release !== undefined) {
    try {
      parseHostlist(allocation.spec.release);
    } catch (error) {
      const why = error instanceof HostlistError ? error.message : String(error);
      draft.accepted = { ok: false, reason: 'InvalidHostlist', message: `spec.release: ${why}` };
    }
  }
  if (environment.kind === 'unusable') {
    // Nodes that already run have their own copy of the definition and do not need the object.
    if (draft.status.environment === undefined) {
      draft.accepted = { ok: false, reason: environment.reason, message: environment.message };
    }
    return;
  }
  if (allocation.spec.devirtualize === 'WhenInstalled' && environment.spec.vmm.dataPorts === 'Mediated') {
    draft.accepted = {
      ok: false,
      reason: 'CannotDevirtualize',
      message: `environment ${allocation.spec.environmentRef.name} mediates the data ports (vmm.dataPorts: Mediated): they would vanish with the hypervisor; use Passthrough, or devirtualize: Never`,
    };
  }
}

/** A revision other than the environment's that a node of the allocation runs. */
function claimedRevision(draft: Draft, current: string): string | undefined {
  for (const name of draft.nodes) {
    const view = draft.input.member(name);
    if (view.claimed && view.revision !== undefined && view.revision !== current) return view.revision;
  }
  return undefined;
}

/** Whether the owner says that nodes in use are re-imaged to the revision in force: where records were lost, it may be in force unasked. */
export const isUpdateAsked = ({ input, status }: Draft): boolean => {
  const { policy, revision } = input.allocation.spec.update;
  return policy === 'Rolling' || revision === status.revision;
};

/** Which revision is in force, which nodes may be re-imaged to it now. */
export function updateStep(draft: Draft): void {
  const { allocation, environment } = draft.input;
  if (environment.kind === 'usable' && !draft.closing) {
    const inForce = draft.status.environment?.revision;
    const { policy, revision: asked } = allocation.spec.update;
    const wanted = policy === 'Rolling' || asked === environment.revision || draft.nodes.size === 0;
    const lost = inForce === undefined && !wanted ? claimedRevision(draft, environment.revision) : undefined;
    if (lost !== undefined) {
      draft.accepted = {
        ok: false,
        reason: 'DefinitionLost',
        message: `its nodes run revision ${lost}, status no longer says what that is, and the environment is at ${environment.revision}; give the environment its old definition back, or set spec.update.revision to re-image`,
      };
    } else if (inForce === undefined || (inForce !== environment.revision && wanted && draft.accepted.ok)) {
      if (draft.accepted.ok) {
        draft.status.environment = { revision: environment.revision, definition: environment.definition };
        draft.status.revision = environment.revision;
      }
    }
    if (draft.status.revision !== undefined && draft.status.revision !== environment.revision) {
      draft.status.updateRevision = environment.revision;
    } else delete draft.status.updateRevision;
  }
  const views = [...draft.nodes].map(draft.input.member);
  const isAsked = isUpdateAsked(draft);
  const outdated = views.filter(
    (view) => view.claimed && view.revision !== draft.status.revision && (isAsked || !view.guestStarted),
  );
  for (const name of draft.updating) {
    const view = draft.input.member(name);
    if (view.revision === draft.status.revision && view.ready) draft.updating.delete(name);
  }
  if (draft.closing) draft.updating.clear();
  if (draft.status.revision === undefined) return;
  if (outdated.length === 0 || draft.closing || allocation.spec.suspend) return;
  rollStep(draft, views, outdated);
}

/**
 * A guest that runs on where an update of its node began and did not come to re-image it: with the revision in force changed meanwhile and
 * the list of what is updated lost, nothing else moves it. It is taken down as one that is ready is.
 */
const isHalfUpdated = ({ ready, down, reachable, state }: MemberView): boolean =>
  !ready && !down && reachable && state === 'Booting';

/** Of the outdated nodes, those that are re-imaged now. */
function rollStep(draft: Draft, views: readonly MemberView[], outdated: readonly MemberView[]): void {
  const runs = new Set(outdated.filter((view) => view.ready || isHalfUpdated(view)));
  // A node that does not run for whatever reason counts: an update never takes more from the tenant than it allowed.
  const down = views.filter((view) => !view.ready && !runs.has(view) && !draft.updating.has(view.name)).length;
  let room = draft.input.allocation.spec.update.maxUnavailable - draft.updating.size - down;
  const order = [...outdated].sort((a, b) => Number(a.ready) - Number(b.ready) || (a.name < b.name ? -1 : 1));
  for (const view of order) {
    if (draft.updating.has(view.name)) continue;
    if (!runs.has(view) && !view.down) continue;
    if (runs.has(view) && room <= 0) continue;
    if (runs.has(view)) room--;
    draft.updating.add(view.name);
  }
}

const unheardAgainMs = 30_000;

/** Scale-down and failures: who leaves. */
export function shrinkStep(draft: Draft): void {
  const { input } = draft;
  if (draft.closing) return;
  let budget = input.blastBudget;
  const views = [...draft.nodes].map(input.member);
  for (const view of views.filter((candidate) => candidate.claimed && candidate.failure !== undefined)) {
    const beforeUse = !view.guestStarted;
    const replace = beforeUse || input.allocation.spec.failurePolicy === 'Replace';
    if (!replace) continue;
    // What its agent said last is old: the machine may have booted since, and an end would wipe what its guest wrote.
    if (beforeUse && !view.reachable) {
      lookAgain(draft, unheardAgainMs);
      continue;
    }
    if (budget <= 0) {
      draft.waiting = {
        reason: 'TooManyFailures',
        message:
          'more nodes failed in a short time than are handled automatically; look at them, the operator goes on by itself later',
      };
      lookAgain(draft, 60_000);
      break;
    }
    budget--;
    draft.blastUsed.push(view.name);
    if (beforeUse) endNodes(draft, [view.name], 'Released');
    else {
      draft.nodes.delete(view.name);
      draft.replaced.add(view.name);
    }
    const how = beforeUse
      ? 'before it was in use; another takes its place'
      : 'in use; fenced with its disk kept, another stands in';
    draft.events.push({
      type: 'Warning',
      reason: 'NodeFailed',
      message: `${view.name} failed ${how}: ${view.failure?.message}`,
    });
  }
  const excess = draft.nodes.size - input.allocation.spec.replicas;
  if (excess <= 0) return;
  const first = new Set(
    draft.accepted.ok && input.allocation.spec.release ? parseHostlist(input.allocation.spec.release) : [],
  );
  const held: MemberView[] = [...draft.nodes].map(input.member);
  const victims = input.chooseVictims(held, excess, first);
  const unclaimed = victims.filter((name) => !input.member(name).claimed);
  for (const name of unclaimed) draft.nodes.delete(name);
  endNodes(
    draft,
    victims.filter((name) => input.member(name).claimed),
    'ScaledDown',
  );
  draft.events.push({
    type: 'Normal',
    reason: 'ScaledDown',
    message: `${victims.length} ${victims.length === 1 ? 'node is' : 'nodes are'} given back`,
  });
}

/** Placement: all or nothing down to minReplicas at first; later whatever is missing, as it becomes free. */
export function growStep(draft: Draft): void {
  const { input } = draft;
  const { spec, metadata } = input.allocation;
  if (draft.closing || !draft.accepted.ok) return;
  const { revision, environment } = draft.status;
  for (const orphan of input.orphans) {
    const isFree = draft.nodes.size < spec.replicas && !draft.nodes.has(orphan.name);
    if (isFree && revision !== undefined && orphan.revision === revision) draft.nodes.add(orphan.name);
  }
  const missing = spec.replicas - draft.nodes.size;
  if (missing <= 0 || environment === undefined) return;
  if (spec.suspend) {
    draft.waiting = { reason: 'Suspended', message: 'spec.suspend holds back what has not started' };
    return;
  }
  // The finalizer stands before the first node is committed, so that no claim can lose its owner unseen.
  if (!metadata.finalizers?.includes(allocationFinalizer)) return;
  const least = spec.minReplicas ?? spec.replicas;
  const minimum = draft.nodes.size >= least ? 1 : least - draft.nodes.size;
  const result = input.place({
    replicas: missing,
    minReplicas: minimum,
    held: [...draft.nodes],
    definition: environment.definition,
  });
  if (result.kind === 'refused') {
    draft.waiting = { reason: 'Unschedulable', message: result.reason };
    return;
  }
  if (result.scattered && waitsForArrivals(draft)) return;
  for (const name of result.nodes) draft.nodes.add(name);
  const racks = new Set([...draft.nodes].map((name) => input.member(name).rack)).size;
  draft.status.placement = {
    racks,
    message: `${draft.nodes.size} node${draft.nodes.size === 1 ? '' : 's'} in ${racks} rack${racks === 1 ? '' : 's'}`,
  };
  if (draft.status.window?.start === undefined) draft.status.window = { ...draft.status.window, start: draft.nowIso };
  setWindowEnd(draft, spec);
  const end = draft.status.window?.end;
  if (end !== undefined) lookAgain(draft, Date.parse(end) - input.nowMs);
  draft.events.push({
    type: 'Normal',
    reason: 'Scheduled',
    message: `${result.nodes.length} node${result.nodes.length === 1 ? '' : 's'} chosen: ${draft.status.placement.message}`,
  });
}

/**
 * While a room is being brought in, its nodes become free one by one, and whoever took the first of them would be scattered
 * over its racks. Bounded, because a rack may take hours: about the time in which a machine is attested, wiped quickly and checked.
 */
const arrivalPatienceMs = 180_000;

function waitsForArrivals(draft: Draft): boolean {
  const { arriving, nowMs, allocation } = draft.input;
  const waitedMs = nowMs - Date.parse(allocation.metadata.creationTimestamp ?? draft.nowIso);
  if (arriving === 0 || draft.nodes.size > 0 || waitedMs >= arrivalPatienceMs) return false;
  const message = `${arriving} nodes are on their first way in; waits up to ${arrivalPatienceMs / 1000} s for them, to be placed in few racks`;
  draft.waiting = { reason: 'NodesArriving', message };
  lookAgain(draft, arrivalPatienceMs - waitedMs);
  return true;
}

/**
 * Counts, conditions and phase of an allocation, from its draft. Read by people, kubectl wait, kstatus, Flux and Argo CD:
 * Ready says that the tenant can work, Reconciling that the operator still does, Stalled that somebody must act.
 *
 * Invariant: no condition is decided from another or from phase, only from the draft and the nodes.
 */
import type { Condition } from '../api/meta.ts';
import type { NodeAllocationStatus } from '../api/types.generated.ts';
import type { Draft, MemberView } from './allocation-draft.ts';
import { isUpdateAsked } from './allocation-steps.ts';
import { setCondition } from './conditions.ts';

/** A selector that matches no object: the scale subresource wants one, and the nodes are not pods. */
const selectsNothing = 'bitvisor.io/nothing=selected';

interface Tally {
  views: MemberView[];
  isolated: number;
  ready: number;
  installed: number;
  devirtualized: number;
  failed: number;
  localBytes: number;
  totalBytes: number;
}

function tally(draft: Draft): Tally {
  const sum: Tally = {
    views: [],
    isolated: 0,
    ready: 0,
    installed: 0,
    devirtualized: 0,
    failed: 0,
    localBytes: 0,
    totalBytes: 0,
  };
  for (const name of draft.nodes) {
    const view = draft.input.member(name);
    sum.views.push(view);
    if (!view.claimed) continue;
    if (view.isolated) sum.isolated++;
    if (view.ready) sum.ready++;
    if (view.installed) sum.installed++;
    if (view.devirtualized) sum.devirtualized++;
    if (view.failure !== undefined && view.guestStarted) sum.failed++;
    sum.localBytes += view.localBytes;
    sum.totalBytes += view.totalBytes;
  }
  sum.failed += draft.replaced.size;
  return sum;
}

type Truth = Pick<Condition, 'status' | 'reason' | 'message'>;
const yes = (reason: string, message: string): Truth => ({ status: 'True', reason, message });
const no = (reason: string, message: string): Truth => ({ status: 'False', reason, message });

export function reportAllocation(draft: Draft): void {
  const { status, input } = draft;
  const { spec, metadata } = input.allocation;
  const sum = tally(draft);
  status.selector = selectsNothing;
  if (metadata.generation !== undefined) status.observedGeneration = metadata.generation;
  status.replicas = draft.nodes.size;
  status.ready = sum.ready;
  status.installed = sum.installed;
  status.devirtualized = sum.devirtualized;
  status.failed = sum.failed;
  if (sum.totalBytes > 0) status.bytes = { installed: sum.localBytes, total: sum.totalBytes };
  else delete status.bytes;
  const truths = conditionsOf(draft, sum);
  let conditions: Condition[] = draft.before.conditions ?? [];
  for (const [type, truth] of Object.entries(truths)) {
    conditions = setCondition(conditions, { type, ...truth }, draft.nowIso, metadata.generation ?? 0);
  }
  status.conditions = conditions;
  status.phase = phaseOf(draft, status, sum, spec.replicas);
}

function conditionsOf(draft: Draft, sum: Tally): Record<string, Truth> {
  const { status, input, accepted, waiting } = draft;
  const { spec } = input.allocation;
  const wanted = spec.replicas;
  const least = spec.minReplicas ?? wanted;
  const count = (value: number): string => `${value} of ${wanted} nodes`;
  const committed = draft.nodes.size;
  const trouble = sum.views.find((view) => view.imageTrouble !== undefined)?.imageTrouble;
  const all = (value: number): boolean => committed > 0 && value >= Math.max(least, committed);
  const devirtualizes = spec.devirtualize === 'WhenInstalled';
  const settled =
    committed === wanted &&
    sum.ready === wanted &&
    sum.installed === wanted &&
    (!devirtualizes || sum.devirtualized === wanted) &&
    draft.updating.size === 0 &&
    draft.ending.size === 0 &&
    !draft.closing;
  const ended = draft.closing && committed === 0 && draft.ending.size === 0;
  const stalled = stalledBecause(draft, sum, trouble);
  return {
    Accepted: accepted.ok ? yes(accepted.reason, accepted.message) : no(accepted.reason, accepted.message),
    Scheduled:
      committed >= least
        ? yes('Scheduled', status.placement?.message ?? count(committed))
        : no(waiting?.reason ?? (draft.closing ? 'Ending' : 'Pending'), waiting?.message ?? count(committed)),
    Isolated: all(sum.isolated)
      ? yes('Isolated', `${count(sum.isolated)} were read back in their domain`)
      : no('Isolating', `${count(sum.isolated)} were read back in their domain`),
    Ready:
      sum.ready >= least && !draft.closing
        ? yes('Running', `${count(sum.ready)} run revision ${status.revision ?? ''}`)
        : no(draft.closing ? (status.ends?.reason ?? 'Ending') : 'NotRunning', `${count(sum.ready)} run${offOf(sum)}`),
    Installed: all(sum.installed)
      ? yes('Installed', `${count(sum.installed)} have every block local and flushed`)
      : no('Streaming', `${count(sum.installed)} have every block local and flushed`),
    Devirtualized: !devirtualizes
      ? no('Never', 'spec.devirtualize is Never')
      : all(sum.devirtualized)
        ? yes('BareMetal', `the hypervisor has left ${count(sum.devirtualized)}`)
        : no('Resident', `the hypervisor has left ${count(sum.devirtualized)}`),
    UpdateAvailable:
      status.updateRevision === undefined
        ? no('UpToDate', 'the environment is at the revision in force')
        : yes(
            'NewRevision',
            `the environment is at ${status.updateRevision}; set spec.update.revision to it, or update.policy Rolling, to roll`,
          ),
    Reconciling:
      settled || ended || stalled.status === 'True'
        ? settled || ended
          ? no(settled ? 'Settled' : 'Ended', 'nothing is left to do')
          : no('Stalled', 'it goes on when what the condition Stalled names is put right')
        : yes('Progressing', progressOf(draft, sum)),
    Stalled: stalled,
  };
}

function stalledBecause(draft: Draft, sum: Tally, trouble: { code: string; message: string } | undefined): Truth {
  const { accepted, waiting } = draft;
  if (!accepted.ok) return yes(accepted.reason, accepted.message);
  if (waiting?.reason === 'DeletionHeld' || waiting?.reason === 'TooManyFailures')
    return yes(waiting.reason, waiting.message);
  if (trouble !== undefined) return yes(trouble.code, trouble.message);
  const stuck = unfenced(draft).filter(({ state }) => state === 'Quarantined' || state === 'Orphaned');
  if (stuck.length > 0)
    return yes(
      'NodesNotFenced',
      `not fenced, and waiting for a person: ${some(stuck)}; its status.message says why (its spec.decision)`,
    );
  const orphan = sum.views.find((view) => view.state === 'Orphaned' && !view.claimed);
  if (orphan !== undefined) {
    return yes(
      'NodeOrphaned',
      `${orphan.name} is in use, and whose is not certain; its status.message says why; adopt or end it (its spec.decision)`,
    );
  }
  const held = sum.views.find((view) => view.state === 'Quarantined' || view.state === 'Orphaned');
  if (held !== undefined && held.failure === undefined) {
    return yes('NodeHeld', `${held.name} is ${held.state}; its status.message says why, and a person decides`);
  }
  const unended = heldWhileEnding(draft);
  if (unended.length > 0) {
    return yes(
      'NodeHeld',
      `to be given back, and waiting for a person: ${some(unended)}; its status.message says why (its spec.decision)`,
    );
  }
  if (sum.failed > 0 && draft.input.allocation.spec.failurePolicy === 'Report') {
    const first = sum.views.find((view) => view.failure !== undefined);
    return yes('NodesFailed', `${sum.failed} nodes failed in use, first ${first?.name}: ${first?.failure?.message}`);
  }
  const outdated = unasked(draft, sum);
  if (outdated !== undefined) {
    return yes(
      'UpdateNotAsked',
      `${outdated.name} runs revision ${outdated.revision}, and ${draft.status.revision} is in force, to which its owner did not ask to update; set spec.update.revision to that to re-image it, or to ${outdated.revision} once the environment is as it was`,
    );
  }
  const left = sum.views.find((view) => view.off?.why !== undefined);
  if (left !== undefined) return yes('NodeOff', `${left.name} is switched off, and left so: ${left.off?.why}`);
  return no('Working', 'nothing stands in the way');
}

/** A node in use that runs another revision than the one in force, and is not to be re-imaged. */
function unasked(draft: Draft, { views }: Tally): MemberView | undefined {
  const { status, updating } = draft;
  if (status.revision === undefined || draft.closing || isUpdateAsked(draft)) return undefined;
  return views.find(
    ({ claimed, guestStarted, revision, name }) =>
      claimed && guestStarted && revision !== status.revision && !updating.has(name),
  );
}

function offOf({ views }: Tally): string {
  const off = views.filter((view) => view.off !== undefined);
  return off.length === 0 ? '' : `; switched off: ${some(off)}`;
}

/** Nodes whose end is decided here and cannot be recorded on them: their records contradict each other. */
function heldWhileEnding({ ending, input }: Draft): MemberView[] {
  return [...ending.values()]
    .flatMap((names) => [...names].map(input.member))
    .filter(({ state, endRecorded }) => !endRecorded && (state === 'Orphaned' || state === 'Quarantined'));
}

/** What the finalizer of a deleted allocation waits for. */
function unfenced({ input }: Draft): MemberView[] {
  if (input.allocation.metadata.deletionTimestamp === undefined) return [];
  return input.claimed.map(input.member).filter(({ endRecorded, fenced }) => !(endRecorded && fenced));
}

const some = ([first, ...others]: readonly MemberView[]): string =>
  `${first?.name}${others.length > 0 ? ` and ${others.length} more` : ''}`;

function progressOf(draft: Draft, sum: Tally): string {
  if (draft.closing) {
    const silent = unfenced(draft).filter(({ reachable }) => !reachable);
    return `nodes are being taken back${silent.length > 0 ? `; no agent speaks for ${some(silent)}` : ''}`;
  }
  if (draft.waiting) return draft.waiting.message;
  if (draft.updating.size > 0) return `${draft.updating.size} nodes are re-imaged to ${draft.status.revision ?? ''}`;
  const wanted = draft.input.allocation.spec.replicas;
  return `${draft.nodes.size} committed, ${sum.ready} running, ${sum.installed} installed, ${sum.devirtualized} devirtualized, of ${wanted}`;
}

function phaseOf(draft: Draft, status: NodeAllocationStatus, sum: Tally, wanted: number): string {
  if (draft.waiting?.reason === 'DeletionHeld') return 'Held';
  if (draft.closing) {
    if (status.ends?.reason === 'Expired' && draft.nodes.size === 0) return 'Expired';
    return draft.nodes.size > 0 ? 'Ending' : 'Releasing';
  }
  if (!draft.accepted.ok) return 'Rejected';
  if (draft.nodes.size === 0) return draft.waiting?.reason === 'Suspended' ? 'Suspended' : 'Pending';
  if (draft.updating.size > 0) return 'Updating';
  if (sum.ready < wanted) return 'Starting';
  if (sum.devirtualized === wanted) return 'BareMetal';
  if (sum.installed === wanted) return 'Installed';
  return 'Streaming';
}

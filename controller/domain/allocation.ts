/**
 * What to decide for one allocation now: a pure function of its object, its environment, what is known of its nodes, and
 * the time. The answer is the whole next status; committing it by compare-and-swap *is* the decision, and only then do
 * the nodes' reconcilers act on it.
 *
 * Invariants:
 * 1. A node is in at most one of status.nodes, status.ending and status.replaced; what stands in ending is never withdrawn.
 * 2. Nothing is given up for an error: a node leaves status.nodes because its owner asked, because it was never claimed
 *    by this allocation, or because it failed before it was in use.
 * 3. The revision in force changes only where the owner asked for it; somebody else's commit changes updateRevision alone.
 * 4. The same input gives the same status, so that at rest nothing is written.
 */
import { formatHostlist, parseHostlist } from '../api/hostlist.ts';
import type { NodeAllocationStatus } from '../api/types.generated.ts';
import { type AllocationDecision, type AllocationInput, allocationFinalizer, type Draft } from './allocation-draft.ts';
import { turnsBetween } from './allocation-events.ts';
import { reportAllocation } from './allocation-report.ts';
import { acceptStep, endStep, growStep, healStep, shrinkStep, updateStep } from './allocation-steps.ts';

const hostsOf = (text: string | undefined): Set<string> => new Set(text ? parseHostlist(text) : []);

function open(input: AllocationInput): Draft {
  const before = input.allocation.status ?? {};
  return {
    input,
    before,
    nowIso: `${new Date(input.nowMs).toISOString().slice(0, 19)}Z`,
    status: { ...before },
    nodes: hostsOf(before.nodes),
    ending: new Map((before.ending ?? []).map((entry) => [entry.reason, hostsOf(entry.nodes)])),
    replaced: hostsOf(before.replaced),
    updating: hostsOf(before.updating),
    events: [],
    againMs: undefined,
    blastUsed: [],
    accepted: { ok: true, reason: 'Accepted', message: 'the environment exists and may be used' },
    waiting: undefined,
    closing: false,
  };
}

function putHostlist(status: NodeAllocationStatus, field: 'nodes' | 'replaced' | 'updating', names: Set<string>): void {
  if (names.size > 0) status[field] = formatHostlist(names);
  else delete status[field];
}

function close(draft: Draft): AllocationDecision {
  const { status, before, input } = draft;
  putHostlist(status, 'nodes', draft.nodes);
  putHostlist(status, 'replaced', draft.replaced);
  putHostlist(status, 'updating', draft.updating);
  const ending = [...draft.ending]
    .filter(([, names]) => names.size > 0)
    .map(([reason, names]) => {
      const nodes = formatHostlist(names);
      const known = before.ending?.find((entry) => entry.reason === reason);
      const listed = hostsOf(known?.nodes);
      const grew = known === undefined || [...names].some((name) => !listed.has(name));
      return { reason, nodes, decidedAt: grew ? draft.nowIso : known.decidedAt };
    });
  if (ending.length > 0) status.ending = ending;
  else delete status.ending;
  reportAllocation(draft);
  const { finalizers = [], deletionTimestamp } = input.allocation.metadata;
  const has = finalizers.includes(allocationFinalizer);
  const retains = input.allocation.spec.deletionPolicy === 'Retain';
  const allFenced = input.claimed.every((name) => {
    const view = input.member(name);
    return view.endRecorded && view.fenced;
  });
  const empty = draft.nodes.size === 0 && draft.replaced.size === 0 && draft.ending.size === 0 && allFenced;
  const release = has && deletionTimestamp !== undefined && ((retains && draft.ending.size === 0) || empty);
  const finalizer = release ? 'remove' : !has && deletionTimestamp === undefined ? 'add' : 'keep';
  const events = [...draft.events, ...turnsBetween(before.conditions, status.conditions)];
  return { status, finalizer, events, againMs: draft.againMs, blastUsed: draft.blastUsed };
}

export function decideAllocation(input: AllocationInput): AllocationDecision {
  const draft = open(input);
  healStep(draft);
  endStep(draft);
  acceptStep(draft);
  updateStep(draft);
  shrinkStep(draft);
  growStep(draft);
  return close(draft);
}

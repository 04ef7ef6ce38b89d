/**
 * The reconciler of one NodeAllocation: sense (object, environment, its nodes), decide (domain/allocation), commit the
 * status by compare-and-swap, and only then let its nodes act on it. The only writer of NodeAllocation.status and of the
 * operator's finalizer on it.
 *
 * Invariants:
 * 1. Nodes chosen in this process are taken from the free index before the commit, and put back when it failed: two
 *    allocations of one process never choose the same node.
 * 2. Counts alone are written at most once in `quietMs`, conditions in `conditionsQuietMs`; a decision is written at once.
 * 3. The finalizer is removed by the decision alone, never because something failed.
 */
import { nodeAllocations } from '../api/meta.ts';
import type { ComputeEnvironment, NodeAllocation, NodeAllocationStatus } from '../api/types.generated.ts';
import { decideAllocation } from '../domain/allocation.ts';
import {
  type AllocationDecision,
  type AllocationInput,
  allocationFinalizer,
  type EnvironmentView,
  type MemberView,
  type PlaceRequest,
  type PlaceResult,
} from '../domain/allocation-draft.ts';
import { isAdoptedBy } from '../domain/node-adoption.ts';
import { revisionOf } from '../domain/revision.ts';
import { addFinalizer, removeFinalizer } from '../kube/finalizers.ts';
import { casPatchStatus, isSameContent } from '../kube/patch.ts';
import type { KubeClient } from '../kube/port.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Outcome } from '../runtime/worker.ts';
import type { Recorder } from './events.ts';
import type { Fleet } from './fleet.ts';
import { adoptable, byArriving, byClaimOwner, byClaimUid } from './indexes.ts';

/** Choosing nodes among the free ones of the fleet. */
export interface Placer {
  place(allocation: NodeAllocation, environment: ComputeEnvironment | undefined, request: PlaceRequest): PlaceResult;
  chooseVictims(held: readonly MemberView[], count: number, first: ReadonlySet<string>): readonly string[];
  /** Takes chosen nodes out of the index until the store says whose they are. */
  reserve(names: readonly string[]): void;
  release(names: readonly string[]): void;
}

/** What stands between an automatic or a mass action and the nodes. */
export interface Guards {
  /** Why this deletion waits for a confirmation. */
  deletionHeld(allocation: NodeAllocation): string | undefined;
  /** Nodes that automatic failure handling may touch now. */
  blastBudget(): number;
  blastUsed(nodes: readonly string[]): void;
}

export interface AllocationReconcilerOptions {
  readonly client: KubeClient;
  readonly fleet: Fleet;
  readonly placer: Placer;
  readonly guards: Guards;
  readonly events: Recorder;
  readonly clock: Clock;
  /** Called with the committed object; writes machine files. */
  readonly onCommitted: (allocation: NodeAllocation) => Promise<void>;
}

/** Between two writes that change nothing but counts. */
const quietMs = 2_000;
/** Between two writes that decide nothing: two leaders that see different things must not write against each other. */
const conditionsQuietMs = 250;
/** No decision about nodes is due for so long; a safety net under the triggers, not a poll. */
const deletionHeldAgainMs = 60_000;

export class AllocationReconciler {
  readonly #options: AllocationReconcilerOptions;
  readonly #countsWrittenAt = new Map<string, number>();

  constructor(options: AllocationReconcilerOptions) {
    this.#options = options;
  }

  async reconcile(key: string): Promise<Outcome> {
    const { fleet, clock, placer, guards } = this.#options;
    const allocation = fleet.allocations.getByKey(key);
    if (allocation === undefined) {
      this.#countsWrittenAt.delete(key);
      return { kind: 'done' };
    }
    let reserved: readonly string[] = [];
    const environment = this.#environmentOf(allocation);
    const input: AllocationInput = {
      ...this.#senseNodes(allocation),
      allocation,
      nowMs: clock.now(),
      environment: viewOf(allocation, environment),
      arriving: fleet.nodes.countByIndex(byArriving, 'yes'),
      place: (request) => {
        const result = placer.place(allocation, environment, request);
        if (result.kind === 'placed') {
          reserved = result.nodes;
          placer.reserve(reserved);
        }
        return result;
      },
      chooseVictims: placer.chooseVictims,
      deletionHeld: allocation.metadata.deletionTimestamp === undefined ? undefined : guards.deletionHeld(allocation),
      blastBudget: guards.blastBudget(),
    };
    try {
      return await this.#commit(key, allocation, decideAllocation(input));
    } finally {
      placer.release(reserved);
    }
  }

  #senseNodes(allocation: NodeAllocation): Pick<AllocationInput, 'member' | 'claimed' | 'orphans'> {
    const { fleet } = this.#options;
    const { namespace = '', name, uid = '' } = allocation.metadata;
    const views = new Map<string, MemberView>();
    const orphans = fleet.nodes
      .byIndex(byClaimOwner, `${namespace}/${name}`)
      .filter((node) => node.status?.claim?.allocation.uid !== uid && node.status?.end === undefined)
      .map((node) => ({ name: node.metadata.name, revision: node.status?.claim?.revision ?? '' }));
    for (const node of fleet.nodes.byIndex(adoptable, adoptable)) {
      const record = fleet.factsOf(node.metadata.name)?.record;
      const { decision } = node.spec ?? {};
      if (record === undefined || decision === undefined || !record.guestStarted || record.ended) continue;
      const environment = { revision: allocation.status?.revision ?? '' };
      if (isAdoptedBy(decision, record, { namespace, name, allocationUid: uid, environment }))
        orphans.push({ name: node.metadata.name, revision: record.revision ?? '' });
    }
    return {
      member: (nodeName) => {
        const known = views.get(nodeName) ?? fleet.member(allocation, nodeName);
        views.set(nodeName, known);
        return known;
      },
      claimed: fleet.nodes.byIndex(byClaimUid, uid).map((node) => node.metadata.name),
      orphans,
    };
  }

  #environmentOf(allocation: NodeAllocation): ComputeEnvironment | undefined {
    const { name, namespace = allocation.metadata.namespace ?? '' } = allocation.spec.environmentRef;
    return this.#options.fleet.environments.getByKey(`${namespace}/${name}`);
  }

  async #commit(key: string, allocation: NodeAllocation, decision: AllocationDecision): Promise<Outcome> {
    const { client, fleet, clock, events, guards, onCommitted } = this.#options;
    if (decision.finalizer === 'add') {
      const added = await addFinalizer(client, nodeAllocations, allocation, allocationFinalizer);
      if (added.outcome === 'gone') return { kind: 'done' };
      fleet.allocations.noteWrite(added.object);
      return { kind: 'after', ms: 0 };
    }
    const change = changeBetween(allocation.status ?? {}, decision.status);
    const now = clock.monotonic();
    const quiet = change === 'counts' ? quietMs : change === 'conditions' ? conditionsQuietMs : 0;
    const waitMs = (this.#countsWrittenAt.get(key) ?? Number.NEGATIVE_INFINITY) + quiet - now;
    if (quiet > 0 && waitMs > 0) return { kind: 'after', ms: waitMs };
    let committed = allocation;
    if (change !== 'none') {
      this.#countsWrittenAt.set(key, now);
      const result = await casPatchStatus(
        client,
        nodeAllocations,
        allocation,
        (draft) => {
          draft.status = decision.status;
        },
        { noteWrite: (written) => fleet.allocations.noteWrite(written) },
      );
      if (result.outcome === 'conflict') return { kind: 'after', ms: 0 };
      if (result.outcome === 'gone') return { kind: 'done' };
      // Counted before the answer is looked at: a lost one may have been to a write that happened.
      if (decision.blastUsed.length > 0) guards.blastUsed(decision.blastUsed);
      if (result.outcome === 'unknown') return { kind: 'retry', error: result.error };
      committed = result.object;
      for (const event of decision.events) events.record(allocation, event.type, event.reason, event.message);
    }
    await onCommitted(committed);
    if (decision.finalizer === 'remove') {
      const removed = await removeFinalizer(client, nodeAllocations, committed, allocationFinalizer);
      if (removed.outcome === 'written') fleet.allocations.noteWrite(removed.object);
      return { kind: 'done' };
    }
    const held = committed.status?.conditions?.some((condition) => condition.reason === 'DeletionHeld');
    const againMs = decision.againMs ?? (held ? deletionHeldAgainMs : undefined);
    return againMs === undefined ? { kind: 'done' } : { kind: 'after', ms: againMs };
  }
}

/** Objects of the cache never change, and an allocation is looked at far more often than its environment is edited. */
const revisions = new WeakMap<ComputeEnvironment['spec'], ReturnType<typeof revisionOf>>();

function revisionOnce(spec: ComputeEnvironment['spec']): ReturnType<typeof revisionOf> {
  const known = revisions.get(spec) ?? revisionOf(spec);
  revisions.set(spec, known);
  return known;
}

function viewOf(allocation: NodeAllocation, environment: ComputeEnvironment | undefined): EnvironmentView {
  const { name, namespace = allocation.metadata.namespace } = allocation.spec.environmentRef;
  if (environment === undefined) {
    return {
      kind: 'unusable',
      reason: 'EnvironmentNotFound',
      message: `spec.environmentRef: there is no ComputeEnvironment ${name} in namespace ${namespace}`,
    };
  }
  const { from, names = [] } = environment.spec.allowedNamespaces;
  const own = allocation.metadata.namespace === environment.metadata.namespace;
  const allowed = own || from === 'All' || (from === 'Named' && names.includes(allocation.metadata.namespace ?? ''));
  if (!allowed) {
    return {
      kind: 'unusable',
      reason: 'EnvironmentNotAllowed',
      message: `ComputeEnvironment ${namespace}/${name} does not allow namespace ${allocation.metadata.namespace} (its spec.allowedNamespaces)`,
    };
  }
  return { kind: 'usable', spec: environment.spec, ...revisionOnce(environment.spec) };
}

const countFields: ReadonlySet<string> = new Set([
  'ready',
  'installed',
  'devirtualized',
  'failed',
  'bytes',
  'conditions',
  'phase',
]);

/** `counts`: nothing differs that anybody waits for. A condition's message counts as progress, its status does not. */
function changeBetween(
  before: NodeAllocationStatus,
  after: NodeAllocationStatus,
): 'none' | 'counts' | 'conditions' | 'decision' {
  let change: 'none' | 'counts' = 'none';
  for (const field of new Set([...Object.keys(before), ...Object.keys(after)])) {
    const [old, next] = [Reflect.get(before, field), Reflect.get(after, field)];
    if (isSameContent(old, next)) continue;
    if (!countFields.has(field)) return 'decision';
    change = 'counts';
  }
  const truth = (status: NodeAllocationStatus): string =>
    `${status.phase} ${(status.conditions ?? []).map((condition) => `${condition.type}=${condition.status}`).join()}`;
  return change === 'counts' && truth(before) !== truth(after) ? 'conditions' : change;
}

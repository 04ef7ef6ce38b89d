/**
 * The reconciler of one PhysicalNode: sense (record, observation, the allocation's committed word), decide
 * (domain/node-life), act (one record or one step). The only writer of PhysicalNode.status.
 *
 * Invariants:
 * 1. A record is written by compare-and-swap against the very version that was decided on; the step that it permits is
 *    decided only after it was read back.
 * 2. Memory (attempts) can be lost at any time without harm.
 * 3. Failures are written once, when they change what a person would see.
 * 4. What rests on an allocation's word (a claim, an end, that it is gone or does not list its node) is written after the server itself
 *    said that this is its word: caches are of different age.
 */
import type { AgentLink } from '../agents/port.ts';
import { physicalNodes } from '../api/meta.ts';
import type { Instruction, NodeObservation } from '../api/protocol.generated.ts';
import type { PhysicalNode } from '../api/types.generated.ts';
import {
  type Attempts,
  failureInUse,
  nextAction,
  operationIdOf,
  type StepFailure,
  stepEnded,
  toInstruction,
} from '../domain/attempts.ts';
import { decideNode } from '../domain/node-life.ts';
import { type NodeDecision, observedFacts, type RecordPatch } from '../domain/node-records.ts';
import { isReclaiming, type NodeState } from '../domain/states.ts';
import { casPatchStatus } from '../kube/patch.ts';
import type { KubeClient, ObjectKey } from '../kube/port.ts';
import { type Clock, toMetaTime } from '../runtime/clock.ts';
import type { Random } from '../runtime/random.ts';
import type { Outcome } from '../runtime/worker.ts';
import type { Delivery, Dispatcher } from './dispatcher.ts';
import type { Recorder } from './events.ts';
import type { Fleet } from './fleet.ts';
import { dropNodeFinalizer, mayBeForgotten } from './node-objects.ts';
import { OwnerWord } from './owner-word.ts';

export interface NodeReconcilerOptions {
  readonly client: KubeClient;
  readonly fleet: Fleet;
  readonly dispatcher: Dispatcher;
  readonly events: Recorder;
  readonly clock: Clock;
  readonly random: Random;
  readonly term: () => number | undefined;
  /** Asks for the key again. */
  readonly requeue: (nodeName: string, afterMs: number) => void;
  /** An agent knows a higher term than ours. */
  readonly onStaleTerm: () => void;
  /** How long a guest may take to shut down, in seconds. */
  readonly drainSeconds: number;
}

/** How long to wait before asking again what an agent refused because it was not ready for it. */
const notReadyMs = 2_000;
/** Between two reasons shown for holding a node: two leaders that see different things must not write against each other. */
const heldQuietMs = 10_000;
/** Reasons for a hold that rest on what the cache has of the claim's allocation. */
const restsOnAllocation: ReadonlySet<string> = new Set(['AllocationMissing', 'NotListed']);
/** Refusals that say "not yet" rather than "no". */
const notYet: ReadonlySet<string> = new Set(['Busy', 'NotIsolated', 'NotPrepared', 'NotAttested', 'NotAllowed']);

export class NodeReconciler {
  readonly #options: NodeReconcilerOptions;
  readonly #attempts = new Map<string, Attempts>();
  readonly #heldAt = new Map<string, number>();
  readonly #refusals = new Map<string, { operationId: string; failure: StepFailure }>();
  readonly #ownerWord: OwnerWord;

  constructor(options: NodeReconcilerOptions) {
    this.#options = options;
    this.#ownerWord = new OwnerWord(options.client, options.fleet.allocations);
  }

  async reconcile(name: string): Promise<Outcome> {
    const { fleet, clock } = this.#options;
    fleet.setClaiming(name, false);
    const node = fleet.nodes.getByKey(name);
    if (node === undefined) {
      this.#attempts.delete(name);
      this.#refusals.delete(name);
      this.#heldAt.delete(name);
      fleet.forget(name);
      return { kind: 'done' };
    }
    if (node.metadata.deletionTimestamp !== undefined && mayBeForgotten(node.status ?? {})) {
      return dropNodeFinalizer(this.#options.client, fleet, node);
    }
    const link = fleet.linkOf(name);
    const facts = fleet.factsOf(name);
    const decision = decideNode({
      node,
      facts,
      ...fleet.contextOf(node),
      nowIso: toMetaTime(clock.now()),
      drainSeconds: this.#options.drainSeconds,
    });
    return this.#act(node, facts, link, decision);
  }

  /** Takes in what an agent answered; called by the dispatcher. */
  delivered(instruction: Instruction, delivery: Delivery): void {
    const { node: name, operationId } = instruction;
    const attempts = this.#attempts.get(name);
    if (attempts === undefined || operationIdOf(attempts) !== operationId) return;
    const now = this.#options.clock.monotonic();
    if (delivery.kind === 'accepted') {
      this.#attempts.set(name, { ...attempts, sent: 'Accepted' });
      this.#options.requeue(name, 0);
      return;
    }
    if (delivery.kind === 'refused' && delivery.reason === 'StaleTerm') this.#options.onStaleTerm();
    else if (delivery.kind === 'refused' && !notYet.has(delivery.reason)) {
      const failure: StepFailure = {
        code: 'Refused',
        message: `${instruction.verb} refused (${delivery.reason}): ${delivery.message}`,
      };
      this.#refusals.set(name, { operationId, failure });
    }
    this.#attempts.set(name, { ...attempts, sent: 'Sent', notBefore: now + notReadyMs });
    this.#options.requeue(name, notReadyMs);
  }

  async #act(
    node: PhysicalNode,
    facts: NodeObservation | undefined,
    link: AgentLink | undefined,
    decision: NodeDecision,
  ): Promise<Outcome> {
    const { fleet } = this.#options;
    const { name } = node.metadata;
    const epoch = node.status?.claim?.epoch ?? 0;
    const attempts = this.#attempts.get(name);
    if (attempts && (decision.kind === 'wait' || (decision.kind === 'rest' && facts !== undefined)))
      this.#attempts.set(name, stepEnded(attempts));
    switch (decision.kind) {
      case 'rest':
        fleet.note(name, { state: decision.state, epoch });
        return { kind: 'done' };
      case 'held':
        fleet.note(name, { state: decision.state, epoch });
        return this.#writeHeld(node, decision);
      case 'record':
        return this.#write(node, decision.patch, decision.why, decision.event);
      case 'wait': {
        const failure = facts === undefined ? undefined : failureInUse(facts);
        if (failure) return this.#writeFailure(node, facts, decision.state, failure);
        fleet.note(name, { state: decision.state, epoch });
        return { kind: 'done' };
      }
      case 'step':
        return facts === undefined || link === undefined ? { kind: 'done' } : this.#step(node, facts, link, decision);
      default:
        return decision satisfies never;
    }
  }

  async #step(
    node: PhysicalNode,
    facts: NodeObservation,
    link: AgentLink,
    decision: Extract<NodeDecision, { kind: 'step' }>,
  ): Promise<Outcome> {
    const { clock, random, fleet, dispatcher } = this.#options;
    const { name } = node.metadata;
    const known = this.#attempts.get(name);
    const { attempts, action } = nextAction(
      known,
      name,
      { ...decision, term: this.#options.term() ?? 0 },
      decision.step,
      facts,
      clock.monotonic(),
      random.next(),
    );
    this.#attempts.set(name, attempts);
    const trouble = action.kind === 'stalled' ? action.failure : attempts.lastFailure;
    fleet.note(name, {
      state: decision.state,
      epoch: decision.epoch,
      ...(isImageTrouble(trouble) ? { imageTrouble: trouble } : {}),
    });
    const refusal = this.#refusals.get(name);
    if (refusal !== undefined) {
      this.#refusals.delete(name);
      if (refusal.operationId === operationIdOf(attempts)) {
        return this.#writeFailure(node, facts, decision.state, refusal.failure);
      }
    }
    switch (action.kind) {
      case 'send':
        dispatcher.send(link, toInstruction(name, decision.epoch, action.operationId, decision.step));
        return { kind: 'done' };
      case 'wait':
      case 'stalled':
        return { kind: 'after', ms: action.ms };
      case 'failed':
        return this.#writeFailure(node, facts, decision.state, action.failure);
      default:
        return action satisfies never;
    }
  }

  /** Writes a record ahead of what it permits. The change of the store brings the node back here. */
  async #write(
    node: PhysicalNode,
    patch: RecordPatch,
    why: string,
    event?: { type: 'Normal' | 'Warning'; reason: string },
  ): Promise<Outcome> {
    const { client, fleet, events } = this.#options;
    const { name } = node.metadata;
    const claims = patch.claim !== undefined && patch.claim !== null;
    fleet.setClaiming(name, claims);
    const owner = ownerWhoseWord(node, patch);
    const behindMs = owner === undefined ? undefined : await this.#ownerWord.behindMs(owner);
    if (behindMs !== undefined) {
      fleet.setClaiming(name, false);
      return { kind: 'after', ms: behindMs };
    }
    const result = await casPatchStatus(client, physicalNodes, node, (draft) => apply(draft, patch), {
      noteWrite: (written) => fleet.nodes.noteWrite(written),
    });
    if (result.outcome !== 'unknown') fleet.setClaiming(name, false);
    if (result.outcome === 'unknown') return { kind: 'retry', error: result.error };
    if (result.outcome === 'conflict') return { kind: 'after', ms: 0 };
    if (result.outcome === 'gone') return { kind: 'done' };
    if (event) {
      const decided = node.spec?.decision;
      events.record(node, event.type, event.reason, decided === undefined ? why : `${why}: ${decided.reason}`);
    }
    this.#attempts.delete(name);
    return { kind: 'after', ms: 0 };
  }

  async #writeHeld(node: PhysicalNode, decision: Extract<NodeDecision, { kind: 'held' }>): Promise<Outcome> {
    const { status } = node;
    if (status?.state === decision.state && status.message === decision.message) return { kind: 'done' };
    const now = this.#options.clock.monotonic();
    const waitMs = (this.#heldAt.get(node.metadata.name) ?? Number.NEGATIVE_INFINITY) + heldQuietMs - now;
    if (waitMs > 0) return { kind: 'after', ms: waitMs };
    const owner = restsOnAllocation.has(decision.reason) ? status?.claim?.allocation : undefined;
    const behindMs = owner === undefined ? undefined : await this.#ownerWord.behindMs(owner);
    if (behindMs !== undefined) return { kind: 'after', ms: behindMs };
    this.#heldAt.set(node.metadata.name, now);
    this.#options.events.record(node, 'Warning', decision.reason, decision.message);
    const patch: RecordPatch = {
      state: decision.state,
      message: decision.message,
      stateSince: toMetaTime(this.#options.clock.now()),
    };
    const outcome = await this.#write(node, patch, decision.reason);
    return outcome.kind === 'after' ? { kind: 'done' } : outcome;
  }

  async #writeFailure(
    node: PhysicalNode,
    facts: NodeObservation | undefined,
    state: NodeState,
    failure: StepFailure,
  ): Promise<Outcome> {
    const { clock, events } = this.#options;
    const at = toMetaTime(clock.now());
    const stuck = isReclaiming(state) && node.status?.end !== undefined;
    const known = node.status?.lastError;
    const next: NodeState = stuck ? 'Quarantined' : state;
    if (known?.code === failure.code && known.message === failure.message && node.status?.state === next)
      return { kind: 'done' };
    const message = `${state} failed: ${failure.message}`.slice(0, 4096);
    events.record(node, 'Warning', failure.code, message);
    const attempts = this.#attempts.get(node.metadata.name)?.failures ?? 0;
    return this.#write(
      node,
      {
        state: next,
        stateSince: at,
        message,
        attempts,
        lastError: { code: failure.code, message: failure.message.slice(0, 4096), at },
        ...(facts === undefined ? {} : { observed: observedFacts(facts) }),
      },
      failure.code,
    );
  }
}

function isImageTrouble(failure: StepFailure | undefined): failure is StepFailure {
  return (
    failure?.code === 'ImageUnavailable' || failure?.code === 'ImageDigestMismatch' || failure?.code === 'ImageTooLarge'
  );
}

/** The allocation by whose word the record begins a tenancy, hands it on or ends it. */
function ownerWhoseWord({ status = {} }: PhysicalNode, { claim, end }: RecordPatch): ObjectKey | undefined {
  const { claim: before } = status;
  if (end) return before?.allocation;
  if (!claim) return undefined;
  return claim.epoch === before?.epoch && claim.allocation.uid === before.allocation.uid ? undefined : claim.allocation;
}

/** null takes a field away, as in a merge patch. */
function apply(draft: PhysicalNode, patch: RecordPatch): void {
  const status: Record<string, unknown> = { ...draft.status };
  for (const [field, value] of Object.entries(patch)) {
    if (value === null) delete status[field];
    else if (value !== undefined) status[field] = value;
  }
  draft.status = status;
}

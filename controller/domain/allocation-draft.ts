/**
 * What the decision on an allocation is made from (AllocationInput), what comes out (AllocationDecision), and the draft
 * that the steps between them work on.
 *
 * Invariant: only the steps of one decision change a draft, and none keeps it.
 */
import type { ComputeEnvironmentSpec, NodeAllocation, NodeAllocationStatus } from '../api/types.generated.ts';
import type { NodeState } from './states.ts';

export const allocationFinalizer = 'bitvisor.io/nodes';
export const confirmDeletionAnnotation = 'bitvisor.io/confirm-deletion';

/** What is known of a node that the allocation lists or has claimed. */
export interface MemberView {
  readonly name: string;
  readonly state: NodeState;
  /** Claimed by this very allocation (by uid). */
  readonly claimed: boolean;
  /** A claim is being written, and its outcome is not known yet. */
  readonly claiming: boolean;
  /** Claimed by another allocation, or not there, or held: it will not become ours by waiting. */
  readonly unavailable: boolean;
  /** An end is recorded on the node. */
  readonly endRecorded: boolean;
  /** Every data port was read back in quarantine, or a person wrote the machine off. */
  readonly fenced: boolean;
  /** Its agent is connected and reports it. */
  readonly reachable: boolean;
  readonly isolated: boolean;
  readonly guestStarted: boolean;
  readonly ready: boolean;
  /** It was seen to run no guest: one that is held, or whose agent is away, may run its own. */
  readonly down: boolean;
  readonly installed: boolean;
  readonly devirtualized: boolean;
  /** It is in use and has no power; `why` says what keeps it from being switched on. */
  readonly off?: { readonly why?: string };
  readonly failure?: { code: string; message: string };
  /** Failures that are the environment's fault. */
  readonly imageTrouble?: { code: string; message: string };
  readonly localBytes: number;
  readonly totalBytes: number;
  readonly revision?: string;
  readonly rack: string;
}

export interface PlaceRequest {
  readonly replicas: number;
  readonly minReplicas: number;
  readonly held: readonly string[];
  readonly definition: string;
}

export type PlaceResult =
  /** `scattered`: over more racks than so many nodes need. */
  { kind: 'placed'; nodes: readonly string[]; scattered: boolean } | { kind: 'refused'; reason: string };

export type EnvironmentView =
  | { kind: 'usable'; spec: ComputeEnvironmentSpec; revision: string; definition: string }
  | { kind: 'unusable'; reason: string; message: string };

export interface AllocationInput {
  readonly allocation: NodeAllocation;
  readonly nowMs: number;
  readonly environment: EnvironmentView;
  readonly member: (name: string) => MemberView;
  /** Nodes that carry a claim of this allocation's uid. */
  readonly claimed: readonly string[];
  /** Orphaned claims of this namespace and name, with the revision that they run. */
  readonly orphans: readonly { name: string; revision: string }[];
  /** Nodes on their first way in, which will be free soon. */
  readonly arriving: number;
  readonly place: (request: PlaceRequest) => PlaceResult;
  readonly chooseVictims: (held: readonly MemberView[], count: number, first: ReadonlySet<string>) => readonly string[];
  /** Why the deletion waits for a confirmation. */
  readonly deletionHeld: string | undefined;
  /** How many nodes automatic failure handling may touch now (rule 9). */
  readonly blastBudget: number;
}

export interface AllocationEvent {
  readonly type: 'Normal' | 'Warning';
  readonly reason: string;
  readonly message: string;
}

export interface AllocationDecision {
  readonly status: NodeAllocationStatus;
  readonly finalizer: 'add' | 'keep' | 'remove';
  readonly events: readonly AllocationEvent[];
  /** Look again after this many milliseconds at the latest. */
  readonly againMs: number | undefined;
  /** Nodes that automatic failure handling took out of use. */
  readonly blastUsed: readonly string[];
}

export type EndReason = NonNullable<NodeAllocationStatus['ending']>[number]['reason'];

/** The status while it is being worked on; only the steps change it. */
export interface Draft {
  readonly input: AllocationInput;
  readonly before: NodeAllocationStatus;
  readonly nowIso: string;
  status: NodeAllocationStatus;
  nodes: Set<string>;
  ending: Map<EndReason, Set<string>>;
  replaced: Set<string>;
  updating: Set<string>;
  events: AllocationEvent[];
  againMs: number | undefined;
  blastUsed: string[];
  accepted: { ok: boolean; reason: string; message: string };
  /** Why fewer nodes are committed than asked for. */
  waiting: { reason: string; message: string } | undefined;
  /** Decisions about new nodes are off: ending, deleted, held. */
  closing: boolean;
}

export function lookAgain(draft: Draft, ms: number): void {
  const bounded = Math.max(0, Math.ceil(ms));
  draft.againMs = draft.againMs === undefined ? bounded : Math.min(draft.againMs, bounded);
}

/** Moves nodes to the irrevocable list. Those that were never claimed have nothing to end and just leave. */
export function endNodes(draft: Draft, names: Iterable<string>, reason: EndReason): void {
  for (const name of names) {
    draft.nodes.delete(name);
    draft.replaced.delete(name);
    draft.updating.delete(name);
    const list = draft.ending.get(reason) ?? new Set<string>();
    list.add(name);
    draft.ending.set(reason, list);
  }
}

/**
 * The input and the answers of the decision on a node, and the records that are written ahead of what they permit.
 *
 * Invariants:
 * 1. Every record that begins a tenancy, a re-imaging or an end carries an epoch above all that either side knows.
 * 2. A record says all that a reader needs: who speaks for the machine, what was observed, since when.
 */
import type { NodeObservation } from '../api/protocol.generated.ts';
import type { PhysicalNode, PhysicalNodeStatus } from '../api/types.generated.ts';
import { knownEpoch } from './node-conflicts.ts';
import type { IsolationTerms, NodeState, Step, TenancyTerms } from './states.ts';

/** What an allocation's committed status says of a node. */
export interface Tenancy extends TenancyTerms {
  readonly namespace: string;
  readonly name: string;
  /** Placed: in status.nodes. Ending: in status.ending. Replaced: failed, others stand in. Unlisted: nowhere. */
  readonly role: 'Placed' | 'Ending' | 'Replaced' | 'Unlisted';
  readonly endReason?: string;
  readonly erase: 'Quick' | 'Crypto' | 'Full';
  /** The owner's update may re-image the node to `environment` now. */
  readonly updating: boolean;
  /** Holds back what has not started. */
  readonly suspended: boolean;
}

export interface NodeInput {
  readonly node: PhysicalNode;
  /** Absent while the agent never reported the node, or is not connected. */
  readonly facts: NodeObservation | undefined;
  /** The agent's durable log now. */
  readonly storeId: string | undefined;
  readonly agentName: string;
  readonly location: { site: string; rack: string };
  /** The allocation whose committed status or claim names the node; absent when there is none. */
  readonly tenancy: Tenancy | undefined;
  /**
   * The allocation is there, and its status does not say yet, or no longer, what its nodes run. `isolation` is what its node has
   * to be in meanwhile; absent where the status does not list the node as one that it keeps.
   */
  readonly tenancyPending: { readonly isolation?: IsolationTerms } | undefined;
  /** An administrator's commission of this node for this very log. */
  readonly commissioned: boolean;
  /** The other node that reports the same system UUID. */
  readonly duplicateOf: string | undefined;
  readonly nowIso: string;
  readonly drainSeconds: number;
}

/** The reason of the end under which a commissioned machine is made clean for the first time. */
export const commissioned = 'Commissioned';

const personSuffix = 'ByPerson';

/** The reason of an end that a person decided. */
export const endedBy = (action: string): string => `${action}${personSuffix}`;

export const isByPerson = ({ reason }: { readonly reason: string }): boolean => reason.endsWith(personSuffix);

export type RecordPatch = { [K in keyof PhysicalNodeStatus]?: PhysicalNodeStatus[K] | null };

export type NodeDecision =
  | { kind: 'rest'; state: NodeState; message?: string }
  | { kind: 'held'; state: NodeState; message: string; reason: string }
  | {
      kind: 'record';
      state: NodeState;
      patch: RecordPatch;
      why: string;
      event?: { type: 'Normal' | 'Warning'; reason: string };
    }
  | {
      kind: 'step';
      state: NodeState;
      step: Step;
      epoch: number;
      deadlineSeconds: number;
      retries: number;
      inUse: boolean;
    }
  | { kind: 'wait'; state: NodeState; message: string; deadlineSeconds: number; retries: number; inUse: boolean };

const nextEpoch = (status: PhysicalNodeStatus, facts: NodeObservation | undefined): number =>
  knownEpoch(status, facts) + 1;

export function endRecord(
  input: NodeInput,
  status: PhysicalNodeStatus,
  reason: string,
  erase: 'Quick' | 'Crypto' | 'Full',
  event?: { type: 'Normal' | 'Warning'; reason: string },
): NodeDecision {
  const epoch = nextEpoch(status, input.facts);
  const patch: RecordPatch = {
    state: 'Draining',
    stateSince: input.nowIso,
    message: null,
    lastError: null,
    attempts: null,
    nextRetry: null,
    epoch,
    end: { epoch, reason, erase, at: input.nowIso },
    writtenOff: null,
    ...identity(input),
  };
  return { kind: 'record', state: 'Draining', patch, why: reason, ...(event ? { event } : {}) };
}

/** Who speaks for the machine and what it is, repeated with every record so that no write is needed for it alone. */
export function identity(input: NodeInput): RecordPatch {
  const { facts, storeId } = input;
  if (facts === undefined) return {};
  return {
    agent: input.agentName,
    ...(storeId === undefined ? {} : { storeId }),
    systemUuid: facts.systemUuid,
    location: input.location,
    observed: observedFacts(facts),
  };
}

export function observedFacts(facts: NodeObservation): NonNullable<PhysicalNodeStatus['observed']> {
  return {
    power: facts.power,
    vmm: facts.vmm,
    ports: facts.ports.map(({ name, domain, state }) => ({ name, domain: state === 'Ready' ? domain : 'Unknown' })),
  };
}

/** The clean certificate as the agent's log holds it, and which log that is. What it does not say of the attestation is unknown. */
export function certificateRecord({ facts, storeId = '' }: Partial<Pick<NodeInput, 'facts' | 'storeId'>>): RecordPatch {
  const certificate = facts?.record.certificate;
  if (certificate === undefined) return {};
  const { epoch, nonce, at, attestation = { method: 'Unknown' } } = certificate;
  return { certificate: { epoch, storeId, nonce, at, attestation } };
}

export function inventoryOf(facts: NodeObservation): RecordPatch {
  return {
    inventory: {
      ...facts.inventory,
      ports: facts.ports.map(({ name, role, kind, address }) => ({
        name,
        role,
        kind,
        ...(address ? { address } : {}),
      })),
    },
  };
}

export function claimRecord(input: NodeInput, status: PhysicalNodeStatus, owner: Tenancy, why: string): NodeDecision {
  const epoch = nextEpoch(status, input.facts);
  const patch: RecordPatch = {
    state: 'Isolating',
    stateSince: input.nowIso,
    message: null,
    lastError: null,
    attempts: null,
    epoch,
    claim: {
      allocation: { namespace: owner.namespace, name: owner.name, uid: owner.allocationUid },
      epoch,
      revision: owner.environment.revision,
      domain: owner.domain,
      at: input.nowIso,
    },
    commitSent: null,
    ...identity(input),
  };
  return { kind: 'record', state: 'Isolating', patch, why };
}

export const held = (state: NodeState, reason: string, message: string): NodeDecision => ({
  kind: 'held',
  state,
  reason,
  message,
});

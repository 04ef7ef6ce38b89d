/**
 * What to do with one node now: a pure function of its record, the agent's observation, the committed decisions of its
 * allocation, and the time. The caller executes the answer: a record is written before anything else is sent.
 *
 * Invariants:
 * 1. At most one effect an answer: a record to write, or a step to send, never both.
 * 2. Nothing is ever sent for a node whose durable records (operator's and agent's) contradict each other (rule 6).
 * 3. A destructive step is sent only under an `end`, or under a claim that its owner's update renewed (rule 6).
 * 4. `commit` is sent only when `commitSent` of the same epoch stands in the record (rule 4).
 */
import type { NodeObservation } from '../api/protocol.generated.ts';
import type { PhysicalNode, PhysicalNodeStatus } from '../api/types.generated.ts';
import { type Conflict, findConflict } from './node-conflicts.ts';
import { type NodeState, type ReclaimTerms, reclaimPath, type Step, type TenancyTerms, tenancyPath } from './states.ts';

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
  /** The allocation is there, and its status does not say yet what its nodes run. */
  readonly tenancyPending: boolean;
  /** An administrator's commission of this node for this very log. */
  readonly commissioned: boolean;
  /** The other node that reports the same system UUID. */
  readonly duplicateOf: string | undefined;
  readonly nowIso: string;
  readonly drainSeconds: number;
}

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

/** Whether a clean certificate stands in the agent's log, younger than the last tenant boot (rule 3). */
export function hasCleanCertificate(facts: NodeObservation): boolean {
  const { record } = facts;
  return (
    record.certificate !== undefined &&
    !record.guestStarted &&
    !record.ended &&
    record.certificate.epoch >= record.epoch
  );
}

/** Nonce of a reclaim: fresh for each epoch of each node, and the same again after a restart of the operator. */
export function reclaimNonce(node: PhysicalNode, endEpoch: number): string {
  return `${node.metadata.uid ?? node.metadata.name}-${endEpoch}`;
}

export function decideNode(input: NodeInput): NodeDecision {
  const { node, facts } = input;
  const status = node.status ?? {};
  const decided = personDecision(input, status);
  if (decided) return decided;
  if (input.duplicateOf !== undefined) {
    return held(
      'Quarantined',
      'DuplicateMachine',
      `${input.duplicateOf} reports the same system UUID; neither is used until one is gone`,
    );
  }
  if (facts === undefined) {
    const state = status.state ?? 'Enrolling';
    return { kind: 'rest', state, message: `agent ${input.agentName} is not connected or does not report this node` };
  }
  const conflict = findConflict(status, facts, input.storeId);
  if (conflict) return heldFor(conflict);
  if (status.state === 'Quarantined' && status.lastError !== undefined && (status.end ?? status.claim) === undefined) {
    return held('Quarantined', status.lastError.code, status.message ?? status.lastError.message);
  }
  if (status.end) return reclaim(input, status, facts);
  if (status.claim) return tenancy(input, status, facts);
  return unclaimed(input, status, facts);
}

/** Whether an observation speaks of this epoch. */
export const observationCounts = (facts: NodeObservation, epoch: number): boolean => facts.record.epoch === epoch;

const held = (state: NodeState, reason: string, message: string): NodeDecision => ({
  kind: 'held',
  state,
  reason,
  message,
});
const heldFor = (conflict: Conflict): NodeDecision => held(conflict.state, conflict.reason, conflict.message);

/** The highest epoch that either side knows, plus one. */
function nextEpoch(status: PhysicalNodeStatus, facts: NodeObservation | undefined): number {
  return Math.max(status.epoch ?? 0, facts?.record.epoch ?? 0) + 1;
}

function personDecision(input: NodeInput, status: PhysicalNodeStatus): NodeDecision | undefined {
  const decision = input.node.spec?.decision;
  if (!decision || decision.epoch !== (status.epoch ?? 0)) return undefined;
  const isHeld = status.state === 'Quarantined' || status.state === 'Orphaned' || status.state === 'Enrolling';
  if (!isHeld || input.facts === undefined || input.storeId === undefined) return undefined;
  if (decision.action === 'Adopt') return undefined;
  if (decision.action === 'Reclaim' && status.claim && !status.end) return undefined;
  return endRecord(input, status, `${decision.action}ByPerson`, 'Full', {
    type: 'Warning',
    reason: `${decision.action}Decided`,
  });
}

function endRecord(
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
    ...identity(input),
  };
  return { kind: 'record', state: 'Draining', patch, why: reason, ...(event ? { event } : {}) };
}

/** Who speaks for the machine and what it is, repeated with every record so that no write is needed for it alone. */
function identity(input: NodeInput): RecordPatch {
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

function inventoryOf(facts: NodeObservation): RecordPatch {
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

function unclaimed(input: NodeInput, status: PhysicalNodeStatus, facts: NodeObservation): NodeDecision {
  if (!hasCleanCertificate(facts)) {
    const untouched = facts.record.epoch === 0 && !facts.record.guestStarted && (status.epoch ?? 0) === 0;
    if (untouched && input.commissioned) {
      const decision = endRecord(input, status, 'Commissioned', 'Quick');
      return decision.kind === 'record'
        ? { ...decision, patch: { ...decision.patch, ...inventoryOf(facts) } }
        : decision;
    }
    return held(
      'Quarantined',
      'NotCertified',
      'there is no clean certificate, so its disks may hold data; commission it on its BitVisorAgent (spec.commission) or decide Reclaim',
    );
  }
  const rest: NodeState = input.node.spec?.maintenance ? 'Maintenance' : 'Available';
  const { certificate } = facts.record;
  if (status.state !== rest || status.storeId !== input.storeId || status.agent !== input.agentName) {
    const patch: RecordPatch = {
      state: rest,
      stateSince: input.nowIso,
      message: null,
      lastError: null,
      epoch: Math.max(status.epoch ?? 0, facts.record.epoch),
      ...(certificate
        ? {
            certificate: {
              epoch: certificate.epoch,
              storeId: input.storeId ?? '',
              nonce: certificate.nonce,
              at: certificate.at,
            },
          }
        : {}),
      ...identity(input),
      ...inventoryOf(facts),
    };
    return { kind: 'record', state: rest, patch, why: 'Enrolled' };
  }
  if (rest === 'Available' && input.tenancy?.role === 'Placed' && !input.tenancy.suspended) {
    return claimRecord(input, status, input.tenancy, 'Claimed');
  }
  return {
    kind: 'rest',
    state: rest,
    ...(rest === 'Maintenance' ? { message: input.node.spec?.maintenance?.reason ?? '' } : {}),
  };
}

function claimRecord(input: NodeInput, status: PhysicalNodeStatus, owner: Tenancy, why: string): NodeDecision {
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

function tenancy(input: NodeInput, status: PhysicalNodeStatus, facts: NodeObservation): NodeDecision {
  const { claim } = status;
  const owner = input.tenancy;
  if (!claim) return { kind: 'rest', state: 'Enrolling' };
  if (owner === undefined) {
    return held(
      'Orphaned',
      'AllocationMissing',
      `its allocation ${claim.allocation.namespace}/${claim.allocation.name} is gone; adopt the claim or end it`,
    );
  }
  if (owner.allocationUid !== claim.allocation.uid) return adopt(input, status, owner);
  if (owner.role === 'Ending') {
    const neverStarted = !facts.record.guestStarted && status.lastError !== undefined;
    return endRecord(input, status, neverStarted ? failedBeforeUse : (owner.endReason ?? 'Released'), owner.erase);
  }
  if (owner.role === 'Unlisted') {
    return held(
      'Orphaned',
      'NotListed',
      `allocation ${owner.namespace}/${owner.name} does not list this node that it claimed`,
    );
  }
  if (owner.role === 'Replaced') return fenceReplaced(claim.epoch, facts, owner);
  if (owner.updating && claim.revision !== owner.environment.revision)
    return claimRecord(input, status, owner, 'Updated');
  return walkTenancy(input, status, facts, owner);
}

/** An allocation of the same namespace, name and revision takes over a claim without a reboot. */
function adopt(input: NodeInput, status: PhysicalNodeStatus, owner: Tenancy): NodeDecision {
  const { claim } = status;
  if (!claim) return { kind: 'rest', state: 'Enrolling' };
  const sameTenant = owner.namespace === claim.allocation.namespace && owner.name === claim.allocation.name;
  if (!sameTenant || owner.role !== 'Placed' || claim.revision !== owner.environment.revision) {
    return held(
      'Orphaned',
      'AllocationMissing',
      `its allocation ${claim.allocation.namespace}/${claim.allocation.name} (${claim.allocation.uid}) is gone; adopt the claim or end it`,
    );
  }
  const patch: RecordPatch = {
    message: null,
    claim: { ...claim, allocation: { ...claim.allocation, uid: owner.allocationUid } },
    ...(status.state === 'Orphaned' ? { state: 'Resident' as const, stateSince: input.nowIso } : {}),
  };
  return { kind: 'record', state: status.state ?? 'Resident', patch, why: 'Adopted' };
}

/** A failed node that others stand in for: its network is closed, its power and disks are left alone. */
function fenceReplaced(epoch: number, facts: NodeObservation, owner: Tenancy): NodeDecision {
  const fenced = facts.ports.every(
    (port) => port.role !== 'Data' || (port.state === 'Ready' && port.domain === 'quarantine'),
  );
  if (fenced)
    return held(
      'Quarantined',
      'FailedInUse',
      'failed in use; another node stands in; its disk is kept until the allocation ends',
    );
  const step: Step = {
    verb: 'isolate',
    args: { domain: 'quarantine', egress: 'None', allocation: owner.allocationUid },
  };
  return { kind: 'step', state: 'Quarantined', step, epoch, deadlineSeconds: 600, retries: 5, inUse: true };
}

function walkTenancy(
  input: NodeInput,
  status: PhysicalNodeStatus,
  facts: NodeObservation,
  owner: Tenancy,
): NodeDecision {
  const epoch = status.claim?.epoch ?? 0;
  const current = facts.record.epoch === epoch;
  const row = current ? tenancyPath.find((candidate) => !candidate.until(facts, owner)) : tenancyPath[0];
  if (row === undefined) return { kind: 'rest', state: 'BareMetal' };
  const inUse = current && facts.record.guestStarted;
  const { state, deadlineSeconds, retries } = row;
  if (!inUse && owner.suspended) return { kind: 'rest', state, message: 'suspended' };
  // A node never shown to have started, whose record says that the hypervisor was told to leave: never re-image on a guess.
  if (
    status.commitSent?.epoch === epoch &&
    !facts.record.commitSent &&
    state !== 'Devirtualizing' &&
    state !== 'Sealing'
  ) {
    return held(
      'Quarantined',
      'CommitUncertain',
      'the commit to devirtualize was sent and the agent does not know of it; a person decides',
    );
  }
  if (state === 'Devirtualizing' && status.commitSent?.epoch !== epoch && !facts.record.commitSent) {
    const patch: RecordPatch = {
      state,
      stateSince: input.nowIso,
      commitSent: { epoch, at: input.nowIso },
      observed: observedFacts(facts),
    };
    return { kind: 'record', state, patch, why: 'CommitSent' };
  }
  const drift = driftStep(facts, owner, inUse);
  if (drift) return { kind: 'step', state, step: drift, epoch, deadlineSeconds: 30, retries: 10, inUse: true };
  const revisionInForce = status.claim?.revision === owner.environment.revision;
  if (state === 'Booting' && !revisionInForce) {
    return { kind: 'rest', state, message: 'its allocation moved on to another revision' };
  }
  if (status.lastError && status.state === state) {
    return { kind: 'rest', state, message: `${status.lastError.code}: ${status.lastError.message}` };
  }
  const step = row.step(owner);
  if (step) return { kind: 'step', state, step, epoch, deadlineSeconds, retries, inUse };
  if (state === 'BareMetal' || state === 'Resident') {
    if (status.state === state) return { kind: 'rest', state };
    const patch: RecordPatch = { state, stateSince: input.nowIso, message: null, observed: observedFacts(facts) };
    return { kind: 'record', state, patch, why: 'Settled' };
  }
  return { kind: 'wait', state, message: row.endsWhen, deadlineSeconds, retries, inUse };
}

/** Isolation drift of a node in use: the port is put back into its domain; power is never touched (rule 2). */
function driftStep(facts: NodeObservation, owner: Tenancy, inUse: boolean): Step | undefined {
  if (!inUse) return undefined;
  const strayed = facts.ports.some(
    (port) => port.role === 'Data' && port.state === 'Ready' && port.domain !== owner.domain,
  );
  if (!strayed) return undefined;
  return { verb: 'isolate', args: { domain: owner.domain, egress: owner.egress, allocation: owner.allocationUid } };
}

function reclaim(input: NodeInput, status: PhysicalNodeStatus, facts: NodeObservation): NodeDecision {
  const { end } = status;
  if (!end) return { kind: 'rest', state: 'Enrolling' };
  if (status.state === 'Quarantined') {
    return held(
      'Quarantined',
      status.lastError?.code ?? 'ReclaimFailed',
      status.message ?? 'the way back failed; a person decides',
    );
  }
  const terms: ReclaimTerms = {
    erase: end.erase as ReclaimTerms['erase'],
    drainSeconds: end.reason === 'Commissioned' ? 0 : input.drainSeconds,
    drainMessage: `This node is taken back: ${end.reason}.`,
    nonce: reclaimNonce(input.node, end.epoch),
  };
  const current = facts.record.epoch === end.epoch;
  // The certificate may stand at the end of the path only: a scan from the front would see the drained flag gone.
  const certifiedNow = current && reclaimPath.at(-1)?.until(facts, terms) === true;
  const row = certifiedNow
    ? undefined
    : current
      ? reclaimPath.find((candidate) => !candidate.until(facts, terms))
      : reclaimPath[0];
  if (row === undefined) return releaseRecord(input, status, facts);
  const { state, deadlineSeconds, retries } = row;
  return { kind: 'step', state, step: row.step(terms), epoch: end.epoch, deadlineSeconds, retries, inUse: false };
}

/** A node that failed before it was in use comes back clean, and is kept for a person to look at. */
export const failedBeforeUse = 'FailedBeforeUse';

function releaseRecord(input: NodeInput, status: PhysicalNodeStatus, facts: NodeObservation): NodeDecision {
  const { certificate } = facts.record;
  const suspect = status.end?.reason === failedBeforeUse;
  const rest: NodeState = suspect ? 'Quarantined' : input.node.spec?.maintenance ? 'Maintenance' : 'Available';
  const message = 'failed before it was in use; clean and fenced; look at it, then decide Reclaim';
  const patch: RecordPatch = {
    state: rest,
    stateSince: input.nowIso,
    message: suspect ? message : null,
    lastError: suspect ? (status.lastError ?? { code: failedBeforeUse, message }) : null,
    attempts: null,
    nextRetry: null,
    claim: null,
    commitSent: null,
    end: null,
    ...(certificate
      ? {
          certificate: {
            epoch: certificate.epoch,
            storeId: input.storeId ?? '',
            nonce: certificate.nonce,
            at: certificate.at,
          },
        }
      : {}),
    ...identity(input),
  };
  return { kind: 'record', state: rest, patch, why: 'Released' };
}

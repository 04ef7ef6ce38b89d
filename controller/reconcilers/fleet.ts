/**
 * The operator's view of all machines: PhysicalNodes, what the agents observe, and what the allocations' committed
 * status says of them, joined in memory. Reconcilers read it; it writes nothing to anyone.
 *
 * Invariants:
 * 1. Observations count for decisions only while their agent's stream is complete (`factsOf`); for counts and displays
 *    the last ones do, so that a broken connection changes no number (`lastFactsOf`).
 * 2. A node belongs to one agent: the oldest BitVisorAgent whose hostlist names it.
 */
import type { AgentLink } from '../agents/port.ts';
import type { Environment, NodeObservation } from '../api/protocol.generated.ts';
import type { BitVisorAgent, ComputeEnvironment, NodeAllocation, PhysicalNode } from '../api/types.generated.ts';
import type { MemberView } from '../domain/allocation-draft.ts';
import { guestMayHaveRun, observationCounts } from '../domain/node-life.ts';
import { isOffInUse, leftOff } from '../domain/node-power.ts';
import type { NodeInput, Tenancy } from '../domain/node-records.ts';
import { environmentFrom } from '../domain/revision.ts';
import { guestRuns, isInstalled, isolatedIn, type NodeState } from '../domain/states.ts';
import type { Store } from '../kube/store.ts';
import type { Assignments } from './assignments.ts';

export interface FleetStores {
  readonly nodes: Store<PhysicalNode>;
  readonly allocations: Store<NodeAllocation>;
  readonly environments: Store<ComputeEnvironment>;
  readonly agents: Store<BitVisorAgent>;
}

/** What the node's reconciler concluded last. */
export interface NodeNote {
  readonly state: NodeState;
  /** Epoch of the claim that it was concluded under; 0 without one. */
  readonly epoch: number;
  readonly imageTrouble?: { code: string; message: string };
}

/** In the place of an environment where none is looked at. */
const nothingToRun: Environment = {
  revision: '',
  os: { family: 'Other', architecture: 'x86_64' },
  image: { url: '', format: 'Raw', sizeBytes: 0, sha256: '' },
  boot: { firmware: 'Uefi', kernelArguments: [] },
  install: { yield: 'Fair', disk: { media: 'Any', minSizeBytes: 0 } },
  vmm: { dataPorts: 'Passthrough' },
};

/** How long an agent may be away before a node that was chosen and not yet claimed is given up for another. */
const patienceMs = 30_000;

/** Whether a guest may run on a node that is not seen to be where a guest runs. */
const mayRun = (state: NodeState, { guest }: NodeObservation): boolean =>
  state === 'Quarantined' || state === 'Orphaned' || guest.state === 'Running';

export class Fleet {
  readonly nodes: Store<PhysicalNode>;
  readonly allocations: Store<NodeAllocation>;
  readonly environments: Store<ComputeEnvironment>;
  readonly agents: Store<BitVisorAgent>;
  readonly assignments: Assignments;
  readonly #links = new Map<string, AgentLink>();
  readonly #agentOf = new Map<string, string>();
  readonly #commissioned = new Map<string, { storeId: string; names: ReadonlySet<string> }>();
  readonly #notes = new Map<string, NodeNote>();
  readonly #claiming = new Set<string>();
  readonly #uuids = new Map<string, Set<string>>();
  readonly #uuidOf = new Map<string, string>();
  readonly #environments = new Map<string, Environment>();
  readonly #nowMs: () => number;
  /** Told when a node's conclusion changed. */
  onNote: (nodeName: string, before: NodeNote | undefined, after: NodeNote) => void = () => {};

  constructor(stores: FleetStores, assignments: Assignments, nowMs: () => number) {
    this.nodes = stores.nodes;
    this.allocations = stores.allocations;
    this.environments = stores.environments;
    this.agents = stores.agents;
    this.assignments = assignments;
    this.#nowMs = nowMs;
  }

  setLink(agentName: string, link: AgentLink | undefined): void {
    if (link) this.#links.set(agentName, link);
    else this.#links.delete(agentName);
  }

  /**
   * The names in `accepted` that are this agent's; those that an older one names are left to it. `changed`: another agent may
   * have gained or lost a node by it.
   */
  setAccepted(
    agentName: string,
    accepted: Iterable<string>,
  ): { own: Set<string>; disputed: string[]; changed: boolean } {
    const own = new Set<string>();
    const disputed: string[] = [];
    let changed = false;
    for (const name of accepted) {
      const holder = this.#agentOf.get(name);
      if (holder !== undefined && holder !== agentName && this.#isOlder(holder, agentName)) disputed.push(name);
      else own.add(name);
    }
    for (const [name, holder] of this.#agentOf) {
      if (holder !== agentName || own.has(name)) continue;
      this.#agentOf.delete(name);
      changed = true;
    }
    for (const name of own) {
      const holder = this.#agentOf.get(name);
      if (holder === agentName) continue;
      this.#agentOf.set(name, agentName);
      if (holder !== undefined) changed = true;
    }
    return { own, disputed, changed };
  }

  #isOlder(holder: string, other: string): boolean {
    const [held, asked] = [holder, other].map((name) => this.agents.getByKey(name)?.metadata.creationTimestamp);
    if (held === undefined || asked === undefined) return held !== undefined;
    return held === asked ? holder < other : held < asked;
  }

  setCommission(agentName: string, commission: { storeId: string; names: ReadonlySet<string> } | undefined): void {
    if (commission) this.#commissioned.set(agentName, commission);
    else this.#commissioned.delete(agentName);
  }

  /** Nodes of the agent that has most. */
  largestRack(): number {
    let most = 0;
    for (const link of this.#links.values()) most = Math.max(most, link.nodes.size);
    return most;
  }

  agentNameOf(nodeName: string): string | undefined {
    return this.#agentOf.get(nodeName);
  }

  links(): IterableIterator<AgentLink> {
    return this.#links.values();
  }

  linkOf(nodeName: string): AgentLink | undefined {
    const agent = this.#agentOf.get(nodeName);
    return agent === undefined ? undefined : this.#links.get(agent);
  }

  lastFactsOf(nodeName: string): NodeObservation | undefined {
    return this.linkOf(nodeName)?.nodes.get(nodeName);
  }

  factsOf(nodeName: string): NodeObservation | undefined {
    const link = this.linkOf(nodeName);
    if (link === undefined) return undefined;
    const { connected, synced } = link.state();
    return connected && synced ? link.nodes.get(nodeName) : undefined;
  }

  /** Takes in that the agent said something of the node. @returns nodes that report the same machine, or did */
  observed(nodeName: string): readonly string[] {
    const uuid = this.lastFactsOf(nodeName)?.systemUuid;
    const before = this.#uuidOf.get(nodeName);
    if (uuid === before) return [];
    const touched = new Set<string>();
    if (before !== undefined) {
      const names = this.#uuids.get(before);
      names?.delete(nodeName);
      for (const name of names ?? []) touched.add(name);
      if (names?.size === 0) this.#uuids.delete(before);
    }
    if (uuid === undefined) this.#uuidOf.delete(nodeName);
    else {
      this.#uuidOf.set(nodeName, uuid);
      const names = this.#uuids.get(uuid) ?? new Set<string>();
      for (const name of names) touched.add(name);
      names.add(nodeName);
      this.#uuids.set(uuid, names);
    }
    return [...touched];
  }

  #duplicateOf(nodeName: string): string | undefined {
    const uuid = this.#uuidOf.get(nodeName);
    const names = uuid === undefined ? undefined : this.#uuids.get(uuid);
    if (names === undefined || names.size < 2) return undefined;
    for (const name of names) if (name !== nodeName) return name;
    return undefined;
  }

  note(nodeName: string, note: NodeNote): void {
    const before = this.#notes.get(nodeName);
    const same = before?.state === note.state && before.epoch === note.epoch;
    if (same && before?.imageTrouble?.message === note.imageTrouble?.message) return;
    this.#notes.set(nodeName, note);
    this.onNote(nodeName, before, note);
  }

  forget(nodeName: string): void {
    const before = this.#notes.get(nodeName);
    this.#notes.delete(nodeName);
    if (before) this.onNote(nodeName, before, { state: 'Enrolling', epoch: 0 });
  }

  /** A claim is being written: until that is over, nobody may conclude that the node has none. */
  setClaiming(nodeName: string, underWay: boolean): void {
    if (underWay) this.#claiming.add(nodeName);
    else if (this.#claiming.delete(nodeName)) {
      this.onNote(nodeName, undefined, this.#notes.get(nodeName) ?? { state: 'Enrolling', epoch: 0 });
    }
  }

  stateOf(nodeName: string): NodeState {
    return this.#notes.get(nodeName)?.state ?? this.nodes.getByKey(nodeName)?.status?.state ?? 'Enrolling';
  }

  /** The part of NodeInput that lies outside the node itself. */
  contextOf(
    node: PhysicalNode,
  ): Pick<
    NodeInput,
    'storeId' | 'agentName' | 'location' | 'tenancy' | 'tenancyPending' | 'commissioned' | 'duplicateOf'
  > {
    const { name } = node.metadata;
    const agentName = this.#agentOf.get(name) ?? node.status?.agent ?? '';
    const storeId = this.#links.get(agentName)?.state().hello?.storeId;
    const commission = this.#commissioned.get(agentName);
    const allocation = this.allocationOf(node);
    return {
      storeId,
      agentName,
      location: this.agents.getByKey(agentName)?.spec.location ?? { site: 'unknown', rack: 'unknown' },
      tenancy: allocation ? this.#tenancyOf(node, allocation) : undefined,
      tenancyPending: allocation ? this.#pendingOf(node, allocation) : undefined,
      commissioned: commission !== undefined && commission.storeId === storeId && commission.names.has(name),
      duplicateOf: this.#duplicateOf(name),
    };
  }

  /** The allocation whose word counts for the node: the one that claimed it, or one that chose it. */
  allocationOf(node: PhysicalNode): NodeAllocation | undefined {
    const claim = node.status?.claim;
    if (claim) return this.allocations.getByKey(`${claim.allocation.namespace}/${claim.allocation.name}`);
    const keys = [...this.assignments.allocationsOf(node.metadata.name)].sort();
    for (const key of keys) {
      if (this.assignments.get(key, node.metadata.name)?.role === 'Placed') return this.allocations.getByKey(key);
    }
    return undefined;
  }

  #tenancyOf(node: PhysicalNode, allocation: NodeAllocation): Tenancy | undefined {
    const { spec, status, metadata } = allocation;
    if (metadata.uid === undefined) return undefined;
    const namespace = metadata.namespace ?? '';
    const key = `${namespace}/${metadata.name}`;
    const assignment = this.assignments.get(key, node.metadata.name);
    const stored = status?.environment;
    // What ends needs no environment: an allocation whose status was lost or edited can still be deleted.
    const ends = assignment?.role === 'Ending';
    if (stored === undefined && !ends) return undefined;
    return {
      namespace,
      name: metadata.name,
      allocationUid: metadata.uid,
      role: assignment?.role ?? 'Unlisted',
      ...(assignment?.endReason === undefined ? {} : { endReason: assignment.endReason }),
      updating: assignment?.updating ?? false,
      suspended: spec.suspend,
      domain: domainOf(allocation),
      egress: spec.isolation.egress,
      devirtualize: spec.devirtualize,
      environment: stored === undefined || ends ? nothingToRun : this.#environmentOf(stored),
      hostname: node.metadata.name,
      sshKeys: spec.access?.sshKeys ?? [],
      erase: spec.reclaim.erase,
    };
  }

  /** What holds for a claimed node while the allocation's status does not say what its nodes run. */
  #pendingOf(node: PhysicalNode, { spec, status, metadata }: NodeAllocation): NodeInput['tenancyPending'] {
    const { name } = node.metadata;
    const claim = node.status?.claim;
    const uid = claim?.allocation.uid;
    if (claim === undefined || uid !== metadata.uid || status?.environment !== undefined) return undefined;
    const isPlaced = this.assignments.get(`${metadata.namespace ?? ''}/${metadata.name}`, name)?.role === 'Placed';
    const { egress } = spec.isolation;
    return isPlaced ? { isolation: { allocationUid: claim.allocation.uid, domain: claim.domain, egress } } : {};
  }

  #environmentOf(stored: { revision: string; definition: string }): Environment {
    const known = this.#environments.get(stored.definition);
    if (known) return known;
    if (this.#environments.size > 1_000) this.#environments.clear();
    const environment = environmentFrom(stored);
    this.#environments.set(stored.definition, environment);
    return environment;
  }

  member(allocation: NodeAllocation, nodeName: string): MemberView {
    const node = this.nodes.getByKey(nodeName);
    const note = this.#notes.get(nodeName);
    const status = node?.status ?? {};
    const state = this.stateOf(nodeName);
    const { claim, end, lastError } = status;
    const claimed = claim?.allocation.uid === allocation.metadata.uid;
    const facts = this.lastFactsOf(nodeName);
    // What an agent says under an epoch counts for that epoch alone.
    const current = facts !== undefined && claim !== undefined && observationCounts(facts, claim.epoch);
    // A conclusion from before the claim was renewed says nothing of the new one.
    const fresh = note === undefined || note.epoch === claim?.epoch;
    const runs = claimed && end === undefined && fresh && guestRuns(state);
    // An agent whose log is another than the claim was made in knows nothing of the guest.
    const trusted = facts !== undefined && this.linkOf(nodeName)?.state().hello?.storeId === status.storeId;
    const reachable = this.factsOf(nodeName) !== undefined;
    const off = runs && current && isOffInUse(facts);
    const why = off && node ? leftOff(node, allocation.spec.suspend) : undefined;
    const ready = runs && !off;
    return {
      name: nodeName,
      state,
      claimed,
      claiming: this.#claiming.has(nodeName),
      unavailable: !claimed && this.#cannotBeClaimed(nodeName, node, allocation),
      endRecorded: end !== undefined,
      fenced: status.writtenOff !== undefined || (facts !== undefined && isolatedIn(facts, 'quarantine')),
      reachable,
      isolated: claimed && (facts && claim ? isolatedIn(facts, claim.domain) : runs),
      // Without a record that says otherwise, a claimed node is in use.
      guestStarted: claimed && (!trusted || guestMayHaveRun(facts, status)),
      ready,
      down: claimed && !ready && trusted && reachable && !mayRun(state, facts),
      installed: runs && isInstalled(state),
      devirtualized: runs && state === 'BareMetal',
      ...(off ? { off: why === undefined ? {} : { why } } : {}),
      ...(lastError === undefined || !claimed || end !== undefined ? {} : { failure: lastError }),
      ...(note?.imageTrouble === undefined ? {} : { imageTrouble: note.imageTrouble }),
      localBytes: current ? facts.copy.localBytes : 0,
      totalBytes: current ? facts.copy.totalBytes : 0,
      ...(claim === undefined ? {} : { revision: claim.revision }),
      rack: status.location?.rack ?? '',
    };
  }

  #cannotBeClaimed(nodeName: string, node: PhysicalNode | undefined, allocation: NodeAllocation): boolean {
    if (node === undefined) return true;
    if (node.status?.claim) {
      const { namespace, name } = node.status.claim.allocation;
      return namespace !== allocation.metadata.namespace || name !== allocation.metadata.name;
    }
    if (node.status?.end || node.spec?.maintenance || node.metadata.deletionTimestamp) return true;
    const link = this.linkOf(nodeName);
    if (link === undefined) return true;
    const { connected, synced, changedAtMs } = link.state();
    if (!connected || !synced) return this.#nowMs() - changedAtMs > patienceMs;
    return this.stateOf(nodeName) !== 'Available';
  }
}

/** The isolation domain of an allocation: its own, or its group's within the namespace. */
function domainOf(allocation: NodeAllocation): string {
  const { group } = allocation.spec.isolation;
  return group === undefined
    ? `allocation/${allocation.metadata.uid}`
    : `group/${allocation.metadata.namespace}/${group}`;
}

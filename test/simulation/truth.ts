/**
 * What truly happened, as somebody sees it who stands beside the machines and reads over the API server's shoulder: kept apart from
 * the code under test, for the checkers to judge by.
 *
 * Invariants:
 * 1. Nothing here comes from an operator's or an agent's memory. What owners and persons asked for is read from the objects that
 *    they wrote; what was done, from the machines.
 * 2. A checker sees every event before the state here takes it in.
 */
import type { SimMachine } from '../../agent/drivers/simulated/machine.ts';
import type { RoomEvent } from '../../agent/drivers/simulated/store.ts';
import type { Row } from '../../agent/row.ts';
import { parseHostlist } from '../../controller/api/hostlist.ts';
import { configMaps, nodeAllocations, physicalNodes } from '../../controller/api/meta.ts';
import type { Instruction, Port } from '../../controller/api/protocol.generated.ts';
import type { NodeAllocation, PhysicalNode } from '../../controller/api/types.generated.ts';
import type { ConfigMap } from '../../controller/gitops/inventory.ts';
import type { GroupVersionKind, KubeObject } from '../../controller/kube/port.ts';
import { allCheckers } from './checkers/all.ts';
import type { Checker, Violation } from './checkers/checker.ts';
import type { DriverAct } from './driver-tap.ts';
import type { Repository } from './git-repository.ts';
import { operatorNamespace, type SyncWrite, syncName } from './git-sync.ts';
import { type MachineTruth, newMachine, operatorKnows, takeIn } from './machine-truth.ts';

type Claim = NonNullable<NonNullable<PhysicalNode['status']>['claim']>;

export interface EndTruth {
  readonly reason: string;
  readonly atMs: number;
}

export interface DecisionTruth {
  readonly action: string;
  /** That it names. */
  readonly epoch: number;
  readonly atMs: number;
  /** The node was shown as held when it was made. */
  readonly held: boolean;
  /** Of that node, operator or agent had lost records by then. */
  readonly recordsLost: boolean;
}

export interface AllocationTruth {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  /** As stored last. */
  object: NodeAllocation;
  /** Its object was taken away without the operator's consent, or by a restore. */
  vanished: boolean;
  gone: boolean;
  /** It was ever deleted, or to be, with deletionPolicy Retain. */
  retained: boolean;
  /** Revisions that its owner asked for; `any` once the policy was Rolling. */
  readonly asked: Set<string>;
  /** SSH keys that its owner ever put into its spec. */
  readonly keys: Set<string>;
  /** Nodes that its committed status gave up, by name. */
  readonly ends: Map<string, EndTruth>;
}

export interface ApiWrite {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED';
  readonly kind: string;
  readonly object: KubeObject;
  readonly old: KubeObject | undefined;
}

/** What the truth needs of the world. */
export interface Ground {
  readonly clock: { now(): number; monotonic(): number };
  readonly trace: { add(who: string, what: string): void };
  /** The machine itself. */
  machine(node: string): SimMachine | undefined;
  /** Which the operator follows, where it follows one. */
  repository(): Repository | undefined;
  /** What people define and the API server holds, by `Kind/name`. */
  tenantObjects(): ReadonlyMap<string, KubeObject>;
  /** What the sync of that repository says of itself. */
  syncStatus(): Readonly<Record<string, string>> | undefined;
  /** As the switch's driver shows the node's ports now. */
  shownPorts(node: string): readonly Port[];
  /** Tokens of what was asked of the node's drivers and can still take effect, as they show it. */
  pendingTokens(node: string): readonly string[];
}

export class Truth {
  readonly ground: Ground;
  readonly machines = new Map<string, MachineTruth>();
  readonly allocations = new Map<string, AllocationTruth>();
  /** As stored now. */
  readonly nodes = new Map<string, PhysicalNode>();
  readonly violations: Violation[] = [];
  /** What a person decided (spec.decision), by node. */
  readonly decisions = new Map<string, DecisionTruth[]>();
  /** No fault strikes in this run. */
  faultless = false;
  /** Tenancies: claims that were written. */
  tenancies = 0;
  /** Instructions accepted and commands given to drivers, since the start; at rest it stands still. */
  deeds = 0;
  /** When the API server was last put back to an older state. */
  restoredAtMs = Number.NEGATIVE_INFINITY;
  /** Writes to objects of ours, since the start; at rest it stands still. */
  writes = 0;
  readonly #checkers: readonly Checker[];

  constructor(ground: Ground, checkers?: readonly Checker[]) {
    this.ground = ground;
    this.#checkers = checkers ?? allCheckers((rule, message) => this.violated(rule, message));
  }

  violated(rule: number, message: string): void {
    this.ground.trace.add(`rule ${rule}`, `BROKEN: ${message}`);
    this.violations.push({ rule, message, atMs: this.ground.clock.monotonic() });
  }

  machine(node: string, rack = ''): MachineTruth {
    let machine = this.machines.get(node);
    if (machine === undefined) {
      machine = newMachine(node, rack);
      this.machines.set(node, machine);
    }
    // A PhysicalNode may be the first to name it, and says nothing of its rack.
    if (machine.rack === '') machine.rack = rack;
    return machine;
  }

  nameOf(uid: string | undefined): string {
    return (uid === undefined ? undefined : this.allocations.get(uid)?.name) ?? uid ?? 'nobody';
  }

  roomEvent(rack: string, event: RoomEvent): void {
    const machine = this.machine(event.node, rack);
    this.ground.trace.add(event.node, `${event.event} ${JSON.stringify(event.detail)}`);
    for (const checker of this.#checkers) checker.machine?.(event, machine, this);
    takeIn(this, machine, event);
  }

  /** Whether this log of the node's agent was seen to accept it. */
  knows({ node, operationId }: Instruction): boolean {
    const { operations, generation } = this.machine(node);
    return operations.has(`${generation} ${operationId}`);
  }

  accepted(agent: string, instruction: Instruction, term: number, storeId = ''): void {
    const machine = this.machine(instruction.node, agent);
    machine.storeId = storeId;
    this.deeds++;
    for (const checker of this.#checkers) checker.accepted?.(instruction, term, machine, this);
    // One that comes again changes nothing, also where the epoch changed hands meanwhile.
    const isKnown = this.knows(instruction);
    machine.operations.add(`${machine.generation} ${instruction.operationId}`);
    if (!isKnown && (instruction.verb === 'isolate' || instruction.verb === 'reimage')) {
      machine.epochs.set(instruction.epoch, instruction.args.allocation);
      machine.forgotten.byAgent.delete(instruction.epoch);
      machine.forgotten.byOperator.delete(instruction.epoch);
    }
  }

  acted(agent: string, node: string, act: DriverAct, storeId = ''): void {
    const machine = this.machine(node, agent);
    machine.storeId = storeId;
    this.deeds++;
    for (const checker of this.#checkers) checker.acted?.(act, machine, this);
  }

  logWritten(agent: string, rows: readonly Row[], storeId = ''): void {
    for (const row of rows) {
      const machine = this.machine(row.node, agent);
      machine.storeId = storeId;
      for (const checker of this.#checkers) checker.logged?.(row, machine, this);
    }
  }

  apiWrite(gvk: GroupVersionKind, type: ApiWrite['type'], object: KubeObject, old: KubeObject | undefined): void {
    if (gvk.kind === configMaps.kind && object.metadata.namespace === operatorNamespace) {
      this.writes++;
      const isStatus = object.metadata.name === `${syncName}-sync`;
      for (const checker of this.#checkers) if (isStatus) checker.told?.((object as ConfigMap).data ?? {}, this);
    }
    if (gvk.group !== nodeAllocations.group) return;
    this.writes++;
    const write: ApiWrite = { type, kind: gvk.kind, object, old };
    for (const checker of this.#checkers) checker.written?.(write, this);
    if (gvk.kind === nodeAllocations.kind) this.#allocationWritten(write);
    if (gvk.kind === physicalNodes.kind) this.#nodeWritten(write);
  }

  /** The sync of the repository wrote. */
  synced(write: SyncWrite): void {
    this.ground.trace.add('sync', `${write.verb} ${write.kind}/${write.name}`);
    for (const checker of this.#checkers) checker.synced?.(write, this);
  }

  #allocationWritten({ type, object }: ApiWrite): void {
    const allocation = object as NodeAllocation;
    const { uid = '', namespace = '', name } = allocation.metadata;
    let known = this.allocations.get(uid);
    if (known === undefined) {
      known = {
        uid,
        namespace,
        name,
        object: allocation,
        vanished: false,
        gone: false,
        retained: false,
        asked: new Set(),
        keys: new Set(),
        ends: new Map(),
      };
      this.allocations.set(uid, known);
    }
    known.object = allocation;
    known.gone = type === 'DELETED';
    const { spec, status } = allocation;
    if (spec.deletionPolicy === 'Retain') known.retained = true;
    if (spec.update.revision) known.asked.add(spec.update.revision);
    if (spec.update.policy === 'Rolling') known.asked.add('any');
    for (const key of spec.access?.sshKeys ?? []) known.keys.add(key);
    for (const { reason, nodes } of status?.ending ?? []) {
      for (const node of parseHostlist(nodes)) {
        if (!known.ends.has(node)) known.ends.set(node, { reason, atMs: this.ground.clock.monotonic() });
      }
    }
  }

  /** The agent of the rack lost what it had written to its log, or all of it. @param left what is still there */
  agentForgot(rack: string, left: readonly Row[]): void {
    for (const machine of this.machines.values()) {
      if (machine.rack !== rack) continue;
      machine.generation++;
      const known = left.find(({ node }) => node === machine.name)?.epoch ?? 0;
      for (const epoch of machine.epochs.keys()) if (epoch > known) machine.forgotten.byAgent.add(epoch);
    }
  }

  /** The API server was put back to an older state: what stands there now was not written. */
  restored(nodes: readonly PhysicalNode[], allocations: readonly NodeAllocation[]): void {
    this.restoredAtMs = this.ground.clock.monotonic();
    this.nodes.clear();
    for (const node of nodes) this.nodes.set(node.metadata.name, node);
    for (const machine of this.machines.values()) {
      machine.tampered = 'the API server was restored from a backup';
      operatorKnows(machine, this.nodes.get(machine.name));
    }
    const present = new Map(allocations.map((allocation) => [allocation.metadata.uid ?? '', allocation]));
    for (const known of this.allocations.values()) {
      const object = present.get(known.uid);
      if (object !== undefined) known.object = object;
      else if (!known.gone) known.vanished = true;
      known.gone = object === undefined;
    }
    for (const { metadata, status } of nodes) {
      if (status?.claim !== undefined) this.#takenOver(metadata.name, status.claim);
    }
  }

  #nodeWritten({ type, object, old }: ApiWrite): void {
    const node = object as PhysicalNode;
    if (type === 'DELETED') this.nodes.delete(node.metadata.name);
    else this.nodes.set(node.metadata.name, node);
    const before = old as PhysicalNode | undefined;
    const { name } = node.metadata;
    operatorKnows(this.machine(name), type === 'DELETED' ? undefined : node);
    const { decision } = node.spec ?? {};
    if (decision !== undefined && JSON.stringify(decision) !== JSON.stringify(before?.spec?.decision)) {
      this.decisions.set(name, [
        ...(this.decisions.get(name) ?? []),
        this.#decided(decision, name, before?.status?.state),
      ]);
    }
    const claim = node.status?.claim;
    const earlier = before?.status?.claim;
    if (claim === undefined || (earlier?.epoch === claim.epoch && earlier.allocation.uid === claim.allocation.uid)) {
      return;
    }
    if (earlier?.epoch !== claim.epoch) {
      this.tenancies++;
      // What it gave up once it has again; not so where a person's Adopt came when its end was decided, and is still to be recorded.
      const owner = this.allocations.get(claim.allocation.uid);
      const ending = (owner?.object.status?.ending ?? []).flatMap(({ nodes }) => parseHostlist(nodes));
      if (earlier === undefined && !ending.includes(name)) owner?.ends.delete(name);
    }
    this.machine(name).revisions.set(claim.epoch, claim.revision);
    this.#takenOver(name, claim, earlier?.epoch === claim.epoch);
  }

  #decided(
    { action, epoch }: { action: string; epoch: number },
    node: string,
    state: string | undefined,
  ): DecisionTruth {
    const { generation, tampered } = this.machine(node);
    const held = state === 'Quarantined' || state === 'Orphaned';
    const recordsLost = generation > 0 || tampered !== undefined;
    return { action, epoch, held, recordsLost, atMs: this.ground.clock.monotonic() };
  }

  /**
   * An allocation of the same name takes over what another one left: from then on the data is its own.
   * @param isHandedOn the very tenancy goes on under it: an end that the other one had decided went with that one
   */
  #takenOver(node: string, { allocation: claimant, epoch, revision }: Claim, isHandedOn = false): void {
    const machine = this.machine(node);
    const named = this.allocations.get(machine.epochs.get(epoch) ?? '');
    // Before its guest ran: what will run under this epoch is the claimant's, whatever the agent was told first.
    if (named?.namespace === claimant.namespace && named.name === claimant.name)
      machine.epochs.set(epoch, claimant.uid);
    const owner = this.allocations.get(machine.data?.owner ?? '');
    if (machine.data === undefined || owner === undefined || owner.uid === claimant.uid) return;
    const same = owner.namespace === claimant.namespace && owner.name === claimant.name;
    const ended = owner.ends.has(node) && machine.tampered === undefined && !isHandedOn;
    if (!same || !owner.gone || ended) return;
    machine.data = { ...machine.data, owner: claimant.uid };
    // An update that was asked for goes on under the new one.
    if (owner.asked.has(revision) || owner.asked.has('any')) this.allocations.get(claimant.uid)?.asked.add(revision);
  }

  /** Called when the run has come to rest. */
  atRest(): void {
    for (const checker of this.#checkers) checker.atRest?.(this);
  }
}

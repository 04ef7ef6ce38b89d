/**
 * The world of one run: the API server, the processes of the operator, the racks with their agents, and what happens to them. Nothing
 * of what is tested is replaced; network, disks, machines, clocks and chance are.
 *
 * Invariants:
 * 1. Everything follows from the seed: no clock, chance or I/O but the world's.
 * 2. What a fault did is counted by its kind.
 */
import { defaultRoom, type RoomOptions } from '../../agent/drivers/simulated/options.ts';
import {
  bitVisorAgents,
  computeEnvironments,
  configMaps,
  nodeAllocations,
  physicalNodes,
} from '../../controller/api/meta.ts';
import type {
  BitVisorAgent,
  ComputeEnvironment,
  NodeAllocation,
  PhysicalNode,
} from '../../controller/api/types.generated.ts';
import type { ConfigMap } from '../../controller/gitops/inventory.ts';
import { leaseKind } from '../../controller/kube/lease.ts';
import { createMemoryKube, type MemoryKube, type MemorySnapshot } from '../../controller/kube/memory.ts';
import { type GroupVersionKind, KubeError, type KubeObject, type ObjectKey } from '../../controller/kube/port.ts';
import type { Random } from '../../controller/runtime/random.ts';
import { settleWithoutIo, VirtualClock } from '../support/virtual-clock.ts';
import { AgentHost } from './agent-host.ts';
import { type AgentChances, noAgentChances } from './agent-network.ts';
import { int, stream } from './chance.ts';
import { GitPeople } from './git-people.ts';
import { refuseImmutable, syncName } from './git-sync.ts';
import { type ApiChances, noApiChances } from './kube-network.ts';
import { OperatorProcess, type ProcessOptions } from './operator-process.ts';
import { Trace } from './trace.ts';
import { Truth } from './truth.ts';

export interface WorldOptions {
  readonly seed: number;
  /** Rack name to hostlist. */
  readonly racks: Readonly<Record<string, string>>;
  /** Processes of the operator. */
  readonly replicas: number;
  readonly room?: Partial<RoomOptions>;
  /** Some tenants keep their allocations in a git repository that the operator follows. */
  readonly git?: boolean;
  /** Every line of the trace, and what processes log. */
  readonly print?: (line: string) => void;
}

/** A fault of the code under test that no rule names, such as an exception. */
export interface Unexpected {
  readonly where: string;
  readonly error: unknown;
}

const longestRestartMs = 20_000;

export class World {
  readonly seed: number;
  readonly clock = new VirtualClock(undefined, settleWithoutIo);
  readonly trace: Trace;
  readonly verbose: boolean;
  readonly print: (line: string) => void;
  readonly room: RoomOptions;
  readonly truth: Truth;
  /** The people's and the checkers' own way to the API server: without faults. */
  readonly kube: MemoryKube;
  readonly agents = new Map<string, AgentHost>();
  readonly processes: OperatorProcess[] = [];
  readonly unexpectedErrors: Unexpected[] = [];
  /** Faults that struck, by kind. */
  readonly strikes = new Map<string, number>();
  api: ApiChances = { ...noApiChances };
  agentChances: AgentChances = { ...noAgentChances };
  /** A write to an agent's log is not flushed with this chance: it is lost in a crash that forgets. */
  unflushedChance = 0;
  /** Of the API server's store, made by somebody, to be put back later. */
  backup: MemorySnapshot | undefined;
  /** What a process of the operator is started with, drawn for each. */
  processOptions: () => ProcessOptions = () => ({});
  readonly agentRandom: Random;
  /** Those who keep their allocations in git; undefined where nobody does. */
  readonly git: GitPeople | undefined;
  /** What each stored object took the place of, where somebody keeps allocations in git; most writes are of the Lease, which nobody keeps there. */
  readonly replaced = new WeakMap<KubeObject, KubeObject>();
  readonly #random: Random;
  readonly #streams = new Map<string, Random>();
  readonly #hosts = new Map<string, AgentHost>();
  #processes = 0;
  /** Processes that died and are started again later; each entry calls that off. */
  readonly #restarts = new Set<() => void>();
  /** While no process of the operator runs at all: ends that, at once. */
  #up: (() => void) | undefined;
  /** Whether processes and agents that died are started again after a while, or at once. */
  calm = false;

  constructor({ seed, racks, replicas, room, git = false, print }: WorldOptions) {
    this.seed = seed;
    this.verbose = print !== undefined;
    this.print = print ?? (() => {});
    this.trace = new Trace(() => this.clock.monotonic(), print);
    this.room = { ...defaultRoom, historyLimit: 1, ...room };
    this.#random = stream(seed, 'world');
    this.agentRandom = stream(seed, 'agents');
    this.truth = new Truth({
      clock: this.clock,
      trace: this.trace,
      machine: (node) => (this.agents.size > 0 ? this.hostOf(node).rack.machine(node) : undefined),
      pendingTokens: (node) => (this.agents.size > 0 ? this.hostOf(node).pendingTokens(node) : []),
      repository: () => this.git?.repository,
      tenantObjects: () => this.tenantObjects(),
      syncStatus: () => this.syncStatus(),
      shownPorts: (node) => (this.agents.size > 0 ? this.hostOf(node).shownPorts(node) : []),
    });
    this.kube = createMemoryKube({
      clock: this.clock,
      random: stream(seed, 'kube'),
      bookmarkMs: 600_000,
      ...(git ? { validate: refuseImmutable } : {}),
      onWrite: (gvk, type, object, old) => {
        if (git && old !== undefined && gvk !== leaseKind) this.replaced.set(object, old);
        this.truth.apiWrite(gvk, type, object, old);
      },
    });
    this.git = git ? new GitPeople(this) : undefined;
    for (const [name, hosts] of Object.entries(racks)) this.agents.set(name, new AgentHost(this, name, hosts));
    for (const host of this.agents.values()) host.start();
    for (let index = 0; index < replicas; index++) this.startOperator();
  }

  /** A stream of chance of its own for each name. */
  random(name: string): Random {
    const known = this.#streams.get(name) ?? stream(this.seed, name);
    this.#streams.set(name, known);
    return known;
  }

  struck(kind: string): void {
    this.strikes.set(kind, (this.strikes.get(kind) ?? 0) + 1);
  }

  unexpected(where: string, error: unknown): void {
    this.trace.add(where, `unexpected: ${error}`);
    this.unexpectedErrors.push({ where, error });
  }

  startOperator(): OperatorProcess {
    const started = new OperatorProcess(this, `operator-${++this.#processes}`, this.processOptions());
    this.processes.push(started);
    return started;
  }

  restartOperator(dead: OperatorProcess): void {
    const index = this.processes.indexOf(dead);
    if (index >= 0) this.processes.splice(index, 1);
    const cancel = this.clock.setTimer(this.#restartMs(), () => {
      this.#restarts.delete(cancel);
      this.startOperator();
    });
    this.#restarts.add(cancel);
  }

  get isOperatorDown(): boolean {
    return this.#up !== undefined;
  }

  /**
   * Every process is killed, and as many start again after `downMs`: none runs meanwhile, whoever dies or is started.
   * @param started called for each that starts again
   * @returns false where it is down already
   */
  downOperator(downMs: number, started: (process: OperatorProcess) => void): boolean {
    if (this.#up !== undefined) return false;
    const count = this.processes.length + this.#restarts.size;
    for (const cancel of this.#restarts) cancel();
    this.#restarts.clear();
    for (const one of this.processes.splice(0)) one.kill(`killed with every other process, for ${downMs} ms`);
    const cancel = this.clock.setTimer(downMs, () => this.upOperator());
    this.#up = () => {
      cancel();
      for (let index = 0; index < count; index++) started(this.startOperator());
    };
    return true;
  }

  /** Ends what `downOperator` began; nothing where it is over. */
  upOperator(): void {
    const up = this.#up;
    this.#up = undefined;
    up?.();
  }

  restartAgent(host: AgentHost): void {
    this.clock.setTimer(this.#restartMs(), () => host.start());
  }

  #restartMs(): number {
    return this.calm ? 1_000 : 1 + int(this.#random, longestRestartMs);
  }

  attachAgent(host: AgentHost): void {
    for (const one of [...this.processes]) one.agents.attach(host);
  }

  detachAgent(name: string): void {
    for (const one of [...this.processes]) one.agents.detach(name);
  }

  hostOf(node: string): AgentHost {
    const known = this.#hosts.get(node) ?? [...this.agents.values()].find(({ nodes }) => nodes.includes(node));
    if (known === undefined) throw new Error(`no rack holds ${node}`);
    this.#hosts.set(node, known);
    return known;
  }

  get machines(): string[] {
    return [...this.agents.values()].flatMap((host) => host.nodes);
  }

  allocations(): NodeAllocation[] {
    return this.kube.objects<NodeAllocation>(nodeAllocations);
  }

  nodes(): PhysicalNode[] {
    return this.kube.objects<PhysicalNode>(physicalNodes);
  }

  environments(): ComputeEnvironment[] {
    return this.kube.objects<ComputeEnvironment>(computeEnvironments);
  }

  agentObjects(): BitVisorAgent[] {
    return this.kube.objects<BitVisorAgent>(bitVisorAgents);
  }

  /** What people define, by `Kind/name`. */
  tenantObjects(): Map<string, KubeObject> {
    return new Map(
      [computeEnvironments, nodeAllocations].flatMap((gvk) =>
        this.kube.objects(gvk).map((object) => [`${gvk.kind}/${object.metadata.name}`, object] as const),
      ),
    );
  }

  /** What the sync says of itself, and undefined before its first pass. */
  syncStatus(): Readonly<Record<string, string>> | undefined {
    const all = this.kube.objects<ConfigMap>(configMaps);
    return all.find(({ metadata }) => metadata.name === `${syncName}-sync`)?.data;
  }

  /** Somebody edits the object: only an annotation, but it is another version now. */
  async touch(gvk: GroupVersionKind, key: ObjectKey): Promise<void> {
    const note = { metadata: { annotations: { 'example.com/touched': String(this.clock.monotonic()) } } };
    await this.kube.patch(gvk, key, note, { type: 'merge' }).catch((error: unknown) => {
      if (!(error instanceof KubeError)) throw error;
    });
  }

  stop(): void {
    for (const one of [...this.processes]) one.kill('the run is over');
    for (const host of this.agents.values()) host.kill();
  }
}

/**
 * A whole system in one process on a virtual clock: the in-memory API server, the operator, and agents over simulated
 * machines. Nothing of what is tested is replaced, only its network, its disk and its time.
 */
import { createHash } from 'node:crypto';
import { AgentCore } from '../../agent/core.ts';
import { simulatedDrivers } from '../../agent/drivers/simulated/drivers.ts';
import { defaultRoom, type FailingStep, type RoomOptions } from '../../agent/drivers/simulated/options.ts';
import { SimulatedRack } from '../../agent/drivers/simulated/rack.ts';
import { MemoryRackStore } from '../../agent/drivers/simulated/store.ts';
import { MemoryLog } from '../../agent/log.ts';
import { memoryPeer } from '../../agent/memory-peer.ts';
import { MemoryAgents } from '../../controller/agents/memory.ts';
import { parseHostlist } from '../../controller/api/hostlist.ts';
import { bitVisorAgents, computeEnvironments, nodeAllocations, physicalNodes } from '../../controller/api/meta.ts';
import type {
  BitVisorAgent,
  ComputeEnvironment,
  NodeAllocation,
  PhysicalNode,
} from '../../controller/api/types.generated.ts';
import { defaultBlastSettings } from '../../controller/domain/blast.ts';
import { defaultGuardSettings } from '../../controller/domain/deletion-guard.ts';
import { createEventRecorder } from '../../controller/kube/events.ts';
import { createMemoryKube, type MemoryKube } from '../../controller/kube/memory.ts';
import type { GroupVersionKind, KubeClient, KubeObject } from '../../controller/kube/port.ts';
import { type Operator, startOperator } from '../../controller/reconcilers/operator.ts';
import { silentLogger } from '../../controller/runtime/log.ts';
import { type Random, seededRandom } from '../../controller/runtime/random.ts';
import { VirtualClock } from './virtual-clock.ts';

interface Rack {
  readonly hosts: string;
  readonly storeId: string;
  readonly log: MemoryLog;
  readonly store: MemoryRackStore;
  rack: SimulatedRack;
  core: AgentCore;
}

/** Small disks, so that a copy takes a minute and not an hour. */
export const testRoom: RoomOptions = { ...defaultRoom, historyLimit: 100_000 };

export class MachineHall {
  readonly clock = new VirtualClock();
  readonly random: Random;
  readonly kube: MemoryKube;
  readonly agents: MemoryAgents;
  readonly racks = new Map<string, Rack>();
  /** Of every agent that is started from now on, besides those of its drivers. */
  readonly capabilities: string[] = [];
  readonly errors: unknown[] = [];
  readonly writes = new Map<string, number>();
  operator: Operator | undefined;
  term = 0;
  /** Former leaders that still run, by term. */
  readonly #stale = new Map<number, Operator>();
  /** What stands between the operator and its API server; set before `start`. */
  wrapClient: (client: KubeClient) => KubeClient = (client) => client;

  constructor(hosts: Readonly<Record<string, string>>, room: RoomOptions = testRoom, seed = 7) {
    this.random = seededRandom(seed);
    this.kube = createMemoryKube({ clock: this.clock, random: this.random });
    this.agents = new MemoryAgents(this.clock);
    for (const [name, list] of Object.entries(hosts)) this.#addRack(name, list, room);
  }

  #addRack(name: string, hosts: string, room: RoomOptions): void {
    const storeId = `${name}-store`;
    const log = new MemoryLog(storeId);
    const store = new MemoryRackStore(100_000, true);
    const { rack, core } = this.#boot(name, hosts, room, log, store);
    this.racks.set(name, { hosts, storeId, log, store, rack, core });
    this.agents.attach(name, memoryPeer(core));
  }

  #boot(
    name: string,
    hosts: string,
    room: RoomOptions,
    log: MemoryLog,
    store: MemoryRackStore,
  ): { rack: SimulatedRack; core: AgentCore } {
    const { clock, random } = this;
    const nodes = parseHostlist(hosts);
    const onError = (error: unknown): void => void this.errors.push(error);
    const rack = new SimulatedRack({ nodes, room, store, clock, random, progressIntervalMs: 1_000, onError });
    return { rack, core: this.#core(name, nodes, rack, log) };
  }

  /** The agent's process dies and comes back; its log and the machines stay. */
  restartAgent(name: string): void {
    const rack = this.racks.get(name);
    if (rack === undefined) throw new Error(`there is no agent ${name}`);
    this.agents.detach(name);
    rack.core.close();
    rack.core = this.#core(name, parseHostlist(rack.hosts), rack.rack, rack.log);
    this.agents.attach(name, memoryPeer(rack.core));
  }

  #core(name: string, nodes: readonly string[], rack: SimulatedRack, log: MemoryLog): AgentCore {
    const { clock, random } = this;
    const onError = (error: unknown): void => void this.errors.push(error);
    const drivers = simulatedDrivers(rack);
    return new AgentCore({
      name,
      version: 'test',
      nodes,
      drivers: { ...drivers, capabilities: [...drivers.capabilities, ...this.capabilities] },
      log,
      clock,
      random,
      onError,
    });
  }

  /** What the machines did, by kind of event. */
  history(node: string, event: string): number {
    let count = 0;
    for (const { rack } of this.racks.values()) {
      count += rack.history().filter((entry) => entry.node === node && entry.event === event).length;
    }
    return count;
  }

  async start(): Promise<void> {
    this.term++;
    const { clock, random, kube } = this;
    const term = this.term;
    const started = startOperator(
      {
        client: this.wrapClient(this.#counted(kube.connect())),
        connector: this.agents,
        events: createEventRecorder({ client: kube, component: 'test', clock, random, log: silentLogger }),
        clock,
        random,
        log: silentLogger,
        term: () => (this.term === term || this.#stale.has(term) ? term : undefined),
        raiseTerm: () => {},
        settings: { deletions: defaultGuardSettings, blast: defaultBlastSettings, drainSeconds: 30 },
      },
      new AbortController().signal,
    );
    let done = false;
    void started.then((operator) => {
      this.operator = operator;
      done = true;
    });
    await clock.runUntil(() => done);
  }

  /** The operator's own client; every write that it makes is counted, by kind and name. */
  #counted(client: KubeClient): KubeClient {
    const count = (gvk: GroupVersionKind, name: string): void => {
      const key = `${gvk.kind}/${name}`;
      this.writes.set(key, (this.writes.get(key) ?? 0) + 1);
    };
    return {
      get: (...args) => client.get(...args),
      list: (...args) => client.list(...args),
      watch: (...args) => client.watch(...args),
      create: (gvk, object, options) => {
        count(gvk, object.metadata.name);
        return client.create(gvk, object, options);
      },
      patch: (gvk, key, patch, options) => {
        count(gvk, key.name);
        return client.patch(gvk, key, patch, options);
      },
      delete: (gvk, key, options) => {
        count(gvk, key.name);
        return client.delete(gvk, key, options);
      },
      close: () => client.close(),
    };
  }

  totalWrites(): number {
    return [...this.writes.values()].reduce((sum, count) => sum + count, 0);
  }

  /** The operator is gone at once, whatever it was doing; a new one starts with empty memory. */
  async crash(): Promise<void> {
    this.term++;
    void this.operator?.stop();
    this.operator = undefined;
    await this.start();
  }

  /** A new leader begins while the old one goes on in the belief that it leads. */
  async split(): Promise<void> {
    if (this.operator !== undefined) this.#stale.set(this.term, this.operator);
    this.operator = undefined;
    await this.start();
  }

  /** Old leaders learn that they are none. */
  heal(): void {
    for (const old of this.#stale.values()) void old.stop();
    this.#stale.clear();
  }

  async stop(): Promise<void> {
    this.heal();
    const stopping = this.operator?.stop();
    this.operator = undefined;
    let done = stopping === undefined;
    void stopping?.then(() => {
      done = true;
    });
    await this.clock.runUntil(() => done);
  }

  async apply<T extends KubeObject>(gvk: GroupVersionKind, object: T): Promise<T> {
    return this.kube.create(gvk, object);
  }

  async addAgents({ commission = true } = {}): Promise<void> {
    for (const [name, { hosts, storeId }] of this.racks) {
      const agent: BitVisorAgent = {
        metadata: { name },
        spec: {
          endpoint: 'https://agent.example:7443',
          trust: {},
          location: { site: 'test', rack: name },
          nodes: hosts,
          ...(commission ? { commission: { storeId, nodes: hosts } } : {}),
        },
      };
      await this.apply(bitVisorAgents, agent);
    }
  }

  async environment(name: string, change: Partial<ComputeEnvironment['spec']> = {}): Promise<ComputeEnvironment> {
    return this.apply<ComputeEnvironment>(computeEnvironments, {
      metadata: { name, namespace: 'cfd' },
      spec: {
        os: { family: 'Linux', name: 'Rocky Linux', architecture: 'x86_64' },
        image: {
          url: `https://images.example/${name}.raw`,
          format: 'Raw',
          size: '8Gi',
          sha256: sha(`https://images.example/${name}.raw`),
        },
        boot: { firmware: 'Uefi' },
        install: { yield: 'Fair', disk: { media: 'Any' } },
        vmm: { dataPorts: 'Passthrough' },
        requirements: {},
        allowedNamespaces: { from: 'Same' },
        ...change,
      },
    });
  }

  async allocation(
    name: string,
    environment: string,
    replicas: number,
    change: Partial<NodeAllocation['spec']> = {},
  ): Promise<NodeAllocation> {
    return this.apply<NodeAllocation>(nodeAllocations, {
      metadata: { name, namespace: 'cfd' },
      spec: {
        environmentRef: { name: environment },
        replicas,
        placement: {},
        isolation: { egress: 'None' },
        devirtualize: 'WhenInstalled',
        update: { policy: 'OnDemand', maxUnavailable: 1 },
        failurePolicy: 'Report',
        reclaim: { erase: 'Quick', gracePeriod: '5m' },
        deletionPolicy: 'Release',
        priority: 0,
        suspend: false,
        ...change,
      },
    });
  }

  nodes(): PhysicalNode[] {
    return [...(this.operator?.fleet.nodes.values() ?? [])];
  }

  seen(name: string): NodeAllocation | undefined {
    return this.operator?.fleet.allocations.getByKey(`cfd/${name}`);
  }

  /** Whether the allocation is Ready and nothing is left to do. */
  settled(name: string): boolean {
    const is = (type: string): string | undefined =>
      this.seen(name)?.status?.conditions?.find((condition) => condition.type === type)?.status;
    return is('Reconciling') === 'False' && is('Ready') === 'True';
  }

  /** The environment gets another image, and with it another revision. */
  newImage(name: string): Promise<ComputeEnvironment> {
    const url = 'https://images.example/new.raw';
    const image = { url, size: '8Gi', format: 'Raw', sha256: sha(url) };
    return this.kube.patch(computeEnvironments, { namespace: 'cfd', name }, { spec: { image } }, { type: 'merge' });
  }

  inState(state: string): number {
    return this.nodes().filter((node) => node.status?.state === state).length;
  }

  edit(name: string, patch: unknown): Promise<NodeAllocation> {
    return this.kube.patch(nodeAllocations, { namespace: 'cfd', name }, patch, { type: 'merge' });
  }

  digestOf(url: string): string {
    return sha(url);
  }

  /** The machine's next such step fails. */
  failNext(node: string, step: FailingStep): void {
    for (const { rack, hosts } of this.racks.values())
      if (parseHostlist(hosts).includes(node)) rack.failNext(node, step);
  }

  /** As after a restore from a backup that was made before the claim. */
  async forgetStatus(node: string): Promise<void> {
    const status = Object.fromEntries(
      Object.keys(this.nodes().find((one) => one.metadata.name === node)?.status ?? {}).map((key) => [key, null]),
    );
    await this.kube.patch(physicalNodes, { name: node }, { status }, { type: 'merge', subresource: 'status' });
  }

  decide(node: string, patch: unknown): Promise<PhysicalNode> {
    return this.kube.patch(physicalNodes, { name: node }, patch, { type: 'merge' });
  }
}

function sha(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

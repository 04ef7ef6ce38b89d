/**
 * What tenants and administrators do when nothing is wrong: the work that every run has, whatever its faults.
 *
 * Invariant: an action that finds its object gone or changed does nothing; people see errors and go on.
 */
import { createHash } from 'node:crypto';
import { bitVisorAgents, computeEnvironments, nodeAllocations, physicalNodes } from '../../controller/api/meta.ts';
import type {
  BitVisorAgent,
  ComputeEnvironment,
  NodeAllocation,
  PhysicalNode,
} from '../../controller/api/types.generated.ts';
import { type GroupVersionKind, KubeError, type KubeObject, type ObjectKey } from '../../controller/kube/port.ts';
import type { Random } from '../../controller/runtime/random.ts';
import type { AgentHost } from './agent-host.ts';
import { chance, int, pick, pickMaybe, weighted } from './chance.ts';
import type { World } from './world.ts';

const namespace = 'cfd';
/** Names of allocations; each has an environment of its own, and some may use the shared one. */
const tenants = ['a', 'b', 'c', 'd', 'e'];
const sharedEnvironment = 'env-shared';

export class People {
  readonly #world: World;
  readonly #random: Random;
  #images = 0;
  /** Store id that was commissioned, by rack: a log that came later may be that of machines which hold tenants' data. */
  readonly #commissioned = new Map<string, string>();

  constructor(world: World) {
    this.#world = world;
    this.#random = world.random('people');
  }

  /** Accepts the racks, and publishes an environment for everybody. */
  async moveIn(): Promise<void> {
    for (const host of this.#world.agents.values()) await this.accept(host);
    for (const name of [...tenants.map((tenant) => `env-${tenant}`), sharedEnvironment]) await this.publish(name);
  }

  accept({ name, hosts, log }: AgentHost): Promise<BitVisorAgent> {
    const storeId = this.#commissioned.get(name) ?? log.storeId;
    this.#commissioned.set(name, storeId);
    return this.apply<BitVisorAgent>(bitVisorAgents, {
      metadata: { name },
      spec: {
        endpoint: 'https://agent.example:7443',
        trust: {},
        location: { site: 'test', rack: name },
        nodes: hosts,
        commission: { storeId, nodes: hosts },
      },
    });
  }

  /** What was mistaken about the racks is put right: each is accepted with all its nodes. */
  async putAgentsRight(): Promise<void> {
    const present = new Map(this.#world.agentObjects().map((agent) => [agent.metadata.name, agent]));
    for (const host of this.#world.agents.values()) {
      const agent = present.get(host.name);
      if (agent === undefined) await this.accept(host);
      else if (agent.spec.nodes !== host.hosts) {
        await this.edit(bitVisorAgents, { name: host.name }, { spec: { nodes: host.hosts } });
      }
    }
  }

  apply<T extends KubeObject>(gvk: GroupVersionKind, object: T): Promise<T> {
    return this.#world.kube.create(gvk, object);
  }

  newImage(): ComputeEnvironment['spec']['image'] {
    const url = `https://images.example/${++this.#images}.raw`;
    return { url, format: 'Raw', size: pick(this.#random, ['2Gi', '8Gi']), sha256: digestOf(url) };
  }

  publish(name: string): Promise<ComputeEnvironment> {
    return this.apply<ComputeEnvironment>(computeEnvironments, {
      metadata: { name, namespace },
      spec: {
        os: { family: 'Linux', name: 'Rocky Linux', architecture: 'x86_64' },
        image: this.newImage(),
        boot: { firmware: 'Uefi' },
        install: { yield: 'Fair', disk: { media: 'Any' } },
        vmm: { dataPorts: 'Passthrough' },
        requirements: {},
        allowedNamespaces: { from: 'Same' },
      },
    });
  }

  allocation(): NodeAllocation | undefined {
    return pickMaybe(this.#random, this.#world.allocations());
  }

  physicalNode(): PhysicalNode | undefined {
    return pickMaybe(this.#random, this.#world.nodes());
  }

  edit<T extends KubeObject>(gvk: GroupVersionKind, key: ObjectKey, patch: unknown): Promise<T | undefined> {
    return unlessGone(this.#world.kube.patch<T>(gvk, key, patch, { type: 'merge' }));
  }

  editAllocation(name: string, patch: unknown): Promise<NodeAllocation | undefined> {
    return this.edit(nodeAllocations, { namespace, name }, patch);
  }

  async delete(gvk: GroupVersionKind, key: ObjectKey): Promise<void> {
    await unlessGone(this.#world.kube.delete(gvk, key));
  }

  async create(name: string): Promise<void> {
    const random = this.#random;
    const replicas = 1 + int(random, 3);
    const grouped = chance(random, 0.15);
    await this.apply<NodeAllocation>(nodeAllocations, {
      metadata: { name, namespace },
      spec: {
        environmentRef: { name: chance(random, 0.25) ? sharedEnvironment : `env-${name}` },
        replicas,
        ...(chance(random, 0.3) ? { minReplicas: 1 } : {}),
        placement: {},
        isolation: { egress: 'None', ...(grouped ? { group: 'project' } : {}) },
        access: { sshKeys: [`ssh-ed25519 KEY-${name}-${this.#world.clock.monotonic()}`] },
        devirtualize: chance(random, 0.3) ? 'Never' : 'WhenInstalled',
        update: { policy: chance(random, 0.5) ? 'Rolling' : 'OnDemand', maxUnavailable: 1 + int(random, 2) },
        failurePolicy: chance(random, 0.5) ? 'Replace' : 'Report',
        reclaim: {
          erase: pick(random, ['Quick', 'Quick', 'Crypto', 'Full'] as const),
          gracePeriod: pick(random, ['0s', '30s', '5m']),
        },
        deletionPolicy: chance(random, 0.15) ? 'Retain' : 'Release',
        priority: int(random, 3),
        suspend: chance(random, 0.12),
        ...(chance(random, 0.25) ? { schedule: { duration: pick(random, ['10m', '30m', '2h']) } } : {}),
      },
    }).catch((error: unknown) => {
      if (!(error instanceof KubeError) || error.reason !== 'AlreadyExists') throw error;
    });
  }

  /** One ordinary action. @returns its name */
  async act(): Promise<string> {
    const random = this.#random;
    const name = pick(random, tenants);
    const allocation = this.#world.allocations().find((one) => one.metadata.name === name);
    const action = allocation === undefined ? 'create' : (weighted(random, actions) ?? 'create');
    this.#world.trace.add('people', `${action} ${name}`);
    if (action === 'create' || allocation === undefined) {
      if (allocation === undefined) await this.create(name);
      return action;
    }
    await this.#act(action, name, allocation);
    return action;
  }

  async #act(action: string, name: string, allocation: NodeAllocation): Promise<void> {
    const random = this.#random;
    switch (action) {
      case 'delete':
        await this.delete(nodeAllocations, { namespace, name });
        break;
      case 'scale':
        await this.editAllocation(name, { spec: { replicas: 1 + int(random, 4), minReplicas: null } });
        break;
      case 'giveBack': {
        const release = allocation.status?.nodes ?? pick(random, this.#world.machines);
        await this.editAllocation(name, { spec: { replicas: 1, minReplicas: null, release } });
        break;
      }
      case 'newImage':
        await this.changeImage(pick(random, [`env-${name}`, sharedEnvironment]));
        break;
      case 'ask': {
        const revision = allocation.status?.updateRevision;
        if (revision !== undefined) await this.editAllocation(name, { spec: { update: { revision } } });
        break;
      }
      case 'suspend':
        await this.editAllocation(name, { spec: { suspend: !allocation.spec.suspend } });
        break;
      case 'maintain': {
        const node = this.physicalNode();
        if (node !== undefined) await this.maintain(node, node.spec?.maintenance === undefined);
        break;
      }
      case 'decide': {
        const node = pickMaybe(random, this.#world.nodes().filter(isHeld));
        if (node !== undefined) await this.decide(node);
        break;
      }
    }
  }

  async changeImage(environment: string): Promise<void> {
    await this.edit(computeEnvironments, { namespace, name: environment }, { spec: { image: this.newImage() } });
  }

  async maintain(node: PhysicalNode, on: boolean): Promise<void> {
    const maintenance = on ? { reason: 'fan' } : null;
    await this.edit(physicalNodes, { name: node.metadata.name }, { spec: { maintenance } });
  }

  /** An administrator looks at a held node and says what becomes of it, as docs/operations.md tells. */
  async decide(node: PhysicalNode, forced?: 'End' | 'Reclaim'): Promise<void> {
    const { state, claim, epoch = 0, message = '' } = node.status ?? {};
    const named = Number(/must name epoch (\d+)/.exec(message)?.[1] ?? epoch);
    const mine = claim !== undefined || state === 'Orphaned';
    const action = forced ?? (mine ? pick(this.#random, ['End', 'Adopt']) : 'Reclaim');
    this.#world.trace.add('people', `decide ${action} ${node.metadata.name} epoch ${named}`);
    const decision = { action, epoch: named, reason: 'simulated' };
    await this.edit(physicalNodes, { name: node.metadata.name }, { spec: { decision } });
  }
}

const actions: readonly (readonly [string, number])[] = [
  ['delete', 4],
  ['scale', 4],
  ['giveBack', 1],
  ['newImage', 2],
  ['ask', 2],
  ['suspend', 1],
  ['maintain', 1],
  ['decide', 2],
];

const isHeld = ({ status }: PhysicalNode): boolean => status?.state === 'Quarantined' || status?.state === 'Orphaned';

export function digestOf(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

/** What the action was about may be gone, or somebody wrote first. */
export async function unlessGone<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof KubeError && (error.reason === 'NotFound' || error.reason === 'Conflict')) return undefined;
    throw error;
  }
}

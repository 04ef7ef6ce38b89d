/**
 * A site of separate processes that can fail by themselves: an API server, any number of operators, the agents of a simulated
 * machine room; and what the machines themselves remember of it.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type RoomEvent, readRackHistory } from '../../../agent/drivers/simulated/store.ts';
import { parseHostlist } from '../../../controller/api/hostlist.ts';
import {
  bitVisorAgents,
  computeEnvironments,
  namespaces,
  nodeAllocations,
  physicalNodes,
} from '../../../controller/api/meta.ts';
import type { BitVisorAgent, NodeAllocation, PhysicalNode } from '../../../controller/api/types.generated.ts';
import { createKubeClient } from '../../../controller/kube/client.ts';
import { type Lease, leaseKind, termAnnotation } from '../../../controller/kube/lease.ts';
import { type KubeClient, KubeError, type KubeObject } from '../../../controller/kube/port.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { makeTestCa, type TestCa, type TestIdentity } from '../../support/test-ca.ts';
import { Service } from './service.ts';

const apiServer = fileURLToPath(new URL('api-server.ts', import.meta.url));
const main = fileURLToPath(new URL('../../../controller/main.ts', import.meta.url));
const namespace = 'bitvisor-system';

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === 'object' ? (address?.port ?? 0) : 0;
}

export interface PlantOptions {
  /** Hostlists by rack. */
  readonly racks?: Readonly<Record<string, string>>;
  readonly timeFactor?: number;
  /** Where the data of API server or agents lies; below the plant's own directory when absent. */
  readonly apiDir?: string;
  readonly agentsDir?: string;
}

export class Plant {
  readonly directory = mkdtempSync(join(tmpdir(), 'plant-'));
  readonly racks: Readonly<Record<string, string>>;
  readonly ca: TestCa;
  readonly apiDir: string;
  readonly agentsDir: string;
  readonly #timeFactor: number;
  readonly #services = new Map<string, Service>();
  readonly ports = new Map<string, number>();
  #client: KubeClient | undefined;

  private constructor(ca: TestCa, options: PlantOptions) {
    this.ca = ca;
    this.racks = options.racks ?? { p0: 'p0n[0-3]' };
    this.#timeFactor = options.timeFactor ?? 200;
    this.apiDir = options.apiDir ?? join(this.directory, 'api');
    this.agentsDir = options.agentsDir ?? join(this.directory, 'racks');
  }

  /** Everything runs, and every machine is Available. */
  static async start(options: PlantOptions = {}, operators: readonly string[] = ['one']): Promise<Plant> {
    const plant = new Plant(await makeTestCa('plant CA'), options);
    try {
      mkdirSync(plant.path('tls'));
      for (const name of ['api', ...Object.keys(plant.racks)]) plant.ports.set(name, await freePort());
      plant.writeIdentity('tls/tls', await plant.ca.issue('bitvisor-operator'));
      writeFileSync(plant.path('tls/ca.crt'), plant.ca.caPem);
      for (const rack of Object.keys(plant.racks)) {
        plant.writeIdentity(`tls/${rack}`, await plant.ca.issue(rack, [rack]));
      }
      plant.startAgents();
      plant.startApi();
      await plant.describe();
      for (const name of operators) plant.startOperator(name);
      const all = Object.values(plant.racks).flatMap((list) => parseHostlist(list)).length;
      await plant.until('every machine is Available', async () => (await plant.inState('Available')) === all);
      return plant;
    } catch (error) {
      await plant.stop();
      throw error;
    }
  }

  path(...parts: string[]): string {
    return join(this.directory, ...parts);
  }

  /** Certificate and key as two files, each replaced whole. */
  writeIdentity(stem: string, { certPem, keyPem }: TestIdentity): void {
    writeFileSync(this.path(`${stem}.key`), keyPem);
    writeFileSync(this.path(`${stem}.crt`), certPem);
  }

  /** Namespaces, agents and the environment, as far as they are not there. */
  async describe(): Promise<void> {
    for (const name of [namespace, 'lab'])
      await this.create(namespaces, { apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
    for (const [name, nodes] of Object.entries(this.racks)) {
      const endpoint = `https://127.0.0.1:${this.ports.get(name)}`;
      const commission = { storeId: `${name}-store`, nodes };
      const spec = { endpoint, location: { site: 'plant', rack: name }, nodes, commission };
      await this.create(bitVisorAgents, { metadata: { name }, spec } as unknown as KubeObject);
    }
    const sha256 = '6545e2afa723dff6d67eca1186f456e62e8c1a8ae74757877f94f55083e46edc';
    const image = { url: 'https://images.example/rocky.raw', size: '4Gi', sha256 };
    const os = { family: 'Linux', name: 'Rocky Linux', architecture: 'x86_64' };
    const metadata = { name: 'rocky', namespace: 'lab' };
    await this.create(computeEnvironments, { metadata, spec: { os, image } } as unknown as KubeObject);
  }

  startApi(shell?: string): Service {
    return this.#start('api', new Service([apiServer, this.apiDir, String(this.ports.get('api'))], shell));
  }

  startAgents(shell?: string): Service {
    const racks = Object.entries(this.racks).map(([name, nodes]) => {
      return { name, site: 'plant', rack: name, nodes, storeId: `${name}-store`, port: this.ports.get(name) };
    });
    const tls = { ca: 'tls/ca.crt', certificate: 'tls/{name}.crt', key: 'tls/{name}.key' };
    const room = { timeFactor: this.#timeFactor };
    const file = this.path('agents.json');
    writeFileSync(file, JSON.stringify({ dataDir: this.agentsDir, tls, room, racks }));
    return this.#start('agents', new Service([main, 'agent', '--config', file], shell));
  }

  startOperator(name: string): Service {
    const flags = ['--kubeconfig', join(this.apiDir, 'kubeconfig'), '--agents-tls', this.path('tls')];
    const words = [main, 'controller', ...flags, '--identity', name, '--drain-seconds', '10'];
    return this.#start(name, new Service(words));
  }

  /** Starts the operator again whenever it ends because it lost its leadership, as whatever supervises it would. */
  supervise(name: string): void {
    const service = this.service(name);
    void service.ended.then((how) => {
      if (how !== 1 || this.#services.get(name) !== service) return;
      this.startOperator(name);
      this.supervise(name);
    });
  }

  #start(name: string, service: Service): Service {
    this.#services.set(name, service);
    return service;
  }

  service(name: string): Service {
    const service = this.#services.get(name);
    if (service === undefined) throw new Error(`${name} was never started`);
    return service;
  }

  async client(): Promise<KubeClient> {
    const kubeconfigPath = join(this.apiDir, 'kubeconfig');
    this.#client ??= await createKubeClient({
      kubeconfigPath,
      clock: systemClock,
      userAgent: 'faults',
      timeoutMs: 5_000,
    });
    return this.#client;
  }

  /** Looks until `condition` holds; a server that is not there counts as not yet. */
  async until(what: string, condition: () => Promise<boolean> | boolean, limitMs = 90_000): Promise<void> {
    const end = systemClock.monotonic() + limitMs;
    while (systemClock.monotonic() < end) {
      try {
        if (existsSync(join(this.apiDir, 'kubeconfig')) && (await condition())) return;
      } catch (error) {
        if (!(error instanceof KubeError)) throw error;
      }
      await wait(25);
    }
    const said = [...this.#services].map(([name, { output }]) => `--- ${name}\n${output.slice(-3_000)}`);
    throw new Error(`not within ${limitMs} ms: ${what}\n${said.join('\n')}`);
  }

  /** The API server answers. */
  async serving(): Promise<void> {
    await this.until('the API server answers', async () => (await this.nodes()).length >= 0);
  }

  async create(gvk: Parameters<KubeClient['create']>[0], object: KubeObject): Promise<void> {
    await this.until(`${gvk.kind} ${object.metadata.name} is made`, async () => {
      await (await this.client()).create(gvk, object).catch((error: unknown) => {
        if (!(error instanceof KubeError && error.reason === 'AlreadyExists')) throw error;
      });
      return true;
    });
  }

  async allocate(name: string, replicas: number, more: object = {}): Promise<void> {
    const metadata = { name, namespace: 'lab' };
    const spec = { environmentRef: { name: 'rocky' }, replicas, reclaim: { gracePeriod: '0s' }, ...more };
    await this.create(nodeAllocations, { metadata, spec } as unknown as KubeObject);
  }

  async release(name: string): Promise<void> {
    await (await this.client()).delete(nodeAllocations, { namespace: 'lab', name });
  }

  async allocation(name: string): Promise<NodeAllocation | undefined> {
    return this.#get<NodeAllocation>(nodeAllocations, { namespace: 'lab', name });
  }

  async agent(name: string): Promise<BitVisorAgent | undefined> {
    return this.#get<BitVisorAgent>(bitVisorAgents, { name });
  }

  async #get<T extends KubeObject>(gvk: Parameters<KubeClient['get']>[0], key: { name: string; namespace?: string }) {
    try {
      return await (await this.client()).get<T>(gvk, key);
    } catch (error) {
      if (error instanceof KubeError && error.reason === 'NotFound') return undefined;
      throw error;
    }
  }

  async nodes(): Promise<PhysicalNode[]> {
    return (await (await this.client()).list<PhysicalNode>(physicalNodes)).items;
  }

  async inState(state: string): Promise<number> {
    return (await this.nodes()).filter((node) => node.status?.state === state).length;
  }

  async claimed(name: string): Promise<string[]> {
    const ours = ({ status }: PhysicalNode): boolean => status?.claim?.allocation.name === name && !status.end;
    return (await this.nodes()).filter(ours).map((node) => node.metadata.name);
  }

  settled(name: string): Promise<void> {
    return this.until(`${name} has what its spec asks for`, async () => {
      const truth = new Map(
        (await this.allocation(name))?.status?.conditions?.map(({ type, status }) => [type, status]),
      );
      return truth.get('Ready') === 'True' && truth.get('Reconciling') === 'False';
    });
  }

  async lease(): Promise<{ holder: string; term: number }> {
    const lease = await (await this.client()).get<Lease>(leaseKind, { namespace, name: 'bitvisor-operator' });
    const holder = lease.spec?.holderIdentity?.split('_')[0] ?? '';
    return { holder, term: Number(lease.metadata.annotations?.[termAnnotation]) };
  }

  /** What the machines themselves remember, whatever anybody says. */
  history(): RoomEvent[] {
    return Object.keys(this.racks).flatMap((rack) => readRackHistory(join(this.agentsDir, rack, 'room.sqlite')));
  }

  /** How often each machine did it. */
  counts(event: RoomEvent['event']): Map<string, number> {
    const counted = new Map<string, number>();
    for (const entry of this.history())
      if (entry.event === event) counted.set(entry.node, (counted.get(entry.node) ?? 0) + 1);
    return counted;
  }

  read(file: string): string {
    return readFileSync(this.path(file), 'utf8');
  }

  async forgetClient(): Promise<void> {
    await this.#client?.close();
    this.#client = undefined;
  }

  async stop(): Promise<void> {
    await this.forgetClient();
    for (const service of this.#services.values()) await service.end('SIGKILL');
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/**
 * A site with machines that QEMU plays, as a person runs it: the standalone program, one agent in a process of its own, git between.
 *
 * Invariant: `close` ends every process, namespace and interface of it, also after a failed test.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, openSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type BlockGraph, graphText } from '../../agent/drivers/qemu/graph.ts';
import type { LabImages } from '../../agent/drivers/qemu/images/build.ts';
import { tapName } from '../../agent/drivers/qemu/network.ts';
import { Qmp } from '../../agent/drivers/qemu/qmp.ts';
import { namesOf } from '../../agent/drivers/qemu/rack.ts';
import type { PortRole } from '../../agent/drivers/qemu/shape.ts';
import { nodeAllocations, physicalNodes } from '../../controller/api/meta.ts';
import type { NodeAllocation, PhysicalNode } from '../../controller/api/types.generated.ts';
import { createKubeClient } from '../../controller/kube/client.ts';
import { type KubeClient, KubeError } from '../../controller/kube/port.ts';
import { systemClock as clock } from '../../controller/runtime/clock.ts';
import { CertificateAuthority } from '../../controller/standalone/pki.ts';
import { tryInGuest } from './support/in-guest.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
/** Not an address that the program serves agents at by itself. */
export const agentHost = '127.0.0.2';

export interface LabSiteOptions {
  readonly dataDir: string;
  readonly images: LabImages;
  /** Manifests by file name. */
  readonly files: Readonly<Record<string, string>>;
  readonly agent: { readonly name: string; readonly port: number; readonly nodes: string; readonly storeId: string };
  readonly rateBytes?: number;
}

export class LabSite {
  readonly repository: string;
  readonly #options: LabSiteOptions;
  #operator: ChildProcess | undefined;
  #agent: ChildProcess | undefined;
  #client: KubeClient | undefined;
  /** With the newest start of the agent. */
  #wantedStarts = 0;

  constructor(options: LabSiteOptions) {
    this.#options = options;
    this.repository = join(options.dataDir, 'repository');
  }

  get #rackDirectory(): string {
    return join(this.#options.dataDir, 'racks', this.#options.agent.name);
  }

  get names(): { readonly netns: string; readonly runDirectory: string } {
    return namesOf(this.#rackDirectory, tmpdir());
  }

  #spawn(name: string, args: readonly string[]): ChildProcess {
    const log = openSync(join(this.#options.dataDir, `${name}.log`), 'a');
    return spawn(process.execPath, ['controller/main.ts', ...args], { cwd: root, stdio: ['ignore', log, log] });
  }

  log(name: 'operator' | 'agent'): string {
    return readFileSync(join(this.#options.dataDir, `${name}.log`), 'utf8');
  }

  startOperator(): void {
    const { dataDir, files } = this.#options;
    const example = join(dataDir, 'example');
    mkdirSync(example, { recursive: true });
    for (const [name, text] of Object.entries(files)) writeFileSync(join(example, name), text);
    this.#operator = this.#spawn('operator', [
      'standalone',
      '--data-dir',
      dataDir,
      '--example',
      example,
      '--port',
      '0',
    ]);
  }

  /** Once the operator's own authority is there. */
  async startAgent(): Promise<void> {
    const { dataDir, agent, images, rateBytes } = this.#options;
    const pki = join(dataDir, 'agents', 'pki');
    await this.until('the authority is made', async () => existsSync(join(pki, 'ca.crt')));
    await (await CertificateAuthority.open(pki, clock)).namedServerCertificate(agent.name);
    const config = {
      dataDir: 'racks',
      host: agentHost,
      tls: {
        ca: join(pki, 'ca.crt'),
        certificate: join(pki, 'server-{name}.crt'),
        key: join(pki, 'server-{name}.key'),
      },
      drivers: 'qemu',
      qemu: {
        trusted: { kernel: images.trusted.kernel, initrd: images.trusted.initrd },
        origins: [join(images.alpha.path, '..')],
        ...(rateBytes === undefined ? {} : { rateBytes }),
      },
      racks: [{ ...agent, site: 'lab', rack: agent.name }],
    };
    const path = join(dataDir, 'agent.json');
    writeFileSync(path, JSON.stringify(config));
    this.#wantedStarts = this.agentStarts() + 1;
    this.#agent = this.#spawn('agent', ['agent', '--config', path]);
  }

  /** How often an agent came so far that it listens. */
  agentStarts(): number {
    return readIfThere(join(this.#options.dataDir, 'agent.log')).split('are listening').length - 1;
  }

  /** Its image server, boot server and BMCs go with it; the machines do not. */
  async endAgent(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    const child = this.#agent;
    this.#agent = undefined;
    await endOf(child, signal);
  }

  async client(): Promise<KubeClient> {
    const kubeconfigPath = join(this.#options.dataDir, 'kubeconfig');
    this.#client ??= await createKubeClient({ kubeconfigPath, clock, userAgent: 'lab', timeoutMs: 20_000 });
    return this.#client;
  }

  /**
   * Looks until it holds; a server that is not there yet counts as not yet. A busy machine is slow and not broken, so what ends the
   * patience is that nothing moves any more: no node's status, no word of a guest, no byte on a disk.
   * @param patienceMs since something moved last
   */
  async until(what: string, condition: () => Promise<boolean>, patienceMs = 150_000): Promise<void> {
    let moved = { at: clock.monotonic(), trace: '' };
    for (;;) {
      for (const child of [this.#operator, this.#agent]) {
        if (child !== undefined && child.exitCode !== null)
          throw new Error(`a process ended: ${this.log('agent').slice(-2000)}`);
      }
      try {
        if (await condition()) return;
        const trace = await this.#trace();
        if (trace !== moved.trace) moved = { at: clock.monotonic(), trace };
      } catch (error) {
        if (!(error instanceof KubeError) && (error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      }
      if (clock.monotonic() - moved.at > patienceMs) throw new Error(await this.#standstill(what, patienceMs));
      await wait(200);
    }
  }

  /** Differs whenever something went on. */
  async #trace(): Promise<string> {
    const nodes = (await this.nodes().catch(() => [])).map(({ metadata }) => metadata);
    const sizes = nodes.map(({ name, resourceVersion }) => {
      const [serial, sda, sdb] = [
        join(this.#rackDirectory, name, 'serial.log'),
        this.diskPath(name, 'sda'),
        this.diskPath(name, 'sdb'),
      ].map((path) => statSync(path, { throwIfNoEntry: false }));
      return [resourceVersion, serial?.size, sda?.blocks, sdb?.blocks];
    });
    return JSON.stringify(sizes);
  }

  async #standstill(what: string, patienceMs: number): Promise<string> {
    const nodes = await this.nodes().catch(() => []);
    const states = nodes.map(
      ({ metadata: { name }, status }) =>
        `${name} ${JSON.stringify(status).slice(0, 600)}\n${this.serialLog(name).slice(-600)}`,
    );
    const agent = this.log('agent').slice(-3000);
    return `nothing moved for ${patienceMs / 1000} s: ${what}\n${states.join('\n')}\n${agent}`;
  }

  async allocation(namespace: string, name: string): Promise<NodeAllocation | undefined> {
    try {
      return await (await this.client()).get<NodeAllocation>(nodeAllocations, { namespace, name });
    } catch (error) {
      if (error instanceof KubeError && error.reason === 'NotFound') return undefined;
      throw error;
    }
  }

  async nodes(): Promise<PhysicalNode[]> {
    return (await (await this.client()).list<PhysicalNode>(physicalNodes)).items;
  }

  /** Names of the allocation's nodes, in order. */
  async nodesOf(namespace: string): Promise<string[]> {
    const nodes = await this.nodes();
    return nodes
      .filter(({ status }) => status?.claim?.allocation.namespace === namespace)
      .map(({ metadata }) => metadata.name)
      .sort();
  }

  commit(file: string, text: string, message: string): void {
    writeFileSync(join(this.repository, file), text);
    const git = (...words: string[]): void => {
      execFileSync('git', ['-C', this.repository, ...words], { stdio: 'pipe' });
    };
    git('add', '-A');
    git('-c', 'user.name=Tenant', '-c', 'user.email=tenant@example', 'commit', '-q', '-m', message);
  }

  #index(node: string): number {
    return Number(/(\d+)$/.exec(node)?.[1]);
  }

  #runPath(node: string, name: 'serial' | 'free' | 'pid'): string {
    return join(this.names.runDirectory, String(this.#index(node)), name);
  }

  /** Whether the node's machine has power, as its process shows it. */
  isOn(node: string): boolean {
    const pid = readIfThere(this.#runPath(node, 'pid')).trim();
    return pid !== '' && readIfThere(`/proc/${pid}/cmdline`) !== '';
  }

  /** Whether the kernel has the link of the node's port up. */
  hasLink(node: string, role: PortRole): boolean {
    const shown = execFileSync('ip', [
      '-n',
      this.names.netns,
      '-json',
      'link',
      'show',
      tapName(this.#index(node), role),
    ]);
    return (JSON.parse(shown.toString()) as { flags: string[] }[])[0]?.flags.includes('UP') === true;
  }

  diskPath(node: string, disk: string): string {
    return join(this.#rackDirectory, node, `${disk}.raw`);
  }

  serialLog(node: string): string {
    const path = join(this.#rackDirectory, node, 'serial.log');
    return existsSync(path) ? readFileSync(path, 'latin1') : '';
  }

  /** Runs a command in the node's guest, as root, over its serial console; again while the guest does not begin with it. */
  async inGuest(node: string, command: string, patienceMs = 120_000): Promise<string> {
    const path = this.#runPath(node, 'serial');
    let output: string | undefined;
    const runs = async (): Promise<boolean> => {
      output = await tryInGuest(path, command, patienceMs);
      return output !== undefined;
    };
    await this.until(`${node} runs ${command}`, runs, patienceMs);
    return output ?? '';
  }

  /** What lies below the node's disk, from QEMU itself. */
  async graph(node: string, disk: string): Promise<string> {
    const path = this.#runPath(node, 'free');
    const qmp = await Qmp.connect({ path, clock });
    try {
      return graphText(await qmp.execute<BlockGraph>('x-debug-query-block-graph'), disk);
    } finally {
      qmp.close();
    }
  }

  async close(): Promise<void> {
    await this.#client?.close();
    await endOf(this.#operator, 'SIGKILL');
    // In order, so that it takes its machines away; one that was killed is started once more for it.
    if (this.#agent === undefined && existsSync(join(this.#options.dataDir, 'agent.json'))) await this.startAgent();
    const agent = this.#agent;
    while (agent?.exitCode === null && this.agentStarts() < this.#wantedStarts) await wait(100);
    await this.endAgent('SIGTERM');
  }
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

async function endOf(child: ChildProcess | undefined, signal: NodeJS.Signals): Promise<void> {
  if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill(signal);
  await gone;
}

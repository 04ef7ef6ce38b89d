/**
 * The program as a person runs it: a process over a data directory, its repository, its API, and its machines' own record.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type RoomEvent, readRackHistory } from '../../agent/drivers/simulated/store.ts';
import { nodeAllocations, physicalNodes } from '../../controller/api/meta.ts';
import type { NodeAllocation, PhysicalNode } from '../../controller/api/types.generated.ts';
import { createKubeClient } from '../../controller/kube/client.ts';
import { type KubeClient, KubeError } from '../../controller/kube/port.ts';
import { systemClock } from '../../controller/runtime/clock.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const site = join(root, 'test/e2e/site');

export class Site {
  readonly dataDir: string;
  readonly repository: string;
  #child: ChildProcess | undefined;
  #client: KubeClient | undefined;
  output = '';

  constructor(dataDir: string) {
    this.dataDir = dataDir;
    this.repository = join(dataDir, 'repository');
  }

  start(timeFactor = 200): void {
    const flags = ['--data-dir', this.dataDir, '--example', site, '--time-factor', String(timeFactor)];
    const child = spawn(process.execPath, ['controller/main.ts', 'standalone', ...flags], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    this.#child = child;
  }

  /** Sends the signal and waits for the process to be gone. @returns its exit code, or the signal that ended it */
  async end(signal: 'SIGKILL' | 'SIGINT'): Promise<number | string | null> {
    const child = this.#child;
    await this.#client?.close();
    this.#client = undefined;
    if (child === undefined || child.exitCode !== null) return child?.exitCode ?? null;
    const gone = new Promise<number | string | null>((resolve) =>
      child.once('exit', (code, by) => resolve(code ?? by)),
    );
    child.kill(signal);
    return gone;
  }

  async client(): Promise<KubeClient> {
    const kubeconfigPath = join(this.dataDir, 'kubeconfig');
    this.#client ??= await createKubeClient({ kubeconfigPath, clock: systemClock, userAgent: 'e2e', timeoutMs: 5_000 });
    return this.#client;
  }

  /** Looks until `condition` holds; a server that is not there yet counts as not yet. */
  async until(what: string, condition: (client: KubeClient) => Promise<boolean>, limitMs = 60_000): Promise<void> {
    const end = systemClock.monotonic() + limitMs;
    while (systemClock.monotonic() < end) {
      if (existsSync(join(this.dataDir, 'kubeconfig'))) {
        try {
          if (await condition(await this.client())) return;
        } catch (error) {
          if (!(error instanceof KubeError)) throw error;
          await this.#client?.close();
          this.#client = undefined;
        }
      }
      await wait(50);
    }
    throw new Error(`not within ${limitMs} ms: ${what}\n--- output\n${this.output.slice(-4_000)}`);
  }

  async allocation(name: string): Promise<NodeAllocation | undefined> {
    const client = await this.client();
    try {
      return await client.get<NodeAllocation>(nodeAllocations, { namespace: 'lab', name });
    } catch (error) {
      if (error instanceof KubeError && error.reason === 'NotFound') return undefined;
      throw error;
    }
  }

  settled(name: string): Promise<void> {
    return this.until(`${name} has what its spec asks for`, async () => {
      const found = await this.allocation(name);
      const truth = (type: string): string | undefined =>
        found?.status?.conditions?.find((condition) => condition.type === type)?.status;
      const current = found?.status?.observedGeneration === found?.metadata.generation;
      return current && truth('Ready') === 'True' && truth('Reconciling') === 'False';
    });
  }

  async nodes(): Promise<PhysicalNode[]> {
    const client = await this.client();
    return (await client.list<PhysicalNode>(physicalNodes)).items;
  }

  commit(message: string): void {
    const git = (...words: string[]): void =>
      void execFileSync('git', ['-C', this.repository, ...words], { stdio: 'pipe' });
    git('add', '-A');
    git('-c', 'user.name=Tenant', '-c', 'user.email=tenant@example', 'commit', '-q', '-m', message);
  }

  read(file: string): string {
    return readFileSync(join(this.repository, file), 'utf8');
  }

  /** What the machines themselves remember, whatever the operator says. */
  history(): RoomEvent[] {
    const racks = join(this.dataDir, 'agents/racks');
    return readdirSync(racks, { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('room.sqlite'))
      .flatMap((name) => readRackHistory(join(racks, name)));
  }
}

/**
 * The site that is measured: API server, operator and agents as three processes, and a git repository that the operator follows.
 *
 * Invariants:
 * 1. The operator is the program that runs in a cluster (`bitvisor-operator controller`), not a composition of its parts for the benchmark.
 * 2. Whatever fails, `close()` ends every process.
 */
import { execFile } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { namespaces } from '../controller/api/meta.ts';
import { defaultNamespace, operatorName } from '../controller/cli/leadership.ts';
import { createKubeClient } from '../controller/kube/client.ts';
import type { KubeClient } from '../controller/kube/port.ts';
import { systemClock } from '../controller/runtime/clock.ts';
import { CertificateAuthority } from '../controller/standalone/pki.ts';
import { Census } from './census.ts';
import { Child } from './child.ts';
import { siteFiles } from './hall.ts';
import type { Usage } from './usage.ts';

export const processNames = ['server', 'operator', 'agents'] as const;
export type ProcessName = (typeof processNames)[number];

export interface SiteOptions {
  readonly racks: number;
  readonly nodesPerRack: number;
  /** Emptied by the caller; everything of the site is in it. */
  readonly directory: string;
  readonly profile: string | undefined;
}

const run = promisify(execFile);
const path = (relativeToHere: string): string => fileURLToPath(new URL(relativeToHere, import.meta.url));
const identity = ['-c', 'user.name=bench', '-c', 'user.email=bench@localhost', '-c', 'commit.gpgSign=false'];
/** Deletions that come one after another are the benchmark's business and not a mistake. */
const noHold = ['--hold-allocations', '1000000'];

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}

export class Site {
  readonly #options: SiteOptions;
  readonly #children = new Map<ProcessName, Child>();
  readonly #repository: string;
  #metricsPort = 0;
  #client: KubeClient | undefined;
  #census: Census | undefined;
  #fail: (error: Error) => void = () => {};
  /** Rejects when a process ends that should not, or at `interrupt()`. */
  readonly broken: Promise<never>;

  constructor(options: SiteOptions) {
    this.#options = options;
    this.#repository = join(options.directory, 'repository');
    this.broken = new Promise((_resolve, reject) => {
      this.#fail = reject;
    });
    this.broken.catch(() => {});
  }

  get census(): Census {
    if (this.#census === undefined) throw new Error('the site has not started');
    return this.#census;
  }

  /** The machines' side and the repository: they are there before anybody starts an operator. */
  async prepare(): Promise<void> {
    const { racks, nodesPerRack, directory } = this.#options;
    const pki = join(directory, 'pki');
    const authority = await CertificateAuthority.open(pki, systemClock);
    const { keyPem, certificatePem } = await authority.namedClientCertificate(operatorName);
    writeFileSync(join(pki, 'tls.crt'), certificatePem);
    writeFileSync(join(pki, 'tls.key'), keyPem, { mode: 0o600 });
    const agents = this.#start('agents', [path('agents.ts'), pki, String(racks), String(nodesPerRack)]);
    const { endpoints } = await this.#orBroken(
      agents.message<{ type: 'started'; endpoints: Record<string, string> }>('started'),
    );
    mkdirSync(this.#repository, { recursive: true });
    await this.#git('init', '--quiet', '--initial-branch=main');
    await this.commit(siteFiles(racks, nodesPerRack, endpoints));
  }

  /** Server, then operator; resolves when both were started, long before they are ready. */
  async start(): Promise<void> {
    const { directory } = this.#options;
    const server = this.#start('server', [path('server.ts'), join(directory, 'server')]);
    const { kubeconfigPath } = await this.#orBroken(
      server.message<{ type: 'started'; kubeconfigPath: string }>('started'),
    );
    const client = await createKubeClient({ kubeconfigPath, clock: systemClock, userAgent: 'bench (observer)' });
    this.#client = client;
    await client.create(namespaces, { metadata: { name: defaultNamespace } });
    this.#metricsPort = await freePort();
    const words = ['--kubeconfig', kubeconfigPath, '--agents-tls', join(directory, 'pki'), '--log-level', 'warn'];
    words.push('--metrics-port', String(this.#metricsPort), '--git-repository', this.#repository, ...noHold);
    this.#start('operator', [path('../controller/main.ts'), 'controller', ...words]);
    this.#census = new Census(client);
  }

  /** Writes files (a text of undefined removes one) and commits them. */
  async commit(files: ReadonlyMap<string, string | undefined>): Promise<void> {
    for (const [name, text] of files) {
      if (text === undefined) await rm(join(this.#repository, name));
      else writeFileSync(join(this.#repository, name), text);
    }
    await this.#git('add', '--all');
    await this.#git(...identity, 'commit', '--quiet', '-m', 'bench');
  }

  /** Somebody wants it to end before it is done. */
  interrupt(): void {
    this.#fail(new Error('interrupted'));
  }

  async usage(): Promise<Record<ProcessName, Usage>> {
    const entries = await Promise.all([...this.#children].map(async ([name, child]) => [name, await child.usage()]));
    return Object.fromEntries(entries);
  }

  /** Prometheus' text, as the operator serves it. */
  async metrics(): Promise<string> {
    const response = await fetch(`http://127.0.0.1:${this.#metricsPort}/metrics`);
    return response.text();
  }

  async close(): Promise<void> {
    await this.#census?.stop();
    await this.#client?.close();
    for (const name of ['operator', 'server', 'agents'] as const) await this.#children.get(name)?.stop();
  }

  #start(name: ProcessName, words: readonly string[]): Child {
    const { directory, profile } = this.#options;
    const child = new Child({ name, words, directory, profile, onEnded: (error) => this.#fail(error) });
    this.#children.set(name, child);
    return child;
  }

  #orBroken<T>(promise: Promise<T>): Promise<T> {
    return Promise.race([promise, this.broken]);
  }

  async #git(...words: string[]): Promise<void> {
    await run('git', ['-C', this.#repository, ...words]);
  }
}

/**
 * A real kube-apiserver with its etcd, for tests: from the directory that KUBEBUILDER_ASSETS names, as everywhere in the ecosystem.
 *
 * Invariant: what was started is stopped by its own process id, and its directory goes with it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { setTimeout as delay } from 'node:timers/promises';

export interface RealApiServer {
  /** Path of a kubeconfig with all rights, verified against the server's own certificate. */
  readonly kubeconfig: string;
  readonly url: string;
  readonly token: string;
  /** PEM. */
  readonly certificateAuthority: string;
  stop(): Promise<void>;
}

/** Directory of etcd and kube-apiserver (and usually kubectl); undefined where there is none. */
export function kubebuilderAssets(): string | undefined {
  const directory = process.env.KUBEBUILDER_ASSETS;
  return directory !== undefined && existsSync(join(directory, 'kube-apiserver')) ? directory : undefined;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no free port');
  return address.port;
}

async function stopProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  const patience = setTimeout(() => child.kill('SIGKILL'), 15_000);
  await gone;
  clearTimeout(patience);
}

/** HTTP status of a GET, 0 where nothing answers yet. */
function statusOf(url: string, token: string): Promise<number> {
  return new Promise((resolve) => {
    const call = request(
      url,
      { rejectUnauthorized: false, headers: { authorization: `Bearer ${token}` } },
      (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      },
    );
    call.on('error', () => resolve(0));
    call.end();
  });
}

function etcdArguments(directory: string, client: number, peer: number): string[] {
  const [clients, peers] = [client, peer].map((port) => `http://127.0.0.1:${port}`);
  return [
    `--data-dir=${join(directory, 'etcd')}`,
    '--unsafe-no-fsync',
    `--listen-client-urls=${clients}`,
    `--advertise-client-urls=${clients}`,
    `--listen-peer-urls=${peers}`,
    `--initial-advertise-peer-urls=${peers}`,
    `--initial-cluster=default=${peers}`,
  ];
}

function serverArguments(directory: string, port: number, etcd: number): string[] {
  return [
    '--bind-address=127.0.0.1',
    '--advertise-address=127.0.0.1',
    `--secure-port=${port}`,
    `--cert-dir=${directory}`,
    `--etcd-servers=http://127.0.0.1:${etcd}`,
    '--service-cluster-ip-range=10.96.0.0/24',
    '--endpoint-reconciler-type=none',
    '--authorization-mode=RBAC',
    `--token-auth-file=${join(directory, 'tokens.csv')}`,
    '--service-account-issuer=https://kubernetes.default.svc',
    `--service-account-key-file=${join(directory, 'accounts.key')}`,
    `--service-account-signing-key-file=${join(directory, 'accounts.key')}`,
    '--disable-admission-plugins=ServiceAccount',
    '--profiling=false',
  ];
}

function writeKubeconfig(path: string, url: string, token: string, certificateAuthority: string): void {
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [
      {
        name: 'test',
        cluster: { server: url, 'certificate-authority-data': Buffer.from(certificateAuthority).toString('base64') },
      },
    ],
    users: [{ name: 'admin', user: { token } }],
    contexts: [{ name: 'test', context: { cluster: 'test', user: 'admin' } }],
    'current-context': 'test',
  };
  writeFileSync(path, JSON.stringify(config), { mode: 0o600 });
}

/**
 * Starts both and resolves when the server is ready.
 * @param assets as `kubebuilderAssets()` gives it.
 * @throws Error with the end of the server's log when it is not ready within 120 s.
 */
export async function startRealApiServer(assets: string): Promise<RealApiServer> {
  const directory = mkdtempSync(join(tmpdir(), 'bitvisor-apiserver-'));
  const token = randomBytes(16).toString('hex');
  writeFileSync(join(directory, 'tokens.csv'), `${token},admin,admin,"system:masters"\n`, { mode: 0o600 });
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  writeFileSync(join(directory, 'accounts.key'), privateKey.export({ type: 'pkcs1', format: 'pem' }), { mode: 0o600 });
  const [port, client, peer] = [await freePort(), await freePort(), await freePort()];
  const url = `https://127.0.0.1:${port}`;

  const etcd = spawn(join(assets, 'etcd'), etcdArguments(directory, client, peer), { stdio: 'ignore' });
  const server = spawn(join(assets, 'kube-apiserver'), serverArguments(directory, port, client), {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let log = '';
  server.stderr.on('data', (chunk) => {
    log = (log + String(chunk)).slice(-4000);
  });
  const stop = async (): Promise<void> => {
    await stopProcess(server);
    await stopProcess(etcd);
    rmSync(directory, { recursive: true, force: true });
  };

  for (let left = 240; (await statusOf(`${url}/readyz`, token)) !== 200; left--) {
    if (left === 0 || server.exitCode !== null) {
      await stop();
      throw new Error(`kube-apiserver is not ready:\n${log}`);
    }
    await delay(500);
  }
  const certificateAuthority = readFileSync(join(directory, 'apiserver.crt'), 'utf8');
  const kubeconfig = join(directory, 'kubeconfig');
  writeKubeconfig(kubeconfig, url, token, certificateAuthority);
  return { kubeconfig, url, token, certificateAuthority, stop };
}

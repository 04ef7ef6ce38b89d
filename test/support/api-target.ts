/**
 * An API server as raw HTTPS, for tests of its semantics: the embedded one, or a real kube-apiserver.
 *
 * A target for tests of a real server comes from KUBEBUILDER_ASSETS (a directory with etcd and kube-apiserver) or from
 * KUBECONFIG_FOR_TESTS (a kubeconfig whose current context may create CustomResourceDefinitions and namespaces).
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Agent, request } from 'undici';
import { parse } from 'yaml';
import { systemClock } from '../../controller/runtime/clock.ts';
import { systemRandom } from '../../controller/runtime/random.ts';
import { type StandaloneOptions, startStandalone } from '../../controller/standalone/server.ts';
import { kubebuilderAssets, startRealApiServer } from './kube-apiserver.ts';

// biome-ignore lint/suspicious/noExplicitAny: answers of a server are looked into, not typed.
export type Json = any;

export interface Answer {
  readonly status: number;
  readonly body: Json;
  readonly headers: Record<string, string | string[] | undefined>;
}

export interface CallOptions {
  readonly body?: unknown;
  readonly type?: string;
  readonly accept?: string;
}

export interface WatchHandle {
  /** The next event; rejects when the stream ends or nothing comes for 20 s. */
  next(): Promise<Json>;
  close(): void;
}

export interface ApiTarget {
  readonly name: 'standalone' | 'kube-apiserver';
  readonly kubeconfig: string;
  call(method: string, path: string, options?: CallOptions): Promise<Answer>;
  watch(path: string, accept?: string): Promise<WatchHandle>;
  close(): Promise<void>;
}

interface Connection {
  readonly url: string;
  readonly dispatcher: Agent;
  readonly headers: Record<string, string>;
}

async function call(connection: Connection, method: string, path: string, options: CallOptions): Promise<Answer> {
  const raw = options.body instanceof Buffer || typeof options.body === 'string';
  const response = await request(connection.url + path, {
    dispatcher: connection.dispatcher,
    method: method as 'GET',
    headers: {
      accept: options.accept ?? 'application/json',
      ...(options.body === undefined ? {} : { 'content-type': options.type ?? 'application/json' }),
      ...connection.headers,
    },
    ...(options.body === undefined
      ? {}
      : { body: raw ? (options.body as string | Buffer) : JSON.stringify(options.body) }),
  });
  const text = await response.body.text();
  const isJson = text.startsWith('{');
  return {
    status: response.statusCode,
    body: isJson ? JSON.parse(text) : text,
    headers: response.headers,
  };
}

async function watch(connection: Connection, path: string, accept: string): Promise<WatchHandle> {
  const stop = new AbortController();
  const response = await request(connection.url + path, {
    dispatcher: connection.dispatcher,
    headers: { accept, ...connection.headers },
    signal: stop.signal,
    bodyTimeout: 20_000,
  });
  if (response.statusCode !== 200) throw new Error(`${response.statusCode}: ${await response.body.text()}`);
  let buffered = '';
  const chunks = response.body[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  response.body.on('error', () => {});
  return {
    async next() {
      for (let end = buffered.indexOf('\n'); ; end = buffered.indexOf('\n')) {
        if (end >= 0) {
          const line = buffered.slice(0, end);
          buffered = buffered.slice(end + 1);
          return JSON.parse(line);
        }
        const { done, value } = await chunks.next();
        if (done) throw new Error('the watch ended');
        buffered += value.toString('utf8');
      }
    },
    close: () => stop.abort(),
  };
}

function targetOn(
  name: ApiTarget['name'],
  connection: Connection,
  kubeconfig: string,
  stop: () => Promise<void>,
): ApiTarget {
  return {
    name,
    kubeconfig,
    call: (method, path, options = {}) => call(connection, method, path, options),
    watch: (path, accept = 'application/json') => watch(connection, path, accept),
    async close() {
      await connection.dispatcher.destroy();
      await stop();
    },
  };
}

/** Starts an embedded server with these CRDs. */
export async function standaloneTarget(
  crds: readonly object[],
  options: Partial<StandaloneOptions> = {},
): Promise<ApiTarget> {
  const made = options.dataDir === undefined;
  const dataDir = options.dataDir ?? mkdtempSync(join(tmpdir(), 'bitvisor-standalone-'));
  const server = await startStandalone({
    port: 0,
    clock: systemClock,
    random: systemRandom,
    ...options,
    dataDir,
    crds,
  });
  const identity = await server.issueClientCertificate('tests', ['system:masters']);
  const dispatcher = new Agent({ connect: { ca: server.caPem, key: identity.keyPem, cert: identity.certificatePem } });
  return targetOn('standalone', { url: server.url, dispatcher, headers: {} }, server.kubeconfigPath, async () => {
    await server.close();
    if (made) rmSync(dataDir, { recursive: true, force: true });
  });
}

async function installCrd(target: ApiTarget, crd: Json): Promise<void> {
  const base = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
  const { status, body } = await target.call('POST', base, { body: crd });
  if (status !== 201 && status !== 409) throw new Error(`the CRD was refused: ${JSON.stringify(body)}`);
  const version = crd.spec.versions[0].name;
  for (let left = 120; left > 0; left--) {
    const list = await target.call('GET', `/apis/${crd.spec.group}/${version}/${crd.spec.names.plural}`);
    const document = await target.call('GET', `/openapi/v3/apis/${crd.spec.group}/${version}`);
    if (list.status === 200 && document.status === 200 && JSON.stringify(document.body).includes(crd.spec.names.kind))
      return;
    await delay(250);
  }
  throw new Error(`${crd.metadata.name} is not served after 30 s`);
}

function connectionFromKubeconfig(path: string): Connection {
  const config = parse(readFileSync(path, 'utf8'));
  const context = config.contexts.find((item: Json) => item.name === config['current-context']).context;
  const { cluster } = config.clusters.find((item: Json) => item.name === context.cluster);
  const { user } = config.users.find((item: Json) => item.name === context.user);
  const decode = (text: string | undefined): string | undefined =>
    text === undefined ? undefined : Buffer.from(text, 'base64').toString('utf8');
  const ca = decode(cluster['certificate-authority-data']);
  const cert = decode(user['client-certificate-data']);
  const key = decode(user['client-key-data']);
  const dispatcher = new Agent({
    connect: { ...(ca ? { ca } : {}), ...(cert ? { cert } : {}), ...(key ? { key } : {}) },
  });
  return { url: cluster.server, dispatcher, headers: user.token ? { authorization: `Bearer ${user.token}` } : {} };
}

/** A real kube-apiserver with these CRDs, or undefined where neither variable names one. */
export async function realTarget(crds: readonly object[]): Promise<ApiTarget | undefined> {
  const given = process.env.KUBECONFIG_FOR_TESTS;
  const assets = kubebuilderAssets();
  let target: ApiTarget;
  if (given !== undefined && given !== '') {
    target = targetOn('kube-apiserver', connectionFromKubeconfig(given), given, async () => {});
  } else if (assets !== undefined) {
    const server = await startRealApiServer(assets);
    const dispatcher = new Agent({ connect: { ca: server.certificateAuthority } });
    const headers = { authorization: `Bearer ${server.token}` };
    target = targetOn('kube-apiserver', { url: server.url, dispatcher, headers }, server.kubeconfig, () =>
      server.stop(),
    );
  } else return undefined;
  for (const crd of crds) await installCrd(target, crd);
  return target;
}

/**
 * The embedded Kubernetes-compatible API server, for one machine without a cluster.
 *
 * What it is: discovery, CRUD, lists with paging, watches, patches, subresources, validation of CRDs, OpenAPI, tables; durable in
 * SQLite; TLS with its own authority. What it is not: it runs no pods, calls no webhooks, knows no roles (every identity that it
 * issued may do everything), serves one version per resource, and is one process.
 *
 * Invariants:
 * 1. Only clients with a certificate of this server's authority, or with one of the configured tokens, get beyond health and version.
 * 2. The process may be killed at any time: what was answered is kept (see storage.ts for what a power cut may take).
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import type { Random } from '../runtime/random.ts';
import { builtInDefinitions } from './builtins.ts';
import { GarbageCollector } from './gc.ts';
import { defaultHistoryLimits, History, type HistoryLimits } from './history.ts';
import { Lists } from './lists.ts';
import { Objects } from './objects.ts';
import { CertificateAuthority, type KeyAndCertificate, keepRenewed, kubeconfig, writePrivateFile } from './pki.ts';
import { Reader } from './read.ts';
import { definitionFromCrd, ResourceRegistry } from './resources.ts';
import { type Identity, Router } from './routes.ts';
import type { CustomResourceDefinition } from './schema/index.ts';
import { seed } from './seed.ts';
import { Storage } from './storage.ts';
import { Writer } from './write.ts';

export interface StandaloneOptions {
  /** Holds the database, keys and the kubeconfig; made when missing, readable by its owner only. */
  readonly dataDir: string;
  /** 0 takes any free port. */
  readonly port: number;
  /** Address to listen at. Default 127.0.0.1. */
  readonly host?: string;
  /** Further names and addresses by which clients reach the server. */
  readonly hostNames?: readonly string[];
  /** Parsed CustomResourceDefinition manifests. */
  readonly crds: readonly object[];
  readonly clock: Clock;
  readonly random: Random;
  readonly log?: Logger;
  /** Bearer tokens and whom they stand for, for clients that cannot present a certificate. */
  readonly tokens?: ReadonlyMap<string, Identity>;
  /** How much of the past is kept for watches and paging. */
  readonly history?: HistoryLimits;
  /** Wait for the disk at each commit: nothing is lost in a power cut, at the price of slower writes. Default false. */
  readonly fullSync?: boolean;
}

export interface Standalone {
  readonly url: string;
  readonly port: number;
  readonly caPem: string;
  /** An administrator's kubeconfig, 0600. */
  readonly kubeconfigPath: string;
  /** Another identity; its groups are its organizations. */
  issueClientCertificate(commonName: string, organizations?: readonly string[]): Promise<KeyAndCertificate>;
  /** Writes a kubeconfig for another identity into the data directory (0600) and returns its path. */
  writeKubeconfig(fileName: string, commonName: string, organizations?: readonly string[]): Promise<string>;
  /** Ends watches, finishes what is under way and closes the database. */
  close(): Promise<void>;
}

/** A client must finish its headers, and its whole request, within these. */
const headersTimeoutMs = 10_000;
const requestTimeoutMs = 60_000;
/** Longer than clients keep idle connections, so that they close first. */
const keepAliveTimeoutMs = 75_000;
/** How long requests under way may take when the server closes. */
const closePatienceMs = 2000;
const mostHeaderBytes = 64 * 1024;

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

class Authenticator {
  readonly #tokens: readonly { hash: Buffer; identity: Identity }[];
  /** A connection keeps its certificate, and reading it again costs more than a whole request. */
  readonly #known = new WeakMap<TLSSocket, Identity>();

  constructor(tokens: ReadonlyMap<string, Identity> = new Map()) {
    this.#tokens = [...tokens].map(([token, identity]) => ({ hash: digest(token), identity }));
  }

  identify(request: IncomingMessage): Identity | undefined {
    const socket = request.socket as TLSSocket;
    const known = this.#known.get(socket);
    if (known !== undefined) return known;
    if (socket.authorized) {
      const subject = socket.getPeerCertificate().subject as { CN?: string; O?: string | string[] } | undefined;
      if (typeof subject?.CN === 'string') {
        const identity = { user: subject.CN, groups: [subject.O ?? []].flat() };
        this.#known.set(socket, identity);
        return identity;
      }
    }
    const token = /^Bearer (\S{1,4096})$/.exec(request.headers.authorization ?? '')?.[1];
    if (token === undefined || this.#tokens.length === 0) return undefined;
    const hash = digest(token);
    return this.#tokens.find((candidate) => timingSafeEqual(candidate.hash, hash))?.identity;
  }
}

function listen(server: Server, port: number, host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const onError = (error: NodeJS.ErrnoException): void => {
      const why = error.code === 'EADDRINUSE' ? 'another program listens there; choose another port' : error.message;
      reject(new Error(`the API server cannot listen at ${host} port ${port}: ${why}`, { cause: error }));
    };
    server.once('error', onError);
    server.listen(port, host, () => {
      server.off('error', onError);
      resolve((server.address() as AddressInfo).port);
    });
  });
}

const tlsOf = ({ keyPem, certificatePem }: KeyAndCertificate) =>
  ({ key: keyPem, cert: certificatePem, minVersion: 'TLSv1.2' }) as const;

function makeServer(identity: KeyAndCertificate, caPem: string): Server {
  const server = createServer({
    ...tlsOf(identity),
    ca: caPem,
    requestCert: true,
    rejectUnauthorized: false,
    maxHeaderSize: mostHeaderBytes,
    noDelay: true,
  });
  server.headersTimeout = headersTimeoutMs;
  server.requestTimeout = requestTimeoutMs;
  server.keepAliveTimeout = keepAliveTimeoutMs;
  // Broken handshakes and malformed requests are the client's affair.
  server.on('tlsClientError', (_error, socket) => socket.destroy());
  return server;
}

/** The parts that need no network. */
function assemble(options: StandaloneOptions) {
  const { clock, random, log } = options;
  const crds = options.crds as readonly CustomResourceDefinition[];
  const registry = new ResourceRegistry([...builtInDefinitions(), ...crds.map(definitionFromCrd)]);
  const storage = new Storage(join(options.dataDir, 'objects.sqlite'), { fullSync: options.fullSync ?? false });
  const objects = new Objects(storage, clock, random);
  try {
    seed(storage, objects, registry, crds, clock, random);
  } catch (error) {
    storage.close();
    throw error;
  }
  const history = new History(storage.version, options.history ?? defaultHistoryLimits);
  const collector = new GarbageCollector(storage, objects, registry, log);
  storage.onCommit((changes) => {
    history.append(changes);
    collector.observe(changes);
  });
  const lists = new Lists(storage, history, objects);
  const reader = new Reader({ storage, history, objects, lists, clock, random });
  const writer = new Writer(storage, objects, lists, reader);
  return { storage, collector, reader, router: new Router(registry, reader, writer, log) };
}

/**
 * Starts the server.
 * @throws Error that says what to do when the data directory is in use, the port is taken or a CRD cannot be served.
 */
export async function startStandalone(options: StandaloneOptions): Promise<Standalone> {
  const { dataDir, clock, host = '127.0.0.1' } = options;
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const authority = await CertificateAuthority.open(join(dataDir, 'pki'), clock);
  const hosts = [...new Set(['localhost', '127.0.0.1', '::1', host, ...(options.hostNames ?? [])])];
  const identity = await authority.serverCertificate(hosts);
  const server = makeServer(identity, authority.caPem);
  const { storage, collector, reader, router } = assemble(options);
  const authenticator = new Authenticator(options.tokens);
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    void router.handle(request, response, authenticator.identify(request));
  });
  let port: number;
  try {
    port = await listen(server, options.port, host);
  } catch (error) {
    storage.close();
    throw error;
  }
  collector.start();
  const shownHost = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host.includes(':') ? `[${host}]` : host;
  const url = `https://${shownHost}:${port}`;
  const kubeconfigPath = join(dataDir, 'kubeconfig');
  const writeAdmin = async (): Promise<void> =>
    writePrivateFile(kubeconfigPath, kubeconfig(url, authority.caPem, 'admin', await authority.adminCertificate()));
  await writeAdmin();
  // Clients read their kubeconfig again; connections that are open go on.
  const renew = async (): Promise<void> => {
    server.setSecureContext({ ...tlsOf(await authority.serverCertificate(hosts)), ca: authority.caPem });
    await writeAdmin();
  };
  const endRenewal = keepRenewed(clock, renew, (error) =>
    options.log?.error('cannot renew certificates', { err: error }),
  );
  return {
    url,
    port,
    caPem: authority.caPem,
    kubeconfigPath,
    issueClientCertificate: (commonName, organizations = []) => authority.clientCertificate(commonName, organizations),
    async writeKubeconfig(fileName, commonName, organizations = []) {
      const path = join(dataDir, fileName);
      const identity = await authority.clientCertificate(commonName, organizations);
      writePrivateFile(path, kubeconfig(url, authority.caPem, commonName, identity));
      return path;
    },
    async close() {
      endRenewal();
      collector.stop();
      reader.close();
      await new Promise<void>((resolve) => {
        const cancel = clock.setTimer(closePatienceMs, () => server.closeAllConnections());
        server.close(() => {
          cancel();
          resolve();
        });
        server.closeIdleConnections();
      });
      storage.close();
    },
  };
}

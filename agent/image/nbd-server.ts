/**
 * Exports images read-only over NBD, each under a name of its own to one node.
 *
 * Invariants:
 * 1. A name is the entitlement: who makes it draws it at random, and it is told to one node. Where clients come over TCP an export can
 *    be bound to an address besides.
 * 2. After `remove` resolved, nobody reads the export any more: its clients' connections are closed.
 * 3. Clients are bounded in number, for an export and for the server, also those that never say which export they want.
 */
import { chmod, rm } from 'node:fs/promises';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import type { Clock } from '../../controller/runtime/clock.ts';
import { BandwidthShare, type Line } from './bandwidth.ts';
import { type ExportedImage, NbdSession, type SessionExport } from './nbd-session.ts';

const handshakeMs = 10_000;
/** A client that takes nothing for so long is no slow one: TCP would have dropped it soon. */
const defaultStallMs = 120_000;
const mostClientsOfExport = 16;
const mostClients = 1024;
/** Those that did not yet name an export: over TCP from one address, so that no machine keeps the others out, and else all together. */
const mostOfAddress = 16;
const mostStrangers = 64;

export interface NbdServerOptions {
  /** A socket of the file system, or one host or several and a port; port 0, with one host: any free one. */
  readonly listen:
    | { readonly socketPath: string }
    | { readonly host: string | readonly string[]; readonly port: number };
  readonly clock: Clock;
  /** Bytes a second for all exports together; unbounded when absent. */
  readonly rateBytes?: number;
  /** How long a client may leave a reply unread. */
  readonly stallMs?: number;
  /** Of errors inside the process. */
  readonly onError?: (error: unknown) => void;
}

export interface ExportOptions {
  readonly image: ExportedImage;
  /** The only address that may read it, over TCP. */
  readonly from?: string;
  /** Bytes a second; unbounded when absent. */
  readonly rateBytes?: number;
}

/** What is read back of an export. */
export interface ExportState {
  readonly clients: number;
  /** Requests that are being answered. */
  readonly inFlight: number;
  readonly servedBytes: number;
}

interface Export extends SessionExport {
  readonly from: string | undefined;
  readonly line: Line;
  readonly sockets: Set<Socket>;
}

export interface NbdServer {
  /** Of TCP; 0 over a socket of the file system. */
  readonly port: number;
  /** Bytes of images that were sent since the start; only grows. */
  readonly servedBytes: number;
  /** @throws when the name is taken */
  add(name: string, options: ExportOptions): void;
  /** Resolves when nobody reads it any more; also where there was none of this name. */
  remove(name: string): Promise<void>;
  /** `undefined`: there is no such export. */
  state(name: string): ExportState | undefined;
  /** Bytes a second for all exports together, or for one, from now on; `undefined`: no bound. */
  setRate(rateBytes: number | undefined, name?: string): void;
  close(): Promise<void>;
}

class Exports implements Omit<NbdServer, 'port' | 'close'> {
  readonly #exports = new Map<string, Export>();
  readonly #closing = new Map<Export, Promise<void>>();
  readonly #share: BandwidthShare;
  readonly #sockets = new Set<Socket>();
  readonly #options: NbdServerOptions;
  readonly #strangers = new Map<string | undefined, number>();
  #goneBytes = 0;

  constructor(options: NbdServerOptions) {
    this.#options = options;
    this.#share = new BandwidthShare(options.clock, options.rateBytes ?? Number.POSITIVE_INFINITY);
  }

  get servedBytes(): number {
    let sum = this.#goneBytes;
    for (const { servedBytes } of [...this.#exports.values(), ...this.#closing.keys()]) sum += servedBytes;
    return sum;
  }

  add(name: string, { image, from, rateBytes = Number.POSITIVE_INFINITY }: ExportOptions): void {
    if (this.#exports.has(name)) throw new Error('an export of this name is open already');
    const line = this.#share.line(rateBytes);
    this.#exports.set(name, { name, image, from, line, sockets: new Set(), servedBytes: 0, inFlight: 0 });
  }

  async remove(name: string): Promise<void> {
    const found = this.#exports.get(name);
    if (found !== undefined) {
      this.#exports.delete(name);
      found.line.close();
      const closing = Promise.all([...found.sockets].map((socket) => ended(socket))).then(() => {
        this.#closing.delete(found);
        this.#goneBytes += found.servedBytes;
      });
      this.#closing.set(found, closing);
    }
    await Promise.all([...this.#closing].filter(([closing]) => closing.name === name).map(([, closed]) => closed));
  }

  state(name: string): ExportState | undefined {
    const found = this.#exports.get(name);
    if (found === undefined) return undefined;
    return { clients: found.sockets.size, inFlight: found.inFlight, servedBytes: found.servedBytes };
  }

  setRate(rateBytes = Number.POSITIVE_INFINITY, name?: string): void {
    if (name === undefined) this.#share.setRate(rateBytes);
    else this.#exports.get(name)?.line.setRate(rateBytes);
  }

  /** Serves one connection until it ends. */
  async serve(socket: Socket): Promise<void> {
    const { remoteAddress } = socket;
    const most = remoteAddress === undefined ? mostStrangers : mostOfAddress;
    const isFull = this.#sockets.size >= mostClients || (this.#strangers.get(remoteAddress) ?? 0) >= most;
    socket.on('error', () => socket.destroy());
    if (isFull) {
      socket.destroy();
      return;
    }
    const { clock, onError = () => {}, stallMs = defaultStallMs } = this.#options;
    this.#sockets.add(socket);
    this.#countStranger(remoteAddress, 1);
    let attached: Export | undefined;
    const session = new NbdSession({
      socket,
      clock,
      handshakeMs,
      stallMs,
      onError,
      find: (name) => this.#find(name, socket)?.image,
      attach: (name) => {
        const found = this.#find(name, socket);
        if (found === undefined || found.sockets.size >= mostClientsOfExport) return undefined;
        attached = found;
        found.sockets.add(socket);
        this.#countStranger(remoteAddress, -1);
        return found;
      },
    });
    await session.run();
    this.#sockets.delete(socket);
    if (attached === undefined) this.#countStranger(remoteAddress, -1);
    attached?.sockets.delete(socket);
  }

  #countStranger(address: string | undefined, change: 1 | -1): void {
    const now = (this.#strangers.get(address) ?? 0) + change;
    if (now === 0) this.#strangers.delete(address);
    else this.#strangers.set(address, now);
  }

  async closeAll(): Promise<void> {
    await Promise.all([...this.#exports.keys()].map((name) => this.remove(name)));
    await Promise.all([...this.#sockets].map((socket) => ended(socket)));
  }

  #find(name: string, socket: Socket): Export | undefined {
    const found = this.#exports.get(name);
    const address = socket.remoteAddress?.replace(/^::ffff:/, '');
    return found === undefined || (found.from !== undefined && found.from !== address) ? undefined : found;
  }
}

function ended(socket: Socket): Promise<void> {
  if (socket.closed) return Promise.resolve();
  return new Promise((resolve) => {
    socket.once('close', () => resolve());
    socket.destroy();
  });
}

type Place = { readonly socketPath: string } | { readonly host: string; readonly port: number };

function listenOnce(server: Server, where: Place): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    const done = (): void => {
      server.off('error', reject);
      resolve();
    };
    if ('socketPath' in where) server.listen({ path: where.socketPath }, done);
    else server.listen({ host: where.host, port: where.port }, done);
  });
}

/** Whether a process listens behind the socket; a killed one leaves the file behind. */
function isAlive(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.once('connect', () => resolve(true));
    socket.once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}

async function listen(server: Server, where: Place): Promise<void> {
  if (!('socketPath' in where)) return listenOnce(server, where);
  const { socketPath } = where;
  try {
    await listenOnce(server, where);
  } catch (error) {
    const isTaken = error instanceof Error && 'code' in error && error.code === 'EADDRINUSE';
    if (!isTaken || (await isAlive(socketPath))) throw error;
    await rm(socketPath, { force: true });
    await listenOnce(server, where);
  }
  // Names are secrets, but who cannot connect need not even try.
  await chmod(socketPath, 0o600);
}

/** Resolves when it listens. @throws when it cannot */
export async function startNbdServer(options: NbdServerOptions): Promise<NbdServer> {
  const exports = new Exports(options);
  const where = options.listen;
  const places: Place[] =
    'socketPath' in where ? [where] : [where.host].flat().map((host) => ({ host, port: where.port }));
  const servers: Server[] = [];
  const closeServers = (): Promise<unknown> =>
    Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  try {
    for (const place of places) {
      const server = createServer({ noDelay: true, keepAlive: true, keepAliveInitialDelay: 30_000 }, (socket) => {
        void exports.serve(socket);
      });
      await listen(server, place);
      servers.push(server);
      server.on('error', (error) => options.onError?.(error));
    }
  } catch (error) {
    await closeServers();
    throw error;
  }
  const address = servers[0]?.address() as AddressInfo | string | null;
  return {
    port: address !== null && typeof address === 'object' ? address.port : 0,
    get servedBytes() {
      return exports.servedBytes;
    },
    add: (name, added) => exports.add(name, added),
    remove: (name) => exports.remove(name),
    state: (name) => exports.state(name),
    setRate: (rateBytes, name) => exports.setRate(rateBytes, name),
    async close() {
      const closed = closeServers();
      await exports.closeAll();
      await closed;
    },
  };
}

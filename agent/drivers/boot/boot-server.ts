/**
 * The boot server of a rack: HTTP on the control ports. A request is known by the port it came through, which nobody can forge; what belongs
 * to one boot besides carries that boot's token.
 *
 * Invariants:
 * 1. What a machine is answered is decided when it asks, by `BootHandler.boot`, and a request through one port never concerns another's machine.
 * 2. `onTaken` of an answer runs once the machine has taken the answer and its connection is gone.
 * 3. Bodies are read by the trusted side alone, which bounds them.
 * 4. A loader is sent whatever the machine is to boot, and is the same for each: it asks `BootHandler.boot` what that is.
 * 5. A machine holds a bounded number of connections, each request comes in bounded time, and what is given up leaves no file open: no
 *    machine keeps the others from booting.
 */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Server, Socket } from 'node:net';
import { loaderPlace, mostLoaderBytes } from './loaders.ts';

export interface BootAnswer {
  /** An iPXE script. */
  readonly script: string;
  onTaken?(): void;
}

export interface BootFile {
  readonly path: string;
  /** Sent behind what the file holds. */
  readonly trailer?: Buffer;
}

/** One machine's side of the boot server. */
export interface BootHandler {
  boot(): Promise<BootAnswer>;
  /** A file that this boot may have; undefined: none of that name. */
  file(bootId: string, name: string): BootFile | undefined;
  /** Answers a request of the trusted image that this machine booted; false: it is not for it. */
  trusted(request: IncomingMessage, response: ServerResponse): Promise<boolean>;
}

export interface BootServer {
  close(): void;
}

/** Of EFI programs; firmware looks at it before the name. */
const loaderType = 'application/efi';

async function sendFile(
  response: ServerResponse,
  { path, trailer, type = 'application/octet-stream' }: BootFile & { readonly type?: string },
): Promise<void> {
  const { size } = await stat(path);
  const length = size + (trailer?.length ?? 0);
  response.writeHead(200, { 'content-length': length, 'content-type': type });
  const file = createReadStream(path, { end: Math.max(0, size - 1) });
  file
    .on('error', () => response.destroy())
    .on('end', () => response.end(trailer))
    .pipe(response, { end: false });
  // A pipe leaves the file open when the machine is gone.
  response.once('close', () => file.destroy());
  if (response.destroyed) file.destroy();
}

/** What cannot be sent is not logged: a machine may ask for it without end. */
async function sendLoader(path: string | undefined, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const found = path === undefined ? undefined : await stat(path).catch(() => undefined);
  if (path === undefined || found?.isFile() !== true || found.size > mostLoaderBytes) {
    response.writeHead(404).end();
    return;
  }
  // Firmware asks for the length first, and for the file over the same connection then.
  if (request.method !== 'HEAD') return sendFile(response, { path, type: loaderType });
  response.removeHeader('connection');
  response.writeHead(200, { 'content-length': found.size, 'content-type': loaderType }).end();
}

async function answer(
  handler: BootHandler,
  loaderOf: (name: string) => string | undefined,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { pathname } = new URL(request.url ?? '/', 'http://boot');
  // iPXE keeps a connection for as long as it likes; its end says that the answer was taken.
  response.setHeader('connection', 'close');
  if (pathname === '/boot.ipxe' && request.method === 'GET') {
    const { script, onTaken } = await handler.boot();
    if (onTaken !== undefined) response.once('close', onTaken);
    response.writeHead(200, { 'content-type': 'text/plain' });
    response.end(`#!ipxe\n${script}`);
    return;
  }
  const [, place, bootId = '', name = ''] = pathname.split('/');
  if (place === loaderPlace && (request.method === 'GET' || request.method === 'HEAD')) {
    await sendLoader(loaderOf(bootId), request, response);
    return;
  }
  if (place === 'trusted' && (await handler.trusted(request, response))) return;
  const file = place === 'boot' && request.method === 'GET' ? handler.file(bootId, name) : undefined;
  if (file === undefined) response.writeHead(404).end();
  else await sendFile(response, file);
}

/** A listening socket, and whose machine it is that a connection to it comes from; undefined: nobody's. */
export interface BootListener {
  readonly listener: Server;
  handlerOf(socket: Socket): BootHandler | undefined;
  /** The file of this name that firmware at the other end may load now; absent: none. */
  loaderOf?(socket: Socket, name: string): string | undefined;
}

/** A machine that says nothing for so long, or takes nothing, is gone. */
const idleMs = 120_000;
const headersMs = 10_000;
const requestMs = 30_000;
/** iPXE uses one, the trusted image a few; those of a machine whose power was cut linger for a while. */
const mostOfMachine = 32;

export function startBootServer(listeners: readonly BootListener[], onError: (error: unknown) => void): BootServer {
  const servers = listeners.map(({ listener, handlerOf, loaderOf }) => {
    const timed = { headersTimeout: headersMs, requestTimeout: requestMs, connectionsCheckingInterval: headersMs / 4 };
    const http = createServer(timed, (request, response) => {
      const handler = handlerOf(request.socket);
      if (handler === undefined) {
        response.writeHead(404).end();
        return;
      }
      const loader = (name: string): string | undefined => loaderOf?.(request.socket, name);
      answer(handler, loader, request, response).catch((error: unknown) => {
        onError(error);
        if (response.headersSent) response.destroy();
        else response.writeHead(500).end();
      });
    });
    http.timeout = idleMs;
    // Node times the requests of a server that listens itself; this one is handed its connections.
    http.emit('listening');
    const open = new Map<BootHandler | undefined, number>();
    listener.on('connection', (socket) => {
      const handler = handlerOf(socket);
      const count = open.get(handler) ?? 0;
      if (count >= mostOfMachine) {
        socket.destroy();
        return;
      }
      open.set(handler, count + 1);
      socket.once('close', () => open.set(handler, (open.get(handler) ?? 1) - 1));
      http.emit('connection', socket);
    });
    return { listener, http };
  });
  return {
    close() {
      for (const { listener, http } of servers) {
        listener.close();
        http.closeAllConnections();
        http.close();
      }
    },
  };
}

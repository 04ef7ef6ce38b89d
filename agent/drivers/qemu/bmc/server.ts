/**
 * A Redfish BMC of the lab over HTTP or HTTPS: one listener in front of one machine.
 *
 * Invariants:
 * 1. A request is bounded in size; what is no JSON is refused.
 * 2. `close` ends every connection, those that a hanging BMC holds included.
 */
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { sleep } from '../../../../controller/runtime/clock.ts';
import type { Misbehaviour } from './machine.ts';
import { errorBody } from './resources.ts';
import { RedfishService, type ServiceAnswer, type ServiceOptions } from './service.ts';

const largestBodyBytes = 64 * 1024;

export interface BmcOptions extends Omit<ServiceOptions, 'misbehaviour'> {
  /** 127.0.0.1 when absent. */
  readonly host?: string;
  /** Any free one when absent. */
  readonly port?: number;
  /** Plain HTTP when absent. */
  readonly tls?: { readonly certPem: string; readonly keyPem: string };
  readonly misbehaviour?: Misbehaviour;
}

export interface RunningBmc {
  /** http(s)://host:port */
  readonly url: string;
  /** Change it while the BMC runs. */
  readonly misbehaviour: Misbehaviour;
  /** Requests that came, answered or not. */
  readonly requests: () => number;
  close(): Promise<void>;
}

const header = (value: string | string[] | undefined): string | undefined => (Array.isArray(value) ? value[0] : value);

async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > largestBodyBytes) throw new Error(`a request has at most ${largestBodyBytes} bytes`);
    chunks.push(chunk);
  }
  return bytes === 0 ? undefined : JSON.parse(Buffer.concat(chunks).toString());
}

async function answerOf(service: RedfishService, request: IncomingMessage): Promise<ServiceAnswer> {
  let body: unknown;
  try {
    body = await readJson(request);
  } catch (error) {
    return { status: 400, body: errorBody('MalformedJSON', `the body is no JSON: ${error}`) };
  }
  return service.handle({
    method: request.method ?? 'GET',
    path: (request.url ?? '/').split('?')[0] ?? '/',
    authorization: request.headers.authorization,
    token: header(request.headers['x-auth-token']),
    ifMatch: request.headers['if-match'],
    body,
  });
}

function send(response: ServerResponse, { status, headers = {}, body }: ServiceAnswer): void {
  const always = { 'OData-Version': '4.0', 'Cache-Control': 'no-cache' };
  if (body === undefined) {
    response.writeHead(status, { ...always, ...headers }).end();
    return;
  }
  const text = JSON.stringify(body);
  response.writeHead(status, {
    ...always,
    'Content-Type': 'application/json',
    'Content-Length': Buffer.byteLength(text),
    ...headers,
  });
  response.end(text);
}

export async function startBmc(options: BmcOptions): Promise<RunningBmc> {
  const { host = '127.0.0.1', port = 0, tls, misbehaviour = {}, clock } = options;
  const service = new RedfishService({ ...options, misbehaviour });
  const sockets = new Set<Socket>();
  let requests = 0;
  const onRequest = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    requests++;
    if (misbehaviour.hangs === true) return;
    const { slowMs } = misbehaviour;
    if (slowMs !== undefined) await sleep(clock, slowMs);
    send(response, await answerOf(service, request));
  };
  const listener = (request: IncomingMessage, response: ServerResponse): void => {
    onRequest(request, response).catch((error: unknown) => {
      if (response.headersSent) response.destroy();
      else send(response, { status: 500, body: errorBody('InternalError', String(error)) });
    });
  };
  const http =
    tls === undefined
      ? createHttpServer(listener)
      : createHttpsServer({ cert: tls.certPem, key: tls.keyPem }, listener);
  // A BMC that hangs accepts a connection and does not even begin TLS on it.
  const front = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => socket.destroy());
    if (misbehaviour.hangs !== true) http.emit('connection', socket);
  });
  await new Promise<void>((resolve, reject) => {
    front.once('error', reject);
    front.listen(port, host, resolve);
  });
  const { port: actualPort } = front.address() as AddressInfo;
  const scheme = tls === undefined ? 'http' : 'https';
  return {
    url: `${scheme}://${host.includes(':') ? `[${host}]` : host}:${actualPort}`,
    misbehaviour,
    requests: () => requests,
    close: () =>
      new Promise((resolve) => {
        service.close();
        front.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}

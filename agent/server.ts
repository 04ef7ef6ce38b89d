/**
 * The agent's HTTPS server: one rack on one port. GET /v1/observations, POST /v1/instructions, GET /healthz.
 *
 * Invariants:
 * 1. Only a client with a certificate of the operator's CA and the operator's name in it gets anything.
 * 2. What waits for a slow reader is at most one line a node (feed.ts) and what one write holds.
 * 3. A request is bounded in size and time; streams and connections are bounded in number.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { Instruction, InstructionBatchResult, InstructionResult } from '../controller/api/protocol.generated.ts';
import { largestBatchBytes, ProtocolViolation, type ReadBatch, readBatch } from '../controller/api/protocol.ts';
import type { Clock } from '../controller/runtime/clock.ts';
import type { AgentCore } from './core.ts';
import { ObservationFeed, type Resume } from './feed.ts';

/** `alive` comes whenever nothing else was sent for so long. */
const aliveIntervalMs = 5_000;
/** An operator, its successor, and a person with curl. */
const mostStreams = 8;
const mostConnections = 64;
const linesPerWrite = 64;
/** Longer than the operator keeps an idle connection, so that the operator is the one to close it. */
const keepAliveMs = 60_000;

export interface AgentServerOptions {
  readonly core: AgentCore;
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  readonly tls: {
    /** Certificates of the CA that signs the operator's certificate. */
    readonly caPem: string;
    readonly certPem: string;
    readonly keyPem: string;
  };
  /** What the operator's certificate must say; what is absent is not asked for. */
  readonly operator: { readonly commonName: string; readonly organization?: string };
  readonly clock: Clock;
  readonly onError?: (error: unknown) => void;
}

export interface AgentServer {
  /** https://host:port */
  readonly endpoint: string;
  close(): Promise<void>;
}

export async function startAgentServer(options: AgentServerOptions): Promise<AgentServer> {
  const { tls, host, port } = options;
  const streams = new Set<() => void>();
  const server = createServer(
    {
      ca: tls.caPem,
      cert: tls.certPem,
      key: tls.keyPem,
      requestCert: true,
      rejectUnauthorized: true,
      minVersion: 'TLSv1.3',
      keepAliveTimeout: keepAliveMs,
    },
    (request, response) => {
      route(options, streams, request, response).catch((error: unknown) => {
        options.onError?.(error);
        if (!response.headersSent) answer(response, 500, 'a fault of the agent\n');
        else response.destroy();
      });
    },
  );
  server.maxConnections = mostConnections;
  await listen(server, host, port);
  const { port: actualPort } = server.address() as AddressInfo;
  return {
    endpoint: `https://${host.includes(':') ? `[${host}]` : host}:${actualPort}`,
    close: () =>
      new Promise((resolve) => {
        for (const end of streams) end();
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

async function route(
  options: AgentServerOptions,
  streams: Set<() => void>,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  if (!isOperator(request.socket as TLSSocket, options.operator)) {
    answer(response, 403, `this certificate is not that of ${options.operator.commonName}\n`);
    return;
  }
  const url = new URL(request.url ?? '/', 'https://agent.invalid');
  switch (`${request.method} ${url.pathname}`) {
    case 'GET /healthz':
      answer(response, 200, 'ok\n');
      break;
    case 'GET /v1/observations':
      if (streams.size >= mostStreams) answer(response, 429, `${mostStreams} streams are open\n`);
      else streamObservations(options, streams, response, resumeOf(url.searchParams));
      break;
    case 'POST /v1/instructions':
      await takeInstructions(options.core, request, response, options.onError);
      break;
    default:
      answer(response, 404, 'GET /v1/observations, POST /v1/instructions or GET /healthz\n');
  }
}

function isOperator(socket: TLSSocket, { commonName, organization }: AgentServerOptions['operator']): boolean {
  if (!socket.authorized) return false;
  const { subject } = socket.getPeerCertificate();
  return subject?.CN === commonName && (organization === undefined || subject.O === organization);
}

function answer(response: ServerResponse, status: number, text: string, type = 'text/plain; charset=utf-8'): void {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(text) });
  response.end(text);
}

function resumeOf(query: URLSearchParams): Resume | undefined {
  const bootNonce = query.get('bootNonce');
  const since = query.get('since');
  if (bootNonce === null || since === null || !/^\d{1,15}$/.test(since)) return undefined;
  return { bootNonce, since: Number(since) };
}

function streamObservations(
  { core, clock }: AgentServerOptions,
  streams: Set<() => void>,
  response: ServerResponse,
  resume: Resume | undefined,
): void {
  const feed = new ObservationFeed(core, resume);
  let writable = true;
  let saidAtMs = clock.monotonic();
  let cancelTimer: (() => void) | undefined;
  const write = (text: string): void => {
    saidAtMs = clock.monotonic();
    writable = response.write(text);
  };
  const pump = (): void => {
    while (writable) {
      const lines = feed.take(linesPerWrite);
      if (lines.length === 0) return;
      write(lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    }
  };
  // One write for all the nodes that changed in one turn of the core.
  let pumping = false;
  const pumpSoon = (): void => {
    if (pumping) return;
    pumping = true;
    queueMicrotask(() => {
      pumping = false;
      pump();
    });
  };
  const keepAlive = (): void => {
    const left = saidAtMs + aliveIntervalMs - clock.monotonic();
    if (left <= 0 && writable) write(`${JSON.stringify(feed.alive())}\n`);
    cancelTimer = clock.setTimer(left <= 0 ? aliveIntervalMs : left, keepAlive);
  };
  const end = (): void => {
    cancelTimer?.();
    feed.close();
    streams.delete(end);
    response.destroy();
  };
  streams.add(end);
  response.on('close', end);
  response.on('error', end);
  response.on('drain', () => {
    writable = true;
    pump();
  });
  response.writeHead(200, { 'content-type': 'application/x-ndjson', 'cache-control': 'no-store' });
  feed.onReadable = pumpSoon;
  pump();
  keepAlive();
}

async function takeInstructions(
  core: AgentCore,
  request: IncomingMessage,
  response: ServerResponse,
  onError: AgentServerOptions['onError'],
): Promise<void> {
  const body = await readBody(request);
  if (body === undefined) {
    response.setHeader('connection', 'close');
    answer(response, 413, `a batch has at most ${largestBatchBytes} bytes\n`);
    return;
  }
  let batch: ReadBatch;
  try {
    batch = readBatch(body);
  } catch (error) {
    if (!(error instanceof ProtocolViolation)) throw error;
    answer(response, 400, `${error.message}\n`);
    return;
  }
  try {
    answer(response, 200, JSON.stringify(instruct(core, batch)), 'application/json');
  } catch (error) {
    onError?.(error);
    answer(response, 503, `the log cannot be written; nothing was accepted: ${error}\n`);
  }
}

function instruct(core: AgentCore, { term, entries }: ReadBatch): InstructionBatchResult {
  const valid: Instruction[] = entries.flatMap((entry) => (entry.invalid === undefined ? [entry.instruction] : []));
  const given = core.instruct({ term, instructions: valid });
  let next = 0;
  const results = entries.map((entry): InstructionResult => {
    const result = entry.invalid === undefined ? given.results[next++] : undefined;
    if (result !== undefined) return result;
    const { operationId = '', node = '', message = '' } = entry.invalid ?? {};
    return { operationId, node, result: 'Refused', reason: 'Invalid', message };
  });
  return { ...given, results };
}

async function readBody(request: IncomingMessage): Promise<string | undefined> {
  if (Number(request.headers['content-length'] ?? 0) > largestBatchBytes) return undefined;
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    bytes += part.length;
    if (bytes > largestBatchBytes) return undefined;
    parts.push(part);
  }
  return Buffer.concat(parts).toString('utf8');
}

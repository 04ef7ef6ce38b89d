/**
 * The agent's HTTPS server: one rack on one port. GET /v1/observations, POST /v1/instructions, GET /healthz.
 *
 * Invariants:
 * 1. Only a client with a certificate of the operator's CA that has not ended, and the operator's name in it, gets anything.
 * 2. What waits for a slow reader is at most one line a node (feed.ts) and what one write holds.
 * 3. A request is bounded in size and time; streams and connections are bounded in number, the newest is let in.
 * 4. A reader that said it was there and then falls silent is taken for gone.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { Instruction, InstructionBatchResult, InstructionResult } from '../controller/api/protocol.generated.ts';
import { largestBatchBytes, ProtocolViolation, type ReadBatch, readBatch } from '../controller/api/protocol.ts';
import type { Clock } from '../controller/runtime/clock.ts';
import { certificatesIn } from '../controller/runtime/pem.ts';
import { boundConnections } from './connections.ts';
import type { AgentCore } from './core.ts';
import { ObservationFeed, type Resume } from './feed.ts';
import { certificateEnd, type OperatorName, objectionTo } from './peer.ts';

/** `alive` comes whenever nothing else was sent for so long. */
const aliveIntervalMs = 5_000;
/** A reader that sends its sign of life says something every 5 s; three of them missing is silence. */
const readerSilenceMs = 3 * 5_000;
/** An operator, its successor, and a person with curl. */
const mostStreams = 8;
/** For the handshake, for the headers, and for the body of a request. */
const handshakeMs = 5_000;
const headersMs = 10_000;
const bodyMs = 30_000;
const linesPerWrite = 64;
/** Longer than the operator keeps an idle connection, so that the operator is the one to close it. */
const keepAliveMs = 60_000;

export interface ServerTls {
  /** Certificates of the CA that signs the operator's certificate. */
  readonly caPem: string;
  readonly certPem: string;
  readonly keyPem: string;
}

export interface AgentServerOptions {
  readonly core: AgentCore;
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  readonly tls: ServerTls;
  readonly operator: OperatorName;
  readonly clock: Clock;
  readonly onError?: (error: unknown) => void;
}

export interface AgentServer {
  /** https://host:port */
  readonly endpoint: string;
  /**
   * Connections from now on are made under these; those that stand go on, unless the CA changed: then they end.
   * @throws when they do not fit together; the ones before stay in force
   */
  renewTls(tls: ServerTls): void;
  close(): Promise<void>;
}

type EndStream = () => void;

function contextOf({ caPem, certPem, keyPem }: ServerTls): object {
  certificatesIn(caPem);
  return { ca: caPem, cert: certPem, key: keyPem, minVersion: 'TLSv1.3' };
}

export async function startAgentServer(options: AgentServerOptions): Promise<AgentServer> {
  const { host, port, operator, clock } = options;
  let { caPem } = options.tls;
  const streams = new Set<EndStream>();
  const server = createServer(
    {
      ...contextOf(options.tls),
      requestCert: true,
      rejectUnauthorized: true,
      keepAliveTimeout: keepAliveMs,
      handshakeTimeout: handshakeMs,
      headersTimeout: headersMs,
      // The request for observations does not end: its body is the reader's sign of life. Others are timed where they are read.
      requestTimeout: 0,
      connectionsCheckingInterval: headersMs / 4,
    },
    (request, response) => {
      route(options, streams, request, response).catch((error: unknown) => {
        options.onError?.(error);
        if (!response.headersSent) answer(response, 500, 'a fault of the agent\n');
        else response.destroy();
      });
    },
  );
  boundConnections(server, (socket) => objectionTo(socket, operator, clock.now()) === undefined);
  await listen(server, host, port);
  const { port: actualPort } = server.address() as AddressInfo;
  const endAll = (): void => {
    for (const end of streams) end();
    server.closeAllConnections();
  };
  return {
    endpoint: `https://${host.includes(':') ? `[${host}]` : host}:${actualPort}`,
    renewTls(tls) {
      server.setSecureContext(contextOf(tls));
      if (tls.caPem !== caPem) endAll();
      ({ caPem } = tls);
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        endAll();
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
  streams: Set<EndStream>,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const objection = objectionTo(request.socket as TLSSocket, options.operator, options.clock.now());
  if (objection !== undefined) {
    response.setHeader('connection', 'close');
    answer(response, 403, `${objection}\n`);
    return;
  }
  const url = new URL(request.url ?? '/', 'https://agent.invalid');
  switch (`${request.method} ${url.pathname}`) {
    case 'GET /healthz':
      answer(response, 200, 'ok\n');
      break;
    case 'GET /v1/observations': {
      const [oldest] = streams;
      // A reader whose end was never seen must not keep its successor out.
      if (streams.size >= mostStreams) oldest?.();
      streamObservations(options, streams, request, response, resumeOf(url.searchParams));
      break;
    }
    case 'POST /v1/instructions':
      await takeInstructions(options, request, response);
      break;
    default:
      answer(response, 404, 'GET /v1/observations, POST /v1/instructions or GET /healthz\n');
  }
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
  streams: Set<EndStream>,
  request: IncomingMessage,
  response: ServerResponse,
  resume: Resume | undefined,
): void {
  const feed = new ObservationFeed(core, resume);
  const validUntil = certificateEnd(request.socket as TLSSocket);
  let writable = true;
  let saidAtMs = clock.monotonic();
  let heardAtMs: number | undefined;
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
  const isOver = (): boolean =>
    clock.now() >= validUntil || (heardAtMs !== undefined && clock.monotonic() - heardAtMs >= readerSilenceMs);
  const keepAlive = (): void => {
    if (isOver()) {
      end();
      return;
    }
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
  request.on('data', () => {
    heardAtMs = clock.monotonic();
  });
  request.on('error', end);
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
  { core, clock, onError }: AgentServerOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const cancelTimer = clock.setTimer(bodyMs, () => request.destroy());
  const body = await readBody(request).finally(cancelTimer);
  if (body === 'Gone') return;
  if (body === 'TooLarge') {
    response.setHeader('connection', 'close');
    answer(response, 413, `a batch has at most ${largestBatchBytes} bytes\n`);
    return;
  }
  let batch: ReadBatch;
  try {
    batch = readBatch(body.text);
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

/** The text; `TooLarge`; or `Gone` when the peer ended before it did. */
async function readBody(request: IncomingMessage): Promise<{ text: string } | 'TooLarge' | 'Gone'> {
  if (Number(request.headers['content-length'] ?? 0) > largestBatchBytes) return 'TooLarge';
  const parts: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const part of request as AsyncIterable<Buffer>) {
      bytes += part.length;
      if (bytes > largestBatchBytes) return 'TooLarge';
      parts.push(part);
    }
  } catch {
    return 'Gone';
  }
  return { text: Buffer.concat(parts).toString('utf8') };
}

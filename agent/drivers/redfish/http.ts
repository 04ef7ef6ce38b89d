/**
 * HTTP to one BMC: one request at a time over TLS with a pinned peer, each bounded in time and size.
 *
 * Invariants:
 * 1. No byte of a request leaves before the peer was proven: by its certificate's fingerprint, or by a CA and its name.
 * 2. Of a request that failed it is known whether it can have been carried out: `NotSent` says that it cannot.
 * 3. Redirects are not followed, and a path is taken from a BMC only as a path on this same BMC.
 */
import { type PeerCertificate, rootCertificates, TLSSocket } from 'node:tls';
import { Agent, buildConnector, type Dispatcher } from 'undici';
import type { Clock } from '../../../controller/runtime/clock.ts';

/** A whole answer; a collection of a large system has some 100 kB. */
const largestAnswerBytes = 2 * 2 ** 20;
const longestPath = 1024;
/** BMCs close idle connections after 5 s and more, and say so by a reset of the next request. */
const keepAliveMs = 2_000;

export interface BmcTls {
  /** Certificates that the BMC's has to be signed by; the system's own when absent. */
  readonly caPem?: string;
  /** Name in the BMC's certificate; the host of its URL when absent. */
  readonly serverName?: string;
  /** SHA-256 of the BMC's certificate, as `openssl x509 -fingerprint -sha256` prints it; then nothing else is asked of it. */
  readonly fingerprint?: string;
}

export interface HttpOptions {
  /** https://host[:port]; http only where nobody else is on the wire, as in a lab. */
  readonly url: string;
  readonly tls?: BmcTls;
  readonly timeoutMs: number;
  readonly clock: Clock;
}

export interface HttpRequest {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
}

export interface HttpAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | undefined>>;
  /** The JSON object of the body; empty where there is none, or none that is an object. */
  readonly body: Readonly<Record<string, unknown>>;
}

/** No answer came. */
export class NoAnswer extends Error {
  override readonly name = 'NoAnswer';
  /** Whether the BMC may have got the request all the same. */
  readonly sent: boolean;

  constructor(message: string, sent: boolean, cause?: unknown) {
    super(message, { cause });
    this.sent = sent;
  }
}

class PinMismatch extends Error {
  readonly code = 'PIN_MISMATCH';
}

/** Errors that come up before the first byte of a request is written. */
const beforeSending = new Set([
  'UND_ERR_CONNECT_TIMEOUT',
  'ECONNREFUSED',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EADDRNOTAVAIL',
  'ENOTFOUND',
  'EAI_AGAIN',
  'PIN_MISMATCH',
  'CERT_HAS_EXPIRED',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'ERR_TLS_CERT_ALTNAME_INVALID',
]);

const normalized = (fingerprint: string): string => fingerprint.replaceAll(':', '').toLowerCase();

function connectorOf({ tls = {}, timeoutMs }: HttpOptions): buildConnector.connector {
  const { caPem, serverName, fingerprint } = tls;
  const connect = buildConnector({
    // Below the limit of the whole request, so that a peer that never connected is told from one that never answered.
    timeout: timeoutMs * 0.8,
    // A resumed session has no certificate to look at.
    maxCachedSessions: 0,
    ca: caPem === undefined ? [...rootCertificates] : [caPem],
    ...(serverName === undefined ? {} : { servername: serverName }),
    // With a fingerprint the check is ours, below.
    rejectUnauthorized: fingerprint === undefined,
    // BMCs keep the protocol versions of the year they were made in.
    minVersion: 'TLSv1.2',
  });
  if (fingerprint === undefined) return connect;
  return (options, callback) =>
    connect(options, (...result) => {
      const [error, socket] = result;
      if (error !== null) return callback(error, null);
      if (socket instanceof TLSSocket) {
        const peer: PeerCertificate = socket.getPeerCertificate();
        if (normalized(peer.fingerprint256 ?? '') === normalized(fingerprint)) return callback(null, socket);
      }
      socket.destroy();
      callback(new PinMismatch('its certificate has another fingerprint than the pinned one'), null);
    });
}

/** A path on the same BMC, from what the BMC said; undefined when it is none. */
export function pathOnBmc(value: unknown, base: string): string | undefined {
  if (typeof value !== 'string' || value === '' || value.length > longestPath) return undefined;
  try {
    const url = new URL(value, base);
    return url.host === new URL(base).host && url.pathname.startsWith('/redfish') ? url.pathname : undefined;
  } catch {
    return undefined;
  }
}

export class BmcHttp {
  readonly #options: HttpOptions;
  readonly #agent: Agent;

  constructor(options: HttpOptions) {
    this.#options = options;
    this.#agent = new Agent({
      connect: connectorOf(options),
      connections: 1,
      pipelining: 0,
      keepAliveTimeout: keepAliveMs,
      keepAliveMaxTimeout: keepAliveMs,
      headersTimeout: 0,
      bodyTimeout: 0,
    });
  }

  get url(): string {
    return this.#options.url;
  }

  /** @throws NoAnswer */
  async request({ method, path, headers = {}, body }: HttpRequest): Promise<HttpAnswer> {
    const { url, timeoutMs, clock } = this.#options;
    const abort = new AbortController();
    const late = `no answer within ${timeoutMs / 1000} s`;
    const cancel = clock.setTimer(timeoutMs, () => abort.abort(new Error(late)));
    try {
      const response = await this.#agent.request({
        origin: url,
        path,
        method,
        headers: {
          accept: 'application/json',
          'odata-version': '4.0',
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...headers,
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        signal: abort.signal,
      });
      return {
        status: response.statusCode,
        headers: firstOfEach(response.headers),
        body: parse(await readBounded(response)),
      };
    } catch (error) {
      throw asNoAnswer(abort.signal.aborted ? (abort.signal.reason as Error) : error);
    } finally {
      cancel();
    }
  }

  close(): Promise<void> {
    return this.#agent.destroy();
  }
}

function firstOfEach(headers: Dispatcher.ResponseData['headers']): Record<string, string | undefined> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, Array.isArray(value) ? value[0] : value]),
  );
}

async function readBounded({ body }: Dispatcher.ResponseData): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > largestAnswerBytes) throw new Error(`an answer of more than ${largestAnswerBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

function parse(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : {};
  } catch {
    return {};
  }
}

function asNoAnswer(error: unknown): NoAnswer {
  const { code } = error as { code?: unknown };
  const message = error instanceof Error ? error.message : String(error);
  return new NoAnswer(message, typeof code !== 'string' || !beforeSending.has(code), error);
}

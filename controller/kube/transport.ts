/**
 * HTTP to the API server: bytes in, bytes out, over undici.
 *
 * Invariants:
 * 1. Every failure is a KubeError of the closed set. A call that may change something and of which a byte may have left
 *    is `Unknown` when no answer came; one that had not started is `Unavailable`. A read changes nothing: `Unavailable`.
 * 2. Every call ends: by its answer, its timeout, its size bound, or `close()`.
 * 3. Calls share one pool of kept-alive connections, watches another, so that neither waits for the other.
 * 4. A 401 renews the credentials and is tried once more (the server refused it unread, so nothing happened).
 * 5. No header and no body of ours stands in an error.
 */
import { Agent, type Dispatcher } from 'undici';
import type { Clock } from '../runtime/clock.ts';
import type { Credentials, TlsMaterial } from './credentials.ts';
import { KubeError } from './port.ts';
import { errorFromResponse, notAnswered } from './transport-errors.ts';

export interface TransportOptions {
  readonly credentials: Credentials;
  readonly clock: Clock;
  readonly userAgent: string;
  /** Connections for calls. */
  readonly connections: number;
  /** Default 30 s: half a minute is what kube-apiserver itself gives a call before it answers 504 (its limit is 60 s). */
  readonly timeoutMs?: number;
  /** Bytes of one answer. Default 64 MiB: a page of 500 objects of 100 KB. */
  readonly maxResponseBytes?: number;
}

export interface CallRequest {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  /** With the query, as it goes on the wire. */
  readonly path: string;
  readonly body?: string;
  readonly contentType?: string;
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  /** Whether an answer that got lost leaves anything in doubt: not for reads and dry runs. */
  readonly changes: boolean;
}

export interface Transport {
  /** The body of a 2xx answer. */
  call(request: CallRequest): Promise<Buffer>;
  /** The body of a 2xx answer as it comes; ends when the server ends it or the signal is aborted. */
  stream(path: string, signal: AbortSignal | undefined): AsyncIterable<Buffer>;
  close(): Promise<void>;
}

interface Pools {
  readonly calls: Agent;
  readonly watches: Agent;
  readonly tls: TlsMaterial;
}

const defaultTimeoutMs = 30_000;
const defaultMaxResponseBytes = 64 * 1024 * 1024;
/** To reach a server on another continent through a proxy, and no longer. */
const connectTimeoutMs = 10_000;
/** Of an answer that is not 2xx, enough for a Status with many causes. */
const maxErrorBytes = 256 * 1024;

function sameMaterial(a: TlsMaterial, b: TlsMaterial): boolean {
  const text = (tls: TlsMaterial): string =>
    [tls.ca, tls.cert, tls.key, tls.servername, tls.rejectUnauthorized].map((part) => String(part ?? '')).join('\0');
  return text(a) === text(b);
}

function openPools(tls: TlsMaterial, connections: number): Pools {
  const connect = { ...tls, timeout: connectTimeoutMs };
  // HTTP/2 is off: one connection would carry everything, and one lost packet would stall all of it.
  const shared = { allowH2: false, pipelining: 1, connect, headersTimeout: 0, bodyTimeout: 0 };
  return {
    calls: new Agent({ ...shared, connections, keepAliveTimeout: 30_000 }),
    watches: new Agent({ ...shared, keepAliveTimeout: 1_000 }),
    tls,
  };
}

/** What undici tells of one call, gathered. */
class Exchange implements Dispatcher.DispatchHandler {
  readonly answer: Promise<{ status: number; retryAfter: string | undefined; body: Buffer }>;
  readonly #resolve: (answer: { status: number; retryAfter: string | undefined; body: Buffer }) => void;
  readonly #reject: (error: unknown) => void;
  readonly #request: CallRequest;
  readonly #maxBytes: number;
  readonly #chunks: Buffer[] = [];
  #controller: Dispatcher.DispatchController | undefined;
  #aborted: KubeError | undefined;
  #size = 0;
  #status = 0;
  #retryAfter: string | undefined;
  /** From here on the server may have read something of the call. */
  started = false;

  constructor(request: CallRequest, maxBytes: number) {
    this.#request = request;
    this.#maxBytes = maxBytes;
    const { promise, resolve, reject } = Promise.withResolvers<{
      status: number;
      retryAfter: string | undefined;
      body: Buffer;
    }>();
    this.answer = promise;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  abort(why: string): void {
    if (this.#aborted !== undefined) return;
    this.#aborted = notAnswered(this.#request, this.started, new Error(why));
    this.#controller?.abort(this.#aborted);
    this.#reject(this.#aborted);
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    if (this.#aborted !== undefined) {
      controller.abort(this.#aborted);
      return;
    }
    this.#controller = controller;
    this.started = true;
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    status: number,
    headers: Record<string, string | string[] | undefined>,
  ): void {
    this.#status = status;
    const retryAfter = headers['retry-after'];
    this.#retryAfter = Array.isArray(retryAfter) ? retryAfter[0] : retryAfter;
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#size += chunk.length;
    const limit = this.#status >= 300 ? maxErrorBytes : this.#maxBytes;
    if (this.#size > limit) this.abort(`the answer is longer than ${limit} bytes`);
    else this.#chunks.push(chunk);
  }

  onResponseEnd(): void {
    this.#resolve({ status: this.#status, retryAfter: this.#retryAfter, body: Buffer.concat(this.#chunks) });
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.#reject(error);
  }
}

class HttpTransport implements Transport {
  readonly #options: TransportOptions;
  readonly #origin: string;
  readonly #basePath: string;
  readonly #closing = new AbortController();
  #pools: Pools | undefined;

  constructor(options: TransportOptions) {
    this.#options = options;
    const url = new URL(options.credentials.server);
    this.#origin = url.origin;
    this.#basePath = url.pathname.replace(/\/+$/, '');
  }

  async call(request: CallRequest): Promise<Buffer> {
    try {
      return await this.#callOnce(request);
    } catch (error) {
      if (!(error instanceof KubeError) || error.reason !== 'Unauthorized') throw error;
      this.#options.credentials.refresh();
      return this.#callOnce(request);
    }
  }

  async #callOnce(request: CallRequest): Promise<Buffer> {
    const { clock, maxResponseBytes } = this.#options;
    const timeoutMs = request.timeoutMs ?? this.#options.timeoutMs ?? defaultTimeoutMs;
    const exchange = new Exchange(request, maxResponseBytes ?? defaultMaxResponseBytes);
    // Reported where it is awaited; the abort may come before that.
    exchange.answer.catch(() => {});
    const stop = (why: string) => (): void => exchange.abort(why);
    const cancelTimeout = clock.setTimer(timeoutMs, stop(`no answer within ${timeoutMs} ms`));
    const onClose = stop('the client was closed');
    const onAbort = stop('the caller gave up');
    this.#closing.signal.addEventListener('abort', onClose);
    request.signal?.addEventListener('abort', onAbort);
    try {
      if (this.#closing.signal.aborted) onClose();
      if (request.signal?.aborted === true) onAbort();
      const { headers, pools } = await Promise.race([this.#prepare(), failureOf(exchange.answer)]);
      pools.calls.dispatch(
        {
          origin: this.#origin,
          path: this.#basePath + request.path,
          method: request.method,
          headers: request.contentType === undefined ? headers : { ...headers, 'content-type': request.contentType },
          body: request.body ?? null,
        },
        exchange,
      );
      const { status, retryAfter, body } = await exchange.answer;
      if (status >= 200 && status < 300) return body;
      throw errorFromResponse(request, status, retryAfter, body, clock);
    } catch (error) {
      throw error instanceof KubeError ? error : notAnswered(request, exchange.started, error);
    } finally {
      cancelTimeout();
      this.#closing.signal.removeEventListener('abort', onClose);
      request.signal?.removeEventListener('abort', onAbort);
    }
  }

  async #prepare(): Promise<{ headers: Record<string, string>; pools: Pools }> {
    const { credentials, userAgent, connections } = this.#options;
    const identity = await credentials.current();
    if (this.#pools === undefined || !sameMaterial(this.#pools.tls, identity.tls)) {
      const old = this.#pools;
      this.#pools = openPools(identity.tls, connections);
      // Graceful: calls under way on the old certificates end by themselves. Watches are renewed within minutes.
      if (old !== undefined) void Promise.allSettled([old.calls.close(), old.watches.close()]);
    }
    const headers = { ...identity.headers, accept: 'application/json', 'user-agent': userAgent };
    return { headers, pools: this.#pools };
  }

  async *stream(path: string, signal: AbortSignal | undefined): AsyncGenerator<Buffer, void, undefined> {
    try {
      yield* this.#streamOnce(path, signal);
    } catch (error) {
      if (!(error instanceof KubeError) || error.reason !== 'Unauthorized') throw error;
      this.#options.credentials.refresh();
      yield* this.#streamOnce(path, signal);
    }
  }

  async *#streamOnce(path: string, signal: AbortSignal | undefined): AsyncGenerator<Buffer, void, undefined> {
    const { clock } = this.#options;
    const request = { method: 'GET', path, changes: false } as const;
    const ending = new AbortController();
    const end = (): void => ending.abort();
    const signals = [this.#closing.signal, signal].filter((item) => item !== undefined);
    for (const item of signals) item.addEventListener('abort', end, { once: true });
    const timeoutMs = this.#options.timeoutMs ?? defaultTimeoutMs;
    // The head of the answer must come in time; how long the body may be silent is for the watch machine to judge.
    let late = false;
    const cancelTimeout = clock.setTimer(timeoutMs, () => {
      late = true;
      end();
    });
    try {
      if (signals.some((item) => item.aborted)) return;
      const { headers, pools } = await this.#prepare();
      const {
        statusCode,
        headers: answered,
        body,
      } = await pools.watches.request({
        origin: this.#origin,
        path: this.#basePath + path,
        method: 'GET',
        headers,
        signal: ending.signal,
      });
      cancelTimeout();
      if (statusCode !== 200) {
        const retryAfter = answered['retry-after'];
        const text = await bounded(body, maxErrorBytes);
        throw errorFromResponse(
          request,
          statusCode,
          Array.isArray(retryAfter) ? retryAfter[0] : retryAfter,
          text,
          clock,
        );
      }
      for await (const chunk of body) yield chunk;
    } catch (error) {
      if (!late && signals.some((item) => item.aborted)) return;
      if (error instanceof KubeError) throw error;
      throw notAnswered(request, true, late ? new Error(`no answer within ${timeoutMs} ms`) : error);
    } finally {
      cancelTimeout();
      for (const item of signals) item.removeEventListener('abort', end);
      end();
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    const pools = this.#pools;
    if (pools !== undefined) await Promise.all([pools.calls.destroy(), pools.watches.destroy()]);
  }
}

/** Settles only when the promise fails: no error, and no stack for it, is made for the calls that succeed. */
function failureOf(promise: Promise<unknown>): Promise<never> {
  return new Promise((_resolve, reject) => {
    promise.catch(reject);
  });
}

async function bounded(body: AsyncIterable<Buffer>, limit: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > limit) break;
  }
  return Buffer.concat(chunks).subarray(0, limit);
}

export function createTransport(options: TransportOptions): Transport {
  return new HttpTransport(options);
}

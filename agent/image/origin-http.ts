/**
 * An image behind http:// or https://, read by ranges over connections that are kept.
 *
 * Invariants:
 * 1. Redirects are followed by hand, a few of them, never from https to http, and only to where the image's own address might lead.
 * 2. Every wait has a limit, and no more bytes are taken than were asked for.
 * 3. A part is taken from a 206 that names exactly this part of a file of the known size; from a 200 only where the whole file is read
 *    from its start.
 */
import { Agent, type Dispatcher } from 'undici';
import { type Origin, OriginError, type OriginFacts, type OriginFault } from './origin.ts';

const mostRedirects = 5;
/** A server that is restarted drops connections at once; these are for one that hangs. */
const connectTimeoutMs = 10_000;
const answerTimeoutMs = 30_000;

export interface HttpOptions {
  /** Certificate authorities (PEM) besides which none is trusted; absent: those that Node knows. */
  readonly caPem?: string;
  /** Connections to one server; 8 when absent. */
  readonly connections?: number;
}

/** The connections of one cache. */
export function httpDispatcher({ caPem, connections = 8 }: HttpOptions = {}): Agent {
  return new Agent({
    connections,
    pipelining: 1,
    connect: { timeout: connectTimeoutMs, ...(caPem === undefined ? {} : { ca: caPem }) },
    headersTimeout: answerTimeoutMs,
    bodyTimeout: answerTimeoutMs,
  });
}

/** 408 and 429 say "later" like the 5xx; every other 4xx says that the address will not do. */
function faultOf(status: number): OriginFault {
  return status >= 500 || status === 408 || status === 429 ? 'Away' : 'Refused';
}

interface Answer extends Dispatcher.ResponseData {
  readonly url: URL;
}

/** First byte, last byte and size of the whole; `undefined` where the header is none. */
function contentRange(answer: Answer): { first: number; last: number; total: number } | undefined {
  const match = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16})$/.exec(String(answer.headers['content-range'] ?? ''));
  if (match === null) return undefined;
  return { first: Number(match[1]), last: Number(match[2]), total: Number(match[3]) };
}

/** @throws OriginError for an address that holds a password: it would stand in logs and in people's status */
function checkedUrl(url: URL): URL {
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new OriginError('Refused', `${url.protocol}// is no address of an image: use http://, https:// or file://`);
  }
  if (url.username !== '' || url.password !== '') {
    throw new OriginError(
      'Refused',
      `the address of an image on ${url.host} holds a user name or a password: remove it`,
    );
  }
  return url;
}

/** Why an address is not asked, as the end of a sentence; nothing: it may be. */
export type AddressFault = (url: URL) => string | undefined;

export class HttpOrigin implements Origin {
  readonly #url: URL;
  readonly #dispatcher: Dispatcher;
  readonly #faultOf: AddressFault;

  /**
   * @param fault asked about the target of each redirect; absent: every server may be asked
   * @throws OriginError for an address that is refused
   */
  constructor(url: URL, dispatcher: Dispatcher, fault: AddressFault = () => undefined) {
    this.#url = checkedUrl(url);
    this.#dispatcher = dispatcher;
    this.#faultOf = fault;
  }

  /** Without its query, which may hold a signature. */
  get address(): string {
    return `${this.#url.origin}${this.#url.pathname}`;
  }

  get id(): string {
    return this.#url.href;
  }

  beside(suffix: string): Origin {
    const url = new URL(this.#url);
    url.pathname += suffix;
    return new HttpOrigin(url, this.#dispatcher, this.#faultOf);
  }

  async probe(signal: AbortSignal): Promise<OriginFacts> {
    // Not HEAD: an address that is signed for GET refuses it, and only an answer to a range shows that ranges work.
    const answer = await this.#get('bytes=0-0', signal);
    const range = contentRange(answer);
    const length = Number(answer.headers['content-length'] ?? Number.NaN);
    await discard(answer);
    if (answer.statusCode === 206 && range !== undefined) return { sizeBytes: range.total, ranges: true };
    if (answer.statusCode === 416) throw new OriginError('Refused', `${this.address} is empty`);
    if (answer.statusCode !== 200) throw this.#unexpected(answer);
    if (Number.isSafeInteger(length)) return { sizeBytes: length, ranges: false };
    throw new OriginError('Refused', `${this.address}: the server tells no size (Content-Length) and takes no ranges`);
  }

  async *read(offset: number, length: number, signal: AbortSignal): AsyncIterable<Buffer> {
    const answer = await this.#get(`bytes=${offset}-${offset + length - 1}`, signal);
    let left = length;
    try {
      await this.#checkPart(answer, offset, length);
      for await (const chunk of answer.body) {
        const bytes = (chunk as Buffer).subarray(0, left);
        // Left before its end the body would cost the connection; a body that goes on after its end costs it rightly.
        if (bytes.length === 0) break;
        left -= bytes.length;
        yield bytes;
      }
    } catch (error) {
      throw this.#away(error, signal);
    } finally {
      await discard(answer);
    }
    if (left > 0) throw new OriginError('Away', `${this.address}: the answer ended ${left} bytes early`);
  }

  async #checkPart(answer: Answer, offset: number, length: number): Promise<void> {
    if (answer.statusCode === 416) throw new OriginError('Changed', `${this.address} is shorter than it was`);
    if (answer.statusCode === 200 && offset === 0) {
      const size = Number(answer.headers['content-length'] ?? Number.NaN);
      if (size === length) return;
      throw new OriginError('Refused', `${this.address}: the server takes no ranges, and a part of the file is needed`);
    }
    if (answer.statusCode === 200) {
      throw new OriginError('Refused', `${this.address}: the server takes no ranges, and a part of the file is needed`);
    }
    if (answer.statusCode !== 206) throw this.#unexpected(answer);
    const range = contentRange(answer);
    if (range?.first === offset && range.last === offset + length - 1) return;
    throw new OriginError('Changed', `${this.address}: the server answered another part than was asked for`);
  }

  #unexpected({ statusCode, url }: Answer): OriginError {
    const where = url.origin === this.#url.origin ? '' : `, redirected to ${url.origin}`;
    return new OriginError(faultOf(statusCode), `${this.address}${where}: the server answered ${statusCode}`);
  }

  #away(error: unknown, signal: AbortSignal): unknown {
    if (signal.aborted) return signal.reason;
    if (error instanceof OriginError) return error;
    const why = error instanceof Error ? error.message : String(error);
    return new OriginError('Away', `${this.address}: ${why || 'no connection'}`, { cause: error });
  }

  async #get(range: string, signal: AbortSignal): Promise<Answer> {
    let url = this.#url;
    for (let redirects = 0; redirects <= mostRedirects; redirects++) {
      const answer = await this.#request(url, range, signal);
      const { location } = answer.headers;
      const isRedirect = [301, 302, 303, 307, 308].includes(answer.statusCode) && typeof location === 'string';
      if (!isRedirect) return { ...answer, url };
      await discard(answer);
      url = this.#target(url, location);
    }
    throw new OriginError('Refused', `${this.address}: more than ${mostRedirects} redirects`);
  }

  #target(from: URL, location: string): URL {
    const to = URL.parse(location, from.href);
    if (to === null) throw new OriginError('Refused', `${this.address} redirects to what is no address`);
    if (from.protocol === 'https:' && to.protocol !== 'https:') {
      throw new OriginError('Refused', `${this.address} redirects from https to ${to.protocol}//${to.host}`);
    }
    const fault = this.#faultOf(checkedUrl(to));
    if (fault === undefined) return to;
    throw new OriginError('Refused', `${this.address} redirects to ${to.origin}${to.pathname}: ${fault}`);
  }

  async #request(url: URL, range: string, signal: AbortSignal): Promise<Dispatcher.ResponseData> {
    try {
      return await this.#dispatcher.request({
        origin: url.origin,
        path: url.pathname + url.search,
        method: 'GET',
        headers: { range, 'accept-encoding': 'identity', 'user-agent': 'bitvisor-operator' },
        signal,
      });
    } catch (error) {
      throw this.#away(error, signal);
    }
  }
}

/** Takes what is left of a short body so that the connection is kept; a long one costs the connection. */
async function discard(answer: Dispatcher.ResponseData): Promise<void> {
  if (answer.body.destroyed || answer.body.readableEnded) return;
  try {
    await answer.body.dump({ limit: 16_384 });
  } catch {
    // The connection is gone: nothing is left to take.
  }
}

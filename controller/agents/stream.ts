/**
 * The stream of observations of one agent over HTTPS: opened, read, watched for silence, opened again.
 *
 * Invariants:
 * 1. At most one request is open; whatever ends it, exactly one retry is set, with capped and jittered backoff.
 * 2. Rubbish, a flood, a contradiction or a wrong identity cuts the agent off with a reason that is shown; the observations stay.
 * 3. Both ends notice that the other vanished: the agent says `alive`, this end says so in the body of its request.
 * 4. A stream ends with the certificate of the agent that it was opened under.
 * 5. Backoff starts over only after a stream stayed synced for a while, so that an agent that is cut off again and again is
 *    dialled ever less often.
 */
import type { ClientRequest, IncomingMessage } from 'node:http';
import { type Agent, request } from 'node:https';
import type { TLSSocket } from 'node:tls';
import { ProtocolViolation, parseLine } from '../api/protocol.ts';
import { backoffDelayMs, connectionBackoff } from '../runtime/backoff.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Random } from '../runtime/random.ts';
import { type FloodBound, LineCutter } from './lines.ts';
import type { Mirror } from './mirror.ts';
import { AgentError, type AgentErrorReason } from './port.ts';

/** An agent says something at least every 5 s; three of them missing is silence. */
const silenceMs = 3 * 5_000;
/** An agent takes a reader for gone that says nothing for three of these. */
const readerAliveMs = 5_000;
/** After so long in sync, the failures before are forgotten. */
const soundAfterMs = 30_000;

export interface StreamOptions {
  readonly name: string;
  readonly endpoint: string;
  /** Asked for each stream: certificates are renewed meanwhile. @throws AgentError when there are none to use */
  readonly httpAgent: () => Agent;
  readonly mirror: Mirror;
  readonly clock: Clock;
  readonly random: Random;
  readonly flood: FloodBound;
}

export class ObservationStream {
  readonly #options: StreamOptions;
  #request: ClientRequest | undefined;
  #cancelRetry: (() => void) | undefined;
  #cancelSilence: (() => void) | undefined;
  #cancelAlive: (() => void) | undefined;
  #heardAtMs = 0;
  #syncedAtMs: number | undefined;
  #failures = 0;
  #closed = false;

  constructor(options: StreamOptions) {
    this.#options = options;
    this.#open();
  }

  /** Ends the stream and opens another at once. */
  reopen(): void {
    if (this.#closed) return;
    this.#stop();
    this.#options.mirror.ended();
    this.#open();
  }

  #open(): void {
    const { endpoint, httpAgent, mirror, clock, flood } = this.#options;
    const resume = mirror.resumePoint();
    const query =
      resume === undefined
        ? ''
        : `?${new URLSearchParams({ bootNonce: resume.bootNonce, since: String(resume.since) })}`;
    this.#syncedAtMs = undefined;
    this.#heardAtMs = clock.monotonic();
    this.#watchSilence();
    let connections: Agent;
    try {
      connections = httpAgent();
    } catch (error) {
      if (!(error instanceof AgentError)) throw error;
      this.#fail(error.reason, error.message);
      return;
    }
    const opened = request(`${endpoint}/v1/observations${query}`, {
      agent: connections,
      headers: { accept: 'application/x-ndjson', 'transfer-encoding': 'chunked' },
    });
    this.#request = opened;
    this.#sayAlive(opened);
    const fail = (reason: AgentErrorReason, message: string): void => {
      if (this.#request === opened) this.#fail(reason, message);
    };
    opened.on('error', (error) => fail(reasonOf(error), error.message));
    opened.on('response', (response) => {
      if (this.#request !== opened) return;
      if (response.statusCode !== 200) {
        response.resume();
        fail(reasonOfStatus(response.statusCode), `it answered ${response.statusCode} to the request for observations`);
        return;
      }
      this.#read(response, new LineCutter(flood, clock), fail, () => this.#request === opened);
    });
  }

  /** The body of the request: an empty line now and then, and no end. */
  #sayAlive(opened: ClientRequest): void {
    if (!opened.writableNeedDrain) opened.write('\n');
    this.#cancelAlive = this.#options.clock.setTimer(readerAliveMs, () => this.#sayAlive(opened));
  }

  #read(
    response: IncomingMessage,
    cutter: LineCutter,
    fail: (reason: AgentErrorReason, message: string) => void,
    isCurrent: () => boolean,
  ): void {
    const { mirror, clock } = this.#options;
    const validUntil = Date.parse((response.socket as TLSSocket).getPeerCertificate().valid_to);
    response.on('error', (error) => fail('Unavailable', error.message));
    response.on('close', () => fail('Unavailable', 'the stream ended'));
    response.on('data', (chunk: Buffer) => {
      this.#heardAtMs = clock.monotonic();
      // The handshake looked at this once; the agent speaks every few seconds, so that it is looked at as often here.
      if (clock.now() >= validUntil) {
        fail('Untrusted', `its certificate has expired, at ${new Date(validUntil).toISOString()}`);
        return;
      }
      try {
        for (const line of cutter.push(chunk)) {
          if (!isCurrent()) return;
          const parsed = parseLine(line);
          mirror.apply(parsed);
          if (parsed.type === 'synced') this.#syncedAtMs = clock.monotonic();
        }
      } catch (error) {
        if (error instanceof ProtocolViolation) fail('Protocol', error.message);
        else if (error instanceof AgentError) fail(error.reason, error.message);
        else throw error;
      }
    });
  }

  #watchSilence(): void {
    const { clock } = this.#options;
    this.#cancelSilence?.();
    const left = this.#heardAtMs + silenceMs - clock.monotonic();
    this.#cancelSilence = clock.setTimer(Math.max(0, left), () => {
      if (clock.monotonic() - this.#heardAtMs < silenceMs) this.#watchSilence();
      else this.#fail('Unavailable', `nothing was heard for ${silenceMs / 1000} s`);
    });
  }

  #fail(reason: AgentErrorReason, message: string): void {
    if (this.#closed) return;
    const { mirror, clock, random } = this.#options;
    this.#stop();
    const sound = this.#syncedAtMs !== undefined && clock.monotonic() - this.#syncedAtMs >= soundAfterMs;
    this.#failures = sound ? 1 : this.#failures + 1;
    mirror.ended(reason, message);
    const delayMs = backoffDelayMs(connectionBackoff, this.#failures, random.next());
    this.#cancelRetry = clock.setTimer(delayMs, () => this.#open());
  }

  #stop(): void {
    this.#cancelRetry?.();
    this.#cancelSilence?.();
    this.#cancelAlive?.();
    const request = this.#request;
    this.#request = undefined;
    request?.destroy();
  }

  close(): void {
    this.#closed = true;
    this.#stop();
  }
}

/** Codes by which node and OpenSSL say that the other's certificate, or ours at the other's end, is not acceptable. */
export function reasonOf(error: Error & { code?: string }): 'Untrusted' | 'Unavailable' {
  const code = error.code ?? '';
  const tls = /CERT|SELF_SIGNED|ISSUER|UNABLE_TO_VERIFY|ALTNAME|^ERR_SSL|^ERR_TLS|EPROTO/.test(code);
  return tls ? 'Untrusted' : 'Unavailable';
}

export function reasonOfStatus(status: number | undefined): AgentErrorReason {
  if (status === 401 || status === 403) return 'Untrusted';
  return status === 503 || status === 429 ? 'Unavailable' : 'Protocol';
}

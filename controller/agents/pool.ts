/**
 * The network adapter: links to agents over HTTPS with mutual TLS.
 *
 * Invariants (besides those of port.ts):
 * 1. An agent is believed only under a certificate of its own CA that carries the server name given, and under its own name.
 * 2. A link has one connection for observations and at most one for instructions; TLS contexts are shared by links of one CA.
 * 3. Instructions of one link go out one request after another, in the order of the calls.
 * 4. Renewed certificates count for every connection that is opened after, without a break of those that stand. When the CA changed,
 *    the streams that it vouched for are opened again at once.
 */
import type { ClientRequest } from 'node:http';
import { Agent, type AgentOptions, request } from 'node:https';
import { createSecureContext, type SecureContext, TLSSocket } from 'node:tls';
import type { Instruction, InstructionBatch, InstructionResult } from '../api/protocol.generated.ts';
import { largestAnswerBytes, largestBatchBytes, ProtocolViolation, parseBatchResult } from '../api/protocol.ts';
import type { Clock } from '../runtime/clock.ts';
import { certificateEndOf, certificatesIn } from '../runtime/pem.ts';
import type { Random } from '../runtime/random.ts';
import { defaultFloodBound, type FloodBound } from './lines.ts';
import { Mirror } from './mirror.ts';
import {
  type AgentAddress,
  type AgentConnector,
  AgentError,
  type AgentLink,
  type LinkListener,
  type LinkState,
  longestBatch,
} from './port.ts';
import { ObservationStream, reasonOf, reasonOfStatus } from './stream.ts';

/** An agent answers from memory and one write to its log. */
const answerTimeoutMs = 30_000;
/** A connection for instructions that is not used for so long is closed; agents keep theirs longer. */
const idleTimeoutMs = 20_000;

/** Who the operator is to agents, and whom it believes. */
export interface AgentsTls {
  /** Certificates of the CA that signs agents, where an address names none. */
  readonly caPem?: string;
  /** The operator's own certificate and key. */
  readonly certPem: string;
  readonly keyPem: string;
}

export interface AgentPoolOptions extends AgentsTls {
  readonly clock: Clock;
  readonly random: Random;
  readonly flood?: FloodBound;
}

export class AgentPool implements AgentConnector {
  readonly #options: AgentPoolOptions;
  readonly #links = new Set<NetworkLink>();
  #tls: AgentsTls;
  #endsAt: number;
  #contexts = new Map<string, SecureContext>();

  /** @throws when certificate, key and CA do not fit together */
  constructor(options: AgentPoolOptions) {
    this.#options = options;
    this.#tls = options;
    this.#endsAt = certificateEndOf(options.certPem);
    this.#contextOf(undefined);
  }

  connect(address: AgentAddress): AgentLink {
    const onClosed = (): void => void this.#links.delete(link);
    const context = (): SecureContext => {
      this.#refuseExpired(address.name);
      try {
        return this.#contextOf(address.caPem);
      } catch (error) {
        const why = error instanceof Error ? error.message : String(error);
        throw new AgentError('Untrusted', address.name, `the CA that it is to be trusted by: ${why}`, { cause: error });
      }
    };
    const link = new NetworkLink(address, context, onClosed, this.#options);
    this.#links.add(link);
    return link;
  }

  /** @throws when they do not fit together; those before stay in force */
  renew(tls: AgentsTls): void {
    const [before, contexts] = [this.#tls, this.#contexts];
    this.#tls = tls;
    this.#contexts = new Map();
    try {
      this.#contextOf(undefined);
    } catch (error) {
      this.#tls = before;
      this.#contexts = contexts;
      throw error;
    }
    this.#endsAt = certificateEndOf(tls.certPem);
    if (tls.caPem !== before.caPem) for (const link of this.#links) link.distrust();
  }

  /** The agent would only hang up on it. */
  #refuseExpired(agent: string): void {
    if (this.#options.clock.now() < this.#endsAt) return;
    const when = new Date(this.#endsAt).toISOString();
    throw new AgentError('Untrusted', agent, `the operator's own certificate has expired, at ${when}; renew it`);
  }

  #contextOf(ca: string | undefined): SecureContext {
    const { certPem, keyPem, caPem = '' } = this.#tls;
    const trusted = ca ?? caPem;
    const known = this.#contexts.get(trusted);
    if (known !== undefined) return known;
    if (trusted !== '') certificatesIn(trusted);
    // Without a CA nobody is believed: undefined would mean every public one.
    const authority = trusted === '' ? [] : trusted;
    const made = createSecureContext({ ca: authority, cert: certPem, key: keyPem, minVersion: 'TLSv1.3' });
    this.#contexts.set(trusted, made);
    return made;
  }
}

class NetworkLink implements AgentLink {
  readonly name: string;
  readonly #mirror: Mirror;
  readonly #stream: ObservationStream;
  readonly #contextOf: () => SecureContext;
  readonly #usesDefaultCa: boolean;
  readonly #serverName: string;
  readonly #onClosed: () => void;
  #instructions: { readonly context: SecureContext; readonly agent: Agent } | undefined;
  readonly #clock: Clock;
  readonly #endpoint: string;
  readonly #open = new Set<ClientRequest>();
  #queue: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(address: AgentAddress, contextOf: () => SecureContext, onClosed: () => void, options: AgentPoolOptions) {
    const { name, acceptedNodes, serverName } = address;
    const { clock, random } = options;
    this.name = name;
    this.#clock = clock;
    this.#endpoint = address.endpoint.replace(/\/+$/, '');
    this.#contextOf = contextOf;
    this.#usesDefaultCa = address.caPem === undefined;
    this.#serverName = serverName;
    this.#onClosed = onClosed;
    this.#mirror = new Mirror(name, acceptedNodes, clock);
    this.#stream = new ObservationStream({
      name,
      endpoint: this.#endpoint,
      httpAgent: () => this.#httpAgent(contextOf(), { keepAlive: false }),
      mirror: this.#mirror,
      clock,
      random,
      flood: options.flood ?? defaultFloodBound,
    });
  }

  #httpAgent(secureContext: SecureContext, options: AgentOptions): Agent {
    const servername = this.#serverName;
    return new Agent({ secureContext, servername, rejectUnauthorized: true, maxCachedSessions: 0, ...options });
  }

  /** One connection for instructions, under the certificates in force. Requests come one after another, so none is on the old one. */
  #instructionAgent(): Agent {
    const context = this.#contextOf();
    if (this.#instructions?.context === context) return this.#instructions.agent;
    this.#instructions?.agent.destroy();
    const agent = this.#httpAgent(context, { keepAlive: true, maxSockets: 1, timeout: idleTimeoutMs });
    this.#instructions = { context, agent };
    return agent;
  }

  /** The CA that vouched for what is open is no longer the one that counts. */
  distrust(): void {
    if (this.#usesDefaultCa) this.#stream.reopen();
  }

  get nodes(): AgentLink['nodes'] {
    return this.#mirror.nodes;
  }

  state(): LinkState {
    return this.#mirror.state();
  }

  onChange(listener: LinkListener): () => void {
    return this.#mirror.onChange(listener);
  }

  accept(nodes: ReadonlySet<string>): void {
    if (this.#mirror.accept(nodes)) this.#stream.reopen();
  }

  async instruct(batch: readonly Instruction[], term: number): Promise<InstructionResult[]> {
    const results: InstructionResult[] = [];
    for (const instructions of inBatches(batch)) {
      const turn = this.#queue.then(() => this.#send({ term, instructions }));
      this.#queue = turn.catch(() => undefined);
      results.push(...(await turn));
    }
    return results;
  }

  async #send(batch: InstructionBatch): Promise<InstructionResult[]> {
    if (this.#closed) throw new AgentError('Unavailable', this.name, 'the link is closed');
    const agent = this.#instructionAgent();
    const body = Buffer.from(JSON.stringify(batch));
    return new Promise((resolve, reject) => {
      let sent = false;
      const fail = (error: AgentError): void => {
        cancelTimeout();
        reject(error);
        posted.destroy();
      };
      const broken = (error: Error, message = error.message): void =>
        fail(new AgentError(sent ? 'Unknown' : reasonOf(error), this.name, message, { cause: error }));
      const posted = request(`${this.#endpoint}/v1/instructions`, {
        method: 'POST',
        agent,
        headers: { 'content-type': 'application/json', 'content-length': body.length },
      });
      this.#open.add(posted);
      const cancelTimeout = this.#clock.setTimer(answerTimeoutMs, () =>
        broken(new Error(`no answer to instructions within ${answerTimeoutMs / 1000} s`)),
      );
      posted.on('error', broken);
      posted.on('close', () => {
        this.#open.delete(posted);
        broken(new Error('the connection ended before the answer'));
      });
      // From the moment the connection stands, the agent may get all of it.
      posted.on('socket', (socket) => {
        if (posted.reusedSocket) sent = true;
        else if (socket instanceof TLSSocket) socket.once('secureConnect', () => (sent = true));
      });
      posted.on('response', (response) => {
        const parts: Buffer[] = [];
        let bytes = 0;
        response.on('error', broken);
        response.on('data', (part: Buffer) => {
          bytes += part.length;
          if (bytes > largestAnswerBytes)
            fail(new AgentError('Protocol', this.name, `an answer of more than ${largestAnswerBytes} bytes`));
          else parts.push(part);
        });
        response.on('end', () => {
          const text = Buffer.concat(parts).toString('utf8');
          try {
            resolve(this.#readAnswer(response.statusCode, text, batch));
            cancelTimeout();
          } catch (error) {
            fail(error instanceof AgentError ? error : new AgentError('Protocol', this.name, String(error)));
          }
        });
      });
      posted.end(body);
    });
  }

  #readAnswer(status: number | undefined, text: string, batch: InstructionBatch): InstructionResult[] {
    if (status !== 200) {
      const said = text.slice(0, 200).trim();
      throw new AgentError(reasonOfStatus(status), this.name, `it answered ${status} to instructions: ${said}`);
    }
    try {
      return parseBatchResult(text, batch).results;
    } catch (error) {
      if (error instanceof ProtocolViolation) throw new AgentError('Protocol', this.name, error.message);
      throw error;
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#stream.close();
    for (const posted of this.#open) posted.destroy();
    this.#instructions?.agent.destroy();
    this.#mirror.close();
    this.#onClosed();
  }
}

/** Batches within both bounds of a request. */
function* inBatches(all: readonly Instruction[]): Generator<Instruction[]> {
  let batch: Instruction[] = [];
  let bytes = 0;
  for (const instruction of all) {
    // A quarter of the bound: a character has at most four bytes, and only its length is cheap.
    const length = JSON.stringify(instruction).length;
    if (batch.length > 0 && (batch.length >= longestBatch || bytes + length > largestBatchBytes / 4)) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(instruction);
    bytes += length;
  }
  if (batch.length > 0) yield batch;
}

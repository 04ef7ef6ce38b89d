/**
 * What reconcilers see of the agents: a link per agent, with what it observed and a way to instruct it.
 *
 * Invariants (held by test/contract/agents.ts for every adapter):
 * 1. A link only exposes nodes of its accepted set; others are counted as strangers, of which at most 64 are named.
 * 2. An observation of a node is replaced only by a line with a higher sequence number under the same boot nonce; a new boot
 *    nonce starts over: `synced` is false until its snapshot is complete, then nodes that were not in it are gone.
 * 3. Losing the connection keeps the last observations and makes `connected` and `synced` false.
 * 4. `instruct` resolves with one result for each instruction, in their order, or throws an AgentError. `Unavailable` says
 *    that nothing was sent; `Unknown` that it may have been carried out.
 */
import type { Alive, Hello, Instruction, InstructionResult, NodeObservation } from '../api/protocol.generated.ts';

/** The protocol's name in `hello`. */
export const protocolName = 'bitvisor.io/agent/v1';
/** Instructions in one request; longer lists are split by the adapter. */
export const longestBatch = 1024;
/** Strangers that a link names; more are only counted. */
export const longestStrangerList = 64;

/**
 * Why the agent cannot be spoken to:
 * Unavailable: not reached, nothing was sent; Unknown: sent and not answered; Protocol: it sent rubbish, too much, or
 * contradicted itself, and was cut off; Untrusted: its certificate, or the name it gives, is not the one accepted.
 */
export type AgentErrorReason = 'Unavailable' | 'Unknown' | 'Protocol' | 'Untrusted';

export class AgentError extends Error {
  override readonly name = 'AgentError';
  readonly reason: AgentErrorReason;
  readonly agent: string;

  constructor(reason: AgentErrorReason, agent: string, message: string, options?: ErrorOptions) {
    super(`agent ${agent}: ${message}`, options);
    this.reason = reason;
    this.agent = agent;
  }
}

export interface LinkError {
  readonly reason: AgentErrorReason;
  readonly message: string;
  /** `Clock.now()` when it happened. */
  readonly atMs: number;
}

export interface LinkState {
  /** A stream is open and its hello was accepted. */
  readonly connected: boolean;
  /** The observations are complete as of the newest line: no node is missing because its line is still to come. */
  readonly synced: boolean;
  /** The newest accepted hello, also after the connection was lost. */
  readonly hello?: Hello;
  /** The newest counters of an `alive` line. */
  readonly counters?: Alive['counters'];
  /** The newest error; kept until the next stream is synced. */
  readonly lastError?: LinkError;
  /** Names that it reported and nobody accepted, in the order of their first report; at most `longestStrangerList`. */
  readonly strangers: readonly string[];
  /** How many lines about strangers the current stream brought (a measure, not a count of machines). */
  readonly strangerLines: number;
  /** `Clock.now()` of the newest change of `connected`. */
  readonly changedAtMs: number;
}

/** `nodeName` is null when the state of the link itself changed (connected, synced, error, strangers). */
export type LinkListener = (nodeName: string | null) => void;

export interface AgentLink {
  /** Name of the BitVisorAgent. */
  readonly name: string;
  /** A snapshot; cheap. */
  state(): LinkState;
  /** Observations by node name: a live view that only the link changes. */
  readonly nodes: ReadonlyMap<string, NodeObservation>;
  /** Calls `listener` after each change, never from within `onChange` itself. Returns how to stop. */
  onChange(listener: LinkListener): () => void;
  /** The administrators changed the hostlist: nodes outside are dropped; a node that came in appears with a new snapshot. */
  accept(nodes: ReadonlySet<string>): void;
  /**
   * Gives instructions under the operator's `term`; more than `longestBatch` are sent in several requests, one after another.
   * @throws AgentError; when a later request fails, the results of the earlier ones are lost with it, so treat it as Unknown
   */
  instruct(batch: readonly Instruction[], term: number): Promise<InstructionResult[]>;
  /** Ends the stream and drops listeners; later calls of `instruct` throw Unavailable. */
  close(): void;
}

export interface AgentAddress {
  /** Name of the BitVisorAgent; the agent's hello must give the same. */
  readonly name: string;
  /** https://host:port, without a path. */
  readonly endpoint: string;
  /** Certificates of the CA that signed the agent's certificate; absent: of the CA that the connector was given. */
  readonly caPem?: string;
  /** The DNS name that the agent's certificate must carry. */
  readonly serverName: string;
  readonly acceptedNodes: ReadonlySet<string>;
}

export interface AgentConnector {
  /** Starts connecting at once and goes on until the link is closed. Never throws for an unreachable agent: see `state()`. */
  connect(address: AgentAddress): AgentLink;
}

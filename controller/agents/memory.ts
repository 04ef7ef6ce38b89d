/**
 * The in-memory adapter: links straight to agent cores of the same process, without a network, with faults that a test scripts.
 * A first-class adapter: it passes the same contract suite as the network one, and is deterministic under a virtual clock.
 *
 * Invariants:
 * 1. Everything is delivered in turns of the clock, never from within a call: as over a network, an answer and the
 *    observations that follow from it come in either order.
 * 2. What crosses is shared, not copied: neither side changes it.
 */
import type {
  Instruction,
  InstructionBatch,
  InstructionBatchResult,
  InstructionResult,
  Line,
} from '../api/protocol.generated.ts';
import type { Clock } from '../runtime/clock.ts';
import { sleep } from '../runtime/clock.ts';
import { Mirror } from './mirror.ts';
import {
  type AgentAddress,
  type AgentConnector,
  AgentError,
  type AgentErrorReason,
  type AgentLink,
  type LinkListener,
  type LinkState,
  longestBatch,
} from './port.ts';

/** A stream as an agent offers it in process: the lines that are due, and a call when there are more. */
export interface LineSource {
  take(count: number): Line[];
  onReadable: (() => void) | undefined;
  close(): void;
}

/** What the adapter needs of an agent; `agent/memory-peer.ts` makes one of an AgentCore. */
export interface MemoryPeer {
  open(resume: { readonly bootNonce: string; readonly since: number } | undefined): LineSource;
  instruct(batch: InstructionBatch): InstructionBatchResult;
}

export interface ScriptedFaults {
  /** The next call of `instruct` fails with it, before the agent hears of it. */
  nextError?: AgentErrorReason;
  /** So many next requests are carried out by the agent, and their answers lost. */
  lostAnswers?: number;
  /** Milliseconds that an instruction takes to the agent. */
  delayMs?: number;
}

/** Lines given to the mirror in one turn, so that a large snapshot does not hold up everything else. */
const linesPerTurn = 512;

export class MemoryAgents implements AgentConnector {
  readonly #clock: Clock;
  readonly #peers = new Map<string, MemoryPeer>();
  readonly #links = new Map<string, Set<MemoryLink>>();
  readonly #faults = new Map<string, ScriptedFaults>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The agent is reachable from now on; links to its name connect. */
  attach(agent: string, peer: MemoryPeer): void {
    this.#peers.set(agent, peer);
    for (const link of this.#links.get(agent) ?? []) link.reconnect();
  }

  /** The agent is not reachable any more. */
  detach(agent: string): void {
    this.#peers.delete(agent);
    for (const link of this.#links.get(agent) ?? []) link.cut('Unavailable', 'the agent is not reachable');
  }

  /** The faults of this agent's links: change it in place. */
  faults(agent: string): ScriptedFaults {
    const faults = this.#faults.get(agent) ?? {};
    this.#faults.set(agent, faults);
    return faults;
  }

  connect(address: AgentAddress): AgentLink {
    const { name, acceptedNodes } = address;
    const link = new MemoryLink(name, acceptedNodes, this.#clock, {
      peer: () => this.#peers.get(name),
      faults: () => this.faults(name),
      closed: () => this.#links.get(name)?.delete(link),
    });
    const links = this.#links.get(name) ?? new Set();
    this.#links.set(name, links.add(link));
    link.reconnect();
    return link;
  }
}

interface Surroundings {
  peer(): MemoryPeer | undefined;
  faults(): ScriptedFaults;
  closed(): void;
}

class MemoryLink implements AgentLink {
  readonly name: string;
  readonly #mirror: Mirror;
  readonly #clock: Clock;
  readonly #around: Surroundings;
  #source: LineSource | undefined;
  #cancelTurn: (() => void) | undefined;
  #closed = false;

  constructor(name: string, acceptedNodes: ReadonlySet<string>, clock: Clock, around: Surroundings) {
    this.name = name;
    this.#clock = clock;
    this.#around = around;
    this.#mirror = new Mirror(name, acceptedNodes, clock);
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
    if (this.#mirror.accept(nodes)) this.reconnect();
  }

  /** Ends the stream, if any, and opens another in a later turn. */
  reconnect(): void {
    if (this.#source !== undefined) this.#mirror.ended();
    this.#end();
    if (this.#closed) return;
    this.#turn(() => {
      const peer = this.#around.peer();
      if (peer === undefined) {
        this.#mirror.ended('Unavailable', 'the agent is not reachable');
        return;
      }
      this.#source = peer.open(this.#mirror.resumePoint());
      this.#source.onReadable = () => this.#turn(() => this.#read());
      this.#read();
    });
  }

  cut(reason: AgentErrorReason, message: string): void {
    this.#end();
    this.#mirror.ended(reason, message);
  }

  #turn(fn: () => void): void {
    if (this.#closed || this.#cancelTurn !== undefined) return;
    this.#cancelTurn = this.#clock.setTimer(0, () => {
      this.#cancelTurn = undefined;
      fn();
    });
  }

  #read(): void {
    const lines = this.#source?.take(linesPerTurn) ?? [];
    try {
      for (const line of lines) this.#mirror.apply(line);
    } catch (error) {
      if (!(error instanceof AgentError)) throw error;
      this.cut(error.reason, error.message);
      return;
    }
    if (lines.length === linesPerTurn) this.#turn(() => this.#read());
  }

  async instruct(batch: readonly Instruction[], term: number): Promise<InstructionResult[]> {
    const results: InstructionResult[] = [];
    for (let start = 0; start < batch.length; start += longestBatch) {
      results.push(...(await this.#request(batch.slice(start, start + longestBatch), term)));
    }
    return results;
  }

  async #request(instructions: Instruction[], term: number): Promise<InstructionResult[]> {
    const faults = this.#around.faults();
    const { nextError } = faults;
    delete faults.nextError;
    await sleep(this.#clock, faults.delayMs ?? 0);
    if (nextError !== undefined) throw new AgentError(nextError, this.name, 'scripted fault');
    const peer = this.#around.peer();
    if (peer === undefined || this.#closed)
      throw new AgentError('Unavailable', this.name, 'the agent is not reachable');
    const { results } = peer.instruct({ term, instructions });
    await sleep(this.#clock, 0);
    if ((faults.lostAnswers ?? 0) > 0) {
      faults.lostAnswers = (faults.lostAnswers ?? 0) - 1;
      throw new AgentError('Unknown', this.name, 'the answer was lost');
    }
    return results;
  }

  #end(): void {
    this.#cancelTurn?.();
    this.#cancelTurn = undefined;
    this.#source?.close();
    this.#source = undefined;
  }

  close(): void {
    this.#end();
    this.#closed = true;
    this.#mirror.close();
    this.#around.closed();
  }
}

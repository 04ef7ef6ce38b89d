/**
 * Instructions travel in batches, one request under way for each agent; what arrives meanwhile goes with the next one.
 *
 * Invariants:
 * 1. A node's newest instruction replaces one that has not left yet.
 * 2. Every instruction is answered to its node exactly once: accepted, refused, or not delivered.
 * 3. Nothing is sent after `stop()`, and nothing under a term that was given up.
 */
import type { AgentLink } from '../agents/port.ts';
import { AgentError } from '../agents/port.ts';
import type { Instruction, InstructionResult } from '../api/protocol.generated.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';

export type Delivery =
  | { kind: 'accepted' }
  | { kind: 'refused'; reason: NonNullable<InstructionResult['reason']>; message: string }
  /** It may have arrived: sending the same operation id again is safe. */
  | { kind: 'undelivered'; message: string };

export interface DispatcherOptions {
  readonly clock: Clock;
  readonly log: Logger;
  /** The leader's term towards this agent; undefined while it may not be instructed. */
  readonly termFor: (link: AgentLink) => number | undefined;
  readonly onDelivery: (instruction: Instruction, delivery: Delivery) => void;
}

interface Lane {
  readonly link: AgentLink;
  pending: Map<string, Instruction>;
  busy: boolean;
  armed: boolean;
}

/** How long the first instruction of a batch waits for company: a rack's nodes are decided within the same moment. */
const gatherMs = 5;

export class Dispatcher {
  readonly #options: DispatcherOptions;
  readonly #lanes = new Map<string, Lane>();
  #stopped = false;

  constructor(options: DispatcherOptions) {
    this.#options = options;
  }

  send(link: AgentLink, instruction: Instruction): void {
    if (this.#stopped) return;
    const known = this.#lanes.get(link.name);
    const lane = known?.link === link ? known : { link, pending: new Map(), busy: false, armed: false };
    this.#lanes.set(link.name, lane);
    lane.pending.set(instruction.node, instruction);
    this.#arm(lane);
  }

  stop(): void {
    this.#stopped = true;
    this.#lanes.clear();
  }

  #arm(lane: Lane): void {
    if (lane.busy || lane.armed || lane.pending.size === 0) return;
    lane.armed = true;
    this.#options.clock.setTimer(gatherMs, () => {
      lane.armed = false;
      void this.#flush(lane);
    });
  }

  async #flush(lane: Lane): Promise<void> {
    const term = this.#options.termFor(lane.link);
    const batch = [...lane.pending.values()];
    lane.pending = new Map();
    if (this.#stopped || batch.length === 0) return;
    if (term === undefined) {
      for (const instruction of batch)
        this.#deliver(instruction, {
          kind: 'undelivered',
          message: 'this process does not lead, or not yet under a term above all that the agent knows',
        });
      return;
    }
    lane.busy = true;
    try {
      const results = await lane.link.instruct(batch, term);
      for (const [position, instruction] of batch.entries()) this.#deliver(instruction, toDelivery(results[position]));
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      if (!(error instanceof AgentError))
        this.#options.log.error('instructing an agent threw', { agent: lane.link.name, err: error });
      for (const instruction of batch) this.#deliver(instruction, { kind: 'undelivered', message });
    } finally {
      lane.busy = false;
      this.#arm(lane);
    }
  }

  #deliver(instruction: Instruction, delivery: Delivery): void {
    if (!this.#stopped) this.#options.onDelivery(instruction, delivery);
  }
}

function toDelivery(result: InstructionResult | undefined): Delivery {
  if (result === undefined) return { kind: 'undelivered', message: 'the agent left it out of its answer' };
  if (result.result === 'Accepted') return { kind: 'accepted' };
  return { kind: 'refused', reason: result.reason ?? 'Invalid', message: result.message ?? 'refused without a word' };
}

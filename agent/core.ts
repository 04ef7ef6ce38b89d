/**
 * The agent of one rack without its transport: takes instructions, steps its nodes, keeps the log, says what it observes.
 *
 * Invariants:
 * 1. decide → write to the log → act → say: nothing is asked of a driver before the row that permits it is durable.
 * 2. Every change of an observation has the next sequence number; an observation equal to the last is not a change.
 * 3. A term higher than any before is durable before the first instruction under it is answered; it holds for all nodes.
 * 4. After a restart the boot nonce is new, the store id the same, and running operations go on from their rows once they were
 *    instructed again: a log that was restored to an older state asks for nothing by itself.
 */
import { isDeepStrictEqual } from 'node:util';
import type {
  Alive,
  Hello,
  Instruction,
  InstructionBatch,
  InstructionBatchResult,
  InstructionResult,
  NodeObservation,
} from '../controller/api/protocol.generated.ts';
import type { Clock } from '../controller/runtime/clock.ts';
import type { Random } from '../controller/runtime/random.ts';
import { accept } from './accept.ts';
import { type Decision, decide } from './decide.ts';
import { type Drivers, readNode } from './drivers/port.ts';
import type { AgentLog } from './log.ts';
import { type Act, failure } from './needs.ts';
import { perform } from './perform.ts';
import { freshRow, observationOf, type Row, resumedRow } from './row.ts';

/** A log that cannot be written is tried again after this time; until then nothing is done. */
const logRetryMs = 1000;
const noWaits: ReadonlySet<string> = new Set();

export interface AgentCoreOptions {
  /** Name of its BitVisorAgent. */
  readonly name: string;
  readonly version: string;
  readonly nodes: readonly string[];
  readonly drivers: Drivers;
  readonly log: AgentLog;
  readonly clock: Clock;
  readonly random: Random;
  /** Errors that nobody else sees: a log that cannot be written, a fault of the agent itself. */
  readonly onError?: (error: unknown) => void;
}

interface Entry {
  row: Row;
  observation: NodeObservation | undefined;
  seq: number;
  /** Ends of waits by key, in `Clock.monotonic()`. */
  readonly waits: Map<string, number>;
  timerAt: number;
  cancelTimer: (() => void) | undefined;
  /** The plan and the throttle that the driver was told last, so that it is told what is new alone. */
  toldPlan: string | undefined;
  toldRateBytes: number | undefined;
}

export type ChangeListener = (node: string, seq: number) => void;

export class AgentCore {
  readonly name: string;
  readonly bootNonce: string;
  readonly #options: AgentCoreOptions;
  readonly #entries = new Map<string, Entry>();
  readonly #dirty = new Set<string>();
  readonly #listeners = new Set<ChangeListener>();
  readonly #counted = { accepted: 0, refused: 0, completed: 0, failed: 0 };
  #cancelPump: (() => void) | undefined;
  #seq = 0;
  #highestTerm: number;
  #closed = false;

  constructor(options: AgentCoreOptions) {
    this.name = options.name;
    this.#options = options;
    this.bootNonce = options.random.uuid();
    this.#highestTerm = options.log.highestTerm();
    const rows = new Map(options.log.load().map((row) => [row.node, resumedRow(row)]));
    for (const node of options.nodes) {
      const row = rows.get(node) ?? freshRow(node);
      const entry: Entry = {
        row,
        observation: undefined,
        seq: 0,
        waits: new Map(),
        timerAt: Number.POSITIVE_INFINITY,
        cancelTimer: undefined,
        toldPlan: undefined,
        toldRateBytes: undefined,
      };
      this.#entries.set(node, entry);
      this.#dirty.add(node);
    }
    options.drivers.onChange((node) => this.#touch(node));
    this.#pump();
  }

  hello(resumed: boolean): Hello {
    return {
      type: 'hello',
      seq: this.#seq,
      protocol: 'bitvisor.io/agent/v1',
      agent: this.name,
      version: this.#options.version,
      bootNonce: this.bootNonce,
      storeId: this.#options.log.storeId,
      highestTerm: this.#highestTerm,
      capabilities: [...this.#options.drivers.capabilities],
      resumed,
    };
  }

  get seq(): number {
    return this.#seq;
  }

  counters(): Alive['counters'] {
    return { ...this.#counted, imageBytes: Math.floor(this.#options.drivers.images.servedBytes()) };
  }

  /** Nodes and the sequence number of their newest change, unordered. */
  *sequence(): Generator<readonly [node: string, seq: number]> {
    for (const [node, entry] of this.#entries) if (entry.observation !== undefined) yield [node, entry.seq];
  }

  /** The newest observation and its sequence number. */
  observation(node: string): { readonly seq: number; readonly node: NodeObservation } | undefined {
    const entry = this.#entries.get(node);
    return entry?.observation === undefined ? undefined : { seq: entry.seq, node: entry.observation };
  }

  /** Calls `listener` after each change of an observation. */
  onChange(listener: ChangeListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Answers a valid batch, in the order of its instructions.
   * @throws when the log cannot be written: then nothing of the batch was accepted
   */
  instruct(batch: InstructionBatch): InstructionBatchResult {
    if (this.#closed) throw new Error('the agent is closed');
    const changed = new Map<string, Row>();
    const results = batch.instructions.map((instruction) => this.#answer(batch.term, instruction, changed));
    const term = Math.max(this.#highestTerm, batch.term);
    if (changed.size > 0 || term > this.#highestTerm) this.#options.log.write([...changed.values()], term);
    this.#highestTerm = term;
    for (const [node, row] of changed) {
      const entry = this.#entries.get(node);
      if (entry !== undefined) entry.row = row;
      this.#touch(node);
    }
    for (const [index, { result }] of results.entries()) {
      this.#counted[result === 'Accepted' ? 'accepted' : 'refused']++;
      const instruction = batch.instructions[index];
      if (result === 'Accepted' && instruction?.verb === 'inspect') this.#inspect(instruction.node);
    }
    return { bootNonce: this.bootNonce, highestTerm: term, results };
  }

  #answer(term: number, instruction: Instruction, changed: Map<string, Row>): InstructionResult {
    const { operationId, node } = instruction;
    const entry = this.#entries.get(node);
    const refused = (reason: NonNullable<InstructionResult['reason']>, message: string): InstructionResult => ({
      operationId,
      node,
      result: 'Refused',
      reason,
      message: message.slice(0, 1024),
    });
    if (term < this.#highestTerm) return refused('StaleTerm', `term ${term} is older than ${this.#highestTerm}`);
    if (entry === undefined) return refused('UnknownNode', `${node} is not a node of ${this.name}`);
    const before = changed.get(node) ?? entry.row;
    const verdict = accept(before, readNode(this.#options.drivers, node), instruction, term);
    if (verdict.row !== before) changed.set(node, verdict.row);
    return verdict.refused === undefined
      ? { operationId, node, result: 'Accepted' }
      : refused(verdict.refused, verdict.message);
  }

  #inspect(node: string): void {
    const { power, fabric, vmm } = this.#options.drivers;
    power.refresh(node);
    fabric.refresh(node);
    vmm.refresh(node);
    this.#touch(node);
  }

  #touch(node: string): void {
    if (this.#closed || !this.#entries.has(node)) return;
    this.#dirty.add(node);
    this.#schedule(0);
  }

  #schedule(delayMs: number): void {
    if (this.#closed || this.#cancelPump !== undefined) return;
    this.#cancelPump = this.#options.clock.setTimer(delayMs, () => {
      this.#cancelPump = undefined;
      if (!this.#closed) this.#pump();
    });
  }

  #pump(): void {
    const stepped: { node: string; entry: Entry; decision: Decision; observation: NodeObservation }[] = [];
    const changed: Row[] = [];
    const nodes = [...this.#dirty];
    for (const node of nodes) {
      const entry = this.#entries.get(node);
      if (entry === undefined) continue;
      const readings = readNode(this.#options.drivers, node);
      const decision = this.#decide(entry, readings);
      if (decision.row !== entry.row) changed.push(decision.row);
      stepped.push({ node, entry, decision, observation: observationOf(decision.row, readings, entry.observation) });
    }
    try {
      if (changed.length > 0) this.#options.log.write(changed, this.#highestTerm);
    } catch (error) {
      this.#options.onError?.(error);
      this.#schedule(logRetryMs);
      return;
    }
    this.#dirty.clear();
    for (const { node, entry, decision } of stepped) {
      this.#count(entry.row, decision.row);
      // A further step may follow from the row alone, without any reading changing.
      if (decision.row !== entry.row) this.#touch(node);
      entry.row = decision.row;
      this.#wait(node, entry, decision.waits);
      this.#performAll(node, entry, decision.acts);
    }
    for (const { node, entry, observation } of stepped) this.#say(node, entry, observation);
  }

  #decide(entry: Entry, readings: ReturnType<typeof readNode>): Decision {
    const { clock } = this.#options;
    const now = clock.monotonic();
    const over = [...entry.waits].filter(([, dueAt]) => dueAt <= now).map(([key]) => key);
    try {
      const expired = over.length === 0 ? noWaits : new Set(over);
      return decide(entry.row, readings, { expired, nowMs: clock.now() });
    } catch (error) {
      this.#options.onError?.(error);
      const { operation } = entry.row;
      if (operation?.status !== 'Running') return { row: entry.row, acts: [], waits: [] };
      const internal = failure('Internal', `a fault of the agent: ${error}`, true);
      return {
        row: { ...entry.row, operation: { ...operation, status: 'Failed', failure: internal } },
        acts: [],
        waits: [],
      };
    }
  }

  #count(before: Row, after: Row): void {
    const status = after.operation?.status;
    if (status === before.operation?.status && after.operation?.instruction === before.operation?.instruction) return;
    if (status === 'Done') this.#counted.completed++;
    if (status === 'Failed') this.#counted.failed++;
  }

  #wait(node: string, entry: Entry, waits: Decision['waits']): void {
    const now = this.#options.clock.monotonic();
    for (const key of entry.waits.keys()) if (!waits.some((wait) => wait.key === key)) entry.waits.delete(key);
    for (const { key, limitMs } of waits) if (!entry.waits.has(key)) entry.waits.set(key, now + limitMs);
    const earliest = Math.min(Number.POSITIVE_INFINITY, ...entry.waits.values());
    if (earliest >= entry.timerAt && earliest !== Number.POSITIVE_INFINITY) return;
    entry.cancelTimer?.();
    entry.cancelTimer = undefined;
    entry.timerAt = earliest;
    if (earliest === Number.POSITIVE_INFINITY) return;
    entry.cancelTimer = this.#options.clock.setTimer(Math.max(0, earliest - now), () => {
      entry.cancelTimer = undefined;
      entry.timerAt = Number.POSITIVE_INFINITY;
      this.#touch(node);
    });
  }

  /** What follows an act that failed may rest on it, such as a boot on its plan: all of them are decided on again. */
  #performAll(node: string, entry: Entry, acts: readonly Act[]): void {
    try {
      for (const act of acts) this.#perform(node, entry, act);
    } catch (error) {
      this.#options.onError?.(error);
      entry.toldPlan = undefined;
      entry.toldRateBytes = undefined;
      this.#options.clock.setTimer(logRetryMs, () => this.#touch(node));
    }
  }

  /** A driver is told plan and throttle when they are new alone. */
  #perform(node: string, entry: Entry, act: Act): void {
    if (act.kind === 'plan') {
      const { plan } = act;
      const key =
        plan === undefined ? 'none' : `${plan.epoch} ${plan.start} ${plan.maxRateBytes} ${plan.environment.revision}`;
      if (key === entry.toldPlan) return;
      entry.toldPlan = key;
    }
    if (act.kind === 'throttle') {
      if (entry.toldRateBytes === act.maxRateBytes) return;
      entry.toldRateBytes = act.maxRateBytes;
    }
    perform(this.#options.drivers, node, act);
  }

  #say(node: string, entry: Entry, observation: NodeObservation): void {
    if (entry.observation !== undefined && isDeepStrictEqual(entry.observation, observation)) return;
    entry.observation = observation;
    entry.seq = ++this.#seq;
    for (const listener of this.#listeners) listener(node, entry.seq);
  }

  /** Stops without finishing anything: what a killed process would leave behind, its log and drivers apart. */
  close(): void {
    this.#closed = true;
    this.#cancelPump?.();
    for (const entry of this.#entries.values()) entry.cancelTimer?.();
    this.#listeners.clear();
  }
}

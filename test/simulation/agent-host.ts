/**
 * The place of one rack's agent: its machines, its log, and the agent process, which may die at any write or act and come back.
 *
 * Invariants:
 * 1. The machines and what was flushed of the log survive the process.
 * 2. A process that died does nothing any more, in the middle of whatever it did.
 */
import { AgentCore } from '../../agent/core.ts';
import { type Drivers, readNode } from '../../agent/drivers/port.ts';
import { simulatedDrivers } from '../../agent/drivers/simulated/drivers.ts';
import { SimulatedRack } from '../../agent/drivers/simulated/rack.ts';
import type { ObservationFeed, Resume } from '../../agent/feed.ts';
import { type AgentLog, MemoryLog } from '../../agent/log.ts';
import { type CorePeer, memoryPeer } from '../../agent/memory-peer.ts';
import type { Row } from '../../agent/row.ts';
import type { LineSource, MemoryPeer } from '../../controller/agents/memory.ts';
import { AgentError } from '../../controller/agents/port.ts';
import { parseHostlist } from '../../controller/api/hostlist.ts';
import type { InstructionBatch, InstructionBatchResult, Port } from '../../controller/api/protocol.generated.ts';
import { chance, int } from './chance.ts';
import { tapped } from './driver-tap.ts';
import { ProcessClock } from './process-clock.ts';
import { TruthStore } from './truth-store.ts';
import type { World } from './world.ts';

/** The process died inside a call. */
class ProcessDied extends Error {
  override readonly name = 'ProcessDied';
}

interface Incarnation {
  readonly number: number;
  readonly core: AgentCore;
  readonly peer: CorePeer;
  readonly clock: ProcessClock;
  dead: boolean;
  listener?: (node: string) => void;
}

interface Life {
  dead: boolean;
  listener?: (node: string) => void;
}

export class AgentHost {
  readonly name: string;
  readonly hosts: string;
  readonly nodes: readonly string[];
  readonly rack: SimulatedRack;
  log: MemoryLog;
  readonly #world: World;
  readonly #drivers: Drivers;
  readonly #listeners = new Set<(node: string) => void>();
  #incarnation: Incarnation | undefined;
  /** The one before, which lives on while another has taken its place. */
  #replaced: { readonly incarnation: Incarnation; readonly log: MemoryLog } | undefined;
  #incarnations = 0;
  #logs = 0;
  /** The next so many log writes and acts pass, then the process dies. */
  #dieAfter: { readonly point: 'write' | 'act'; left: number } | undefined;
  /** How late its lines come, in milliseconds. */
  linesLateMs = 0;

  constructor(world: World, name: string, hosts: string) {
    this.#world = world;
    this.name = name;
    this.hosts = hosts;
    this.nodes = parseHostlist(hosts);
    this.log = this.#newLog();
    this.rack = new SimulatedRack({
      nodes: this.nodes,
      room: world.room,
      store: new TruthStore(name, (rack, event) => world.truth.roomEvent(rack, event)),
      clock: world.clock,
      random: world.random(`room ${name}`),
      progressIntervalMs: 5_000,
      onError: (error) => world.unexpected(`room ${name}`, error),
    });
    this.#drivers = simulatedDrivers(this.rack);
    this.#drivers.onChange((node) => {
      for (const listener of this.#listeners) listener(node);
    });
  }

  #newLog(): MemoryLog {
    return new MemoryLog(`${this.name}-store-${++this.#logs}`, 'Manual');
  }

  get core(): AgentCore | undefined {
    return this.#incarnation?.core;
  }

  /** Of the process that runs now: a message on its way does not outlive it, as its connection does not. */
  get life(): object | undefined {
    return this.#incarnation;
  }

  get reachable(): boolean {
    return this.#incarnation !== undefined;
  }

  /** As the driver shows them. */
  shownPorts(node: string): readonly Port[] {
    return this.#drivers.fabric.read(node).ports;
  }

  /** Of changes that the drivers show as pending. */
  pendingTokens(node: string): string[] {
    const { power, fabric, images, vmm } = readNode(this.#drivers, node);
    return [
      power.stateChange,
      power.orderChange,
      fabric.dataChange,
      fabric.controlChange,
      images.exportChange,
      images.servingChange,
      vmm.change,
    ].flatMap((change) => (change?.status === 'Pending' ? [change.token] : []));
  }

  row(node: string): Row | undefined {
    return this.log.load().find((row) => row.node === node);
  }

  start(): void {
    if (this.#incarnation !== undefined) return;
    const { clock } = this.#world;
    const number = ++this.#incarnations;
    const processClock = new ProcessClock(clock);
    const life: Life = { dead: false };
    const core = new AgentCore({
      name: this.name,
      version: 'simulated',
      nodes: this.nodes,
      drivers: this.#driversOf(life),
      log: this.#logOf(life),
      clock: processClock,
      random: this.#world.random(`agent ${this.name} ${number}`),
      onError: (error) => {
        if (!(error instanceof ProcessDied)) this.#world.unexpected(`agent ${this.name}`, error);
      },
    });
    this.#incarnation = Object.assign(life, { number, core, peer: memoryPeer(core), clock: processClock });
    this.#world.trace.add(this.name, `agent starts (${number})`);
    this.#world.attachAgent(this);
  }

  #end(incarnation: Incarnation | undefined): void {
    if (incarnation === undefined) return;
    incarnation.dead = true;
    incarnation.clock.kill();
    incarnation.core.close();
    if (incarnation.listener !== undefined) this.#listeners.delete(incarnation.listener);
  }

  /** @param forgets what was not flushed of the log is gone */
  kill(forgets = false): void {
    const incarnation = this.#incarnation;
    if (incarnation === undefined) return;
    this.#end(incarnation);
    this.#incarnation = undefined;
    this.#dieAfter = undefined;
    if (forgets) {
      this.log.crash();
      this.#world.truth.agentForgot(this.name, this.log.load());
    }
    this.#world.trace.add(this.name, `agent dies${forgets ? ', its log loses what was not flushed' : ''}`);
    this.#world.detachAgent(this.name);
  }

  /** Somebody starts a second agent for the rack, with a log of its own; the first one goes on, and nobody hears it. */
  usurp(): boolean {
    const incarnation = this.#incarnation;
    if (incarnation === undefined || this.#replaced !== undefined) return false;
    this.#replaced = { incarnation, log: this.log };
    this.#incarnation = undefined;
    this.log = this.#newLog();
    this.start();
    return true;
  }

  /** The second agent is ended, and the first one is heard again. */
  yieldBack(): void {
    const replaced = this.#replaced;
    if (replaced === undefined) return;
    this.#replaced = undefined;
    this.#end(this.#incarnation);
    this.#incarnation = replaced.incarnation.dead ? undefined : replaced.incarnation;
    this.log = replaced.log;
    this.#world.trace.add(this.name, 'the first agent is heard again');
    if (this.#incarnation === undefined) this.start();
    else this.#world.attachAgent(this);
  }

  /** The log is gone with its disk; the next start begins an empty one. */
  loseDisk(): void {
    this.kill();
    this.log = this.#newLog();
    this.#world.truth.agentForgot(this.name, this.log.load());
  }

  /** The process dies at the n-th write to its log from now on (after it is durable), or at the n-th act (before it is done). */
  dieAt(point: 'write' | 'act', n: number): void {
    this.#dieAfter = { point, left: n };
  }

  #passed(point: 'write' | 'act', life: Life): boolean {
    const fuse = this.#dieAfter;
    const mine = this.#incarnation !== undefined && !life.dead && this.#replaced === undefined;
    if (!mine || fuse === undefined || fuse.point !== point || --fuse.left > 0) return !life.dead;
    this.kill();
    this.#world.restartAgent(this);
    return false;
  }

  #logOf(life: Life): AgentLog {
    const { log } = this;
    return {
      storeId: log.storeId,
      highestTerm: () => log.highestTerm(),
      load: () => log.load(),
      write: (rows, term) => {
        if (life.dead) throw new ProcessDied('the agent is dead');
        log.write(rows, term);
        if (!chance(this.#world.agentRandom, this.#world.unflushedChance)) log.flush();
        this.#world.truth.logWritten(this.name, rows, log.storeId);
        if (!this.#passed('write', life)) throw new ProcessDied('the agent died after a write to its log');
      },
      close: () => {},
    };
  }

  #driversOf(life: Life): Drivers {
    const { storeId } = this.log;
    return tapped(this.#drivers, {
      onChange: (listener) => {
        life.listener = listener;
        this.#listeners.add(listener);
      },
      mayAct: (what) => {
        if (!this.#passed('act', life)) return false;
        this.#world.trace.add(this.name, what);
        return true;
      },
      acted: (node, act) => this.#world.truth.acted(this.name, node, act, storeId),
    });
  }

  /** As a process of the operator reaches the agent that runs now. */
  peer(): MemoryPeer {
    const incarnation = this.#incarnation;
    if (incarnation === undefined) throw new Error(`the agent ${this.name} does not run`);
    return {
      open: (resume: Resume | undefined) => this.#late(incarnation.peer.open(resume)),
      instruct: (batch) => this.#instruct(incarnation, batch),
    };
  }

  #instruct({ peer }: Incarnation, batch: InstructionBatch): InstructionBatchResult {
    const { log } = this;
    const answer = this.#answer(peer, batch, log);
    this.#world.truth.deeds++;
    for (const [index, { node, result, reason }] of answer.results.entries()) {
      const instruction = batch.instructions[index];
      if (instruction === undefined) continue;
      const { verb, epoch, operationId } = instruction;
      this.#world.trace.add(
        node,
        `${verb} ${operationId} term ${batch.term} epoch ${epoch}: ${result} ${reason ?? ''}`,
      );
      if (result === 'Accepted') this.#world.truth.accepted(this.name, instruction, batch.term, log.storeId);
    }
    return answer;
  }

  #answer(peer: CorePeer, batch: InstructionBatch, log: AgentLog): InstructionBatchResult {
    try {
      return peer.instruct(batch);
    } catch (error) {
      if (!(error instanceof ProcessDied)) throw error;
      this.#acceptedBeforeDeath(batch, log);
      throw new AgentError('Unknown', this.name, error.message);
    }
  }

  /** What is in the log was accepted, and is gone on with by the next process, although nobody was told. */
  #acceptedBeforeDeath({ term, instructions }: InstructionBatch, log: AgentLog): void {
    const { truth, trace } = this.#world;
    for (const instruction of instructions) {
      const { node, operationId } = instruction;
      const row = log.load().find((one) => one.node === node);
      if (row?.recent.includes(operationId) !== true || truth.knows(instruction)) continue;
      trace.add(node, `${operationId} term ${term}: is in the log of the agent that died`);
      truth.accepted(this.name, instruction, term, log.storeId);
    }
  }

  #late(feed: ObservationFeed): LineSource {
    if (this.linesLateMs === 0) return feed;
    const { clock, agentRandom } = this.#world;
    let due = false;
    const source: LineSource = {
      take: (count) => {
        if (!due) return [];
        due = false;
        return feed.take(count);
      },
      onReadable: undefined,
      close: () => feed.close(),
    };
    const wake = (): void => {
      clock.setTimer(int(agentRandom, this.linesLateMs + 1), () => {
        due = true;
        source.onReadable?.();
      });
    };
    feed.onReadable = wake;
    wake();
    return source;
  }
}

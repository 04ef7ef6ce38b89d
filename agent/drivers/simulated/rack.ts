/**
 * A rack of simulated machines: their jobs in time, their store, and who is told.
 *
 * Invariants:
 * 1. A change is stored before anybody is told of it, so a killed process never said what a restarted one denies.
 * 2. The room's own time goes on only while it runs, and is stored with every change; while something is to come, also
 *    every progress interval, so that a machine that is killed with its process does not begin its POST again for ever.
 * 3. One timer serves the whole rack.
 */
import type { Clock } from '../../../controller/runtime/clock.ts';
import { Heap, type HeapMember } from '../../../controller/runtime/heap.ts';
import type { Random } from '../../../controller/runtime/random.ts';
import type { MachineFacts } from '../port.ts';
import { type BootStep, bootStep } from './boot.ts';
import { Copies } from './copy.ts';
import { Faults } from './inject.ts';
import { finishJob, runGhosts } from './jobs.ts';
import {
  factsOf,
  type Job,
  type JobKind,
  never,
  newMachine,
  type SimMachine,
  targetOf,
  vmmResident,
} from './machine.ts';
import type { FailingStep, RoomOptions } from './options.ts';
import { cutPower, givePower, reset } from './power.ts';
import type { RackStore, RoomEvent } from './store.ts';
import { type Truth, truthOf } from './truth.ts';

interface Slot extends HeapMember {
  readonly machine: SimMachine;
  dueMs: number;
}

export interface RackOptions {
  readonly nodes: readonly string[];
  readonly room: RoomOptions;
  readonly store: RackStore;
  readonly clock: Clock;
  readonly random: Random;
  /** Shortest time between two tellings of a copy's progress, in the room's own time. */
  readonly progressIntervalMs: number;
  readonly onError?: (error: unknown) => void;
}

/** After a store that could not be written. */
const storeRetryMs = 1000;

export class SimulatedRack {
  readonly room: RoomOptions;
  readonly copies: Copies;
  readonly faults: Faults;
  readonly #options: RackOptions;
  readonly #slots = new Map<string, Slot>();
  readonly #agenda = new Heap<Slot>((a, b) => a.dueMs < b.dueMs);
  readonly #dirty = new Map<string, SimMachine>();
  readonly #machines: SimMachine[] = [];
  readonly #facts = new Map<string, MachineFacts>();
  readonly #failNext = new Map<string, Set<FailingStep>>();
  readonly #watchers = new Set<(event: RoomEvent) => void>();
  readonly #startedAt: number;
  readonly #baseMs: number;
  #events: RoomEvent[] = [];
  #listener: (node: string) => void = () => {};
  #cancelTimer: (() => void) | undefined;
  #storedAtMs: number;
  #timerAtMs = Number.POSITIVE_INFINITY;
  #rerate = false;
  #closed = false;

  constructor(options: RackOptions) {
    this.#options = options;
    this.room = options.room;
    this.copies = new Copies(options.room, options.progressIntervalMs);
    const stored = options.store.load();
    this.#startedAt = options.clock.monotonic();
    this.#baseMs = stored.nowMs;
    this.#storedAtMs = stored.nowMs;
    this.faults = new Faults(this);
    const known = new Map(stored.machines.map((machine) => [machine.name, machine]));
    this.copies.settle(stored.nowMs);
    for (const name of options.nodes) {
      const fresh = newMachine(name, options.room.machine);
      // A machine that an older version stored lacks what was added since.
      const machine = known.has(name) ? { ...fresh, ...known.get(name) } : fresh;
      this.#machines.push(machine);
      this.#slots.set(name, { machine, dueMs: Number.POSITIVE_INFINITY, heapIndex: -1 });
      if (!known.has(name)) this.#dirty.set(name, machine);
      this.#place(machine);
    }
    // Where a machine's cables lead can be asked only once all of them are here.
    for (const machine of this.#machines) if (this.copies.update(machine, stored.nowMs)) this.#rerate = true;
    this.faults.setRates(options.room.faultRates, stored.nowMs);
  }

  nowMs(): number {
    return this.#baseMs + this.#options.clock.monotonic() - this.#startedAt;
  }

  machine(name: string): SimMachine {
    const slot = this.#slots.get(name);
    if (slot === undefined) throw new Error(`the rack has no machine ${name}`);
    return slot.machine;
  }

  /** In the order of `RackOptions.nodes`; the same array each time. */
  machines(): readonly SimMachine[] {
    return this.#machines;
  }

  /** The same object until the machine changed. */
  facts(machine: SimMachine): MachineFacts {
    const known = this.#facts.get(machine.name) ?? factsOf(machine, this.room.machine);
    this.#facts.set(machine.name, known);
    return known;
  }

  factsChanged(machine: SimMachine): void {
    this.#facts.delete(machine.name);
    this.changed(machine);
  }

  /** What is true of the machine now, whatever its drivers read. */
  truth(name: string): Truth {
    this.copies.settle(this.nowMs());
    return truthOf(this, this.machine(name));
  }

  history(): RoomEvent[] {
    this.#flush();
    return this.#options.store.history();
  }

  /** Calls `watcher` with each event as it happens, whatever the history keeps. Costs nothing else. */
  watch(watcher: (event: RoomEvent) => void): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  draw(): number {
    return this.#options.random.next();
  }

  onChange(listener: (node: string) => void): void {
    this.#listener = listener;
  }

  /** The machine's step fails the next time it is done, whatever the rates. */
  failNext(name: string, step: FailingStep): void {
    const steps = this.#failNext.get(name) ?? new Set();
    this.#failNext.set(name, steps.add(step));
  }

  chance(machine: SimMachine, step: FailingStep): boolean {
    if (this.#failNext.get(machine.name)?.delete(step)) return true;
    const rate = this.room.failureRates[step] ?? 0;
    return rate > 0 && this.#options.random.next() < rate;
  }

  record(machine: SimMachine, event: RoomEvent['event'], detail: RoomEvent['detail']): void {
    if (this.room.historyLimit === 0 && this.#watchers.size === 0) return;
    const happened: RoomEvent = { atMs: this.nowMs(), node: machine.name, event, detail };
    if (this.room.historyLimit > 0) this.#events.push(happened);
    for (const watcher of this.#watchers) watcher(happened);
  }

  /** Sets a job of the machine, replacing one of its kind, and marks the machine as changed. */
  schedule(machine: SimMachine, kind: JobKind, job: Omit<Job, 'dueMs'>, durationMs: number): void {
    machine.jobs[kind] = { ...job, dueMs: this.nowMs() + this.#took(durationMs) };
    this.changed(machine);
  }

  #took(durationMs: number): number {
    return this.room.zeroDelays ? 0 : Math.round(durationMs * (1 + this.room.spread * this.#options.random.next()));
  }

  /** Call after every change of a machine from outside its jobs. */
  changed(machine: SimMachine): void {
    this.#dirty.set(machine.name, machine);
    this.#place(machine);
    this.#follow(machine, this.nowMs());
    this.#arm();
  }

  /** The bounds of copies changed. */
  rerate(): void {
    this.#rerate = true;
    this.#arm();
  }

  /** The time of the next fault changed. */
  wake(): void {
    this.#arm();
  }

  /** A copy begins, stops, or is complete and leaves the write cache. */
  #follow(machine: SimMachine, nowMs: number): void {
    if (this.copies.update(machine, nowMs)) this.#rerate = true;
    const map = vmmResident(machine) && machine.failure === undefined ? targetOf(machine)?.map : undefined;
    if (map === undefined || map.flushed || map.localBytes < map.totalBytes || machine.jobs.flush) return;
    machine.jobs.flush = { token: '', to: '', fails: false, dueMs: nowMs + this.#took(this.room.durations.flush) };
    this.#place(machine);
  }

  #place(machine: SimMachine): void {
    const slot = this.#slots.get(machine.name);
    if (slot === undefined) return;
    let dueMs = Number.POSITIVE_INFINITY;
    for (const job of Object.values(machine.jobs)) dueMs = Math.min(dueMs, job.dueMs);
    for (const ghost of machine.ghosts) dueMs = Math.min(dueMs, ghost.dueMs);
    for (const fault of Object.values(machine.faults)) dueMs = Math.min(dueMs, fault.untilMs ?? never);
    if (dueMs === never) dueMs = Number.POSITIVE_INFINITY;
    slot.dueMs = dueMs;
    if (dueMs === Number.POSITIVE_INFINITY) this.#agenda.remove(slot);
    else if (slot.heapIndex < 0) this.#agenda.push(slot);
    else this.#agenda.moved(slot);
  }

  #arm(): void {
    if (this.#closed) return;
    const now = this.nowMs();
    const urgent = this.#dirty.size > 0 || this.#rerate;
    const agendaMs = this.#agenda.peek()?.dueMs ?? Number.POSITIVE_INFINITY;
    const nextMs = Math.min(agendaMs, this.copies.nextMs(), this.faults.nextMs());
    const beatMs =
      this.#options.store.durable && nextMs !== Number.POSITIVE_INFINITY
        ? this.#storedAtMs + this.#options.progressIntervalMs
        : nextMs;
    const dueMs = urgent ? now : Math.min(nextMs, beatMs);
    if (dueMs === this.#timerAtMs || (this.#timerAtMs <= now && this.#cancelTimer !== undefined)) return;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#timerAtMs = dueMs;
    if (dueMs === Number.POSITIVE_INFINITY) return;
    this.#cancelTimer = this.#options.clock.setTimer(Math.max(0, dueMs - now), () => {
      this.#cancelTimer = undefined;
      this.#timerAtMs = Number.POSITIVE_INFINITY;
      this.#tick();
    });
  }

  #tick(): void {
    const now = this.nowMs();
    this.faults.run(now);
    for (let slot = this.#agenda.peek(); slot !== undefined && slot.dueMs <= now; slot = this.#agenda.peek()) {
      this.#runDue(slot.machine, now);
      this.#dirty.set(slot.machine.name, slot.machine);
      this.#place(slot.machine);
      this.#follow(slot.machine, now);
    }
    for (const machine of this.copies.due(now)) {
      this.#dirty.set(machine.name, machine);
      this.#follow(machine, now);
      this.#rerate = true;
    }
    if (this.#rerate) this.copies.rerate(now);
    this.#rerate = false;
    const beat = this.#options.store.durable && now - this.#storedAtMs >= this.#options.progressIntervalMs;
    this.#flush(beat);
    this.#arm();
  }

  #runDue(machine: SimMachine, now: number): void {
    this.faults.endDue(machine, now);
    runGhosts(this, machine, now);
    for (const [kind, job] of Object.entries(machine.jobs) as [JobKind, Job][]) {
      // What an earlier job of this turn ended, or set anew, is not run.
      if (job.dueMs > now || machine.jobs[kind] !== job) continue;
      delete machine.jobs[kind];
      if (kind === 'stage') bootStep(this, machine, job.to as BootStep);
      else finishJob(this, machine, kind, job);
    }
  }

  #flush(always = false): void {
    if (this.#dirty.size === 0 && this.#events.length === 0 && !always) return;
    try {
      this.#storedAtMs = this.nowMs();
      this.#options.store.save(this.#dirty.values(), this.#storedAtMs, this.#events);
    } catch (error) {
      this.#options.onError?.(error);
      this.#options.clock.setTimer(storeRetryMs, () => this.#arm());
      return;
    }
    const names = [...this.#dirty.keys()];
    this.#dirty.clear();
    this.#events = [];
    for (const name of names) this.#listener(name);
  }

  cutPower(machine: SimMachine): void {
    cutPower(this, machine);
  }

  givePower(machine: SimMachine): void {
    givePower(this, machine);
  }

  reset(machine: SimMachine): void {
    reset(this, machine);
  }

  close(): void {
    this.#flush(true);
    this.#closed = true;
    this.#cancelTimer?.();
    this.#options.store.close();
  }
}

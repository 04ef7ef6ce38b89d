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
import { type BootStep, beginBoot, bootStep, type Floor } from './boot.ts';
import { Copies } from './copy.ts';
import { finishJob } from './jobs.ts';
import { type Job, type JobKind, newMachine, type SimMachine } from './machine.ts';
import type { FailingStep, RoomOptions } from './options.ts';
import type { RackStore, RoomEvent } from './store.ts';

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
  readonly floor: Floor;
  readonly #options: RackOptions;
  readonly #slots = new Map<string, Slot>();
  readonly #agenda = new Heap<Slot>((a, b) => a.dueMs < b.dueMs);
  readonly #dirty = new Map<string, SimMachine>();
  readonly #failNext = new Map<string, Set<FailingStep>>();
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
    this.floor = {
      after: (machine, durationMs, to) => this.schedule(machine, 'stage', { token: '', to, fails: false }, durationMs),
      chance: (machine, step) => this.chance(machine, step),
      record: (machine, event, detail) => this.record(machine, event, detail),
      draw: () => options.random.next(),
      durations: options.room.durations,
      guestIo: options.room.guestIo,
    };
    const known = new Map(stored.machines.map((machine) => [machine.name, machine]));
    this.copies.settle(stored.nowMs);
    for (const name of options.nodes) {
      const machine = known.get(name) ?? newMachine(name, options.room.machine);
      this.#slots.set(name, { machine, dueMs: Number.POSITIVE_INFINITY, heapIndex: -1 });
      if (!known.has(name)) this.#dirty.set(name, machine);
      this.#place(machine);
      if (this.copies.update(machine, stored.nowMs)) this.#rerate = true;
    }
    this.#arm();
  }

  nowMs(): number {
    return this.#baseMs + this.#options.clock.monotonic() - this.#startedAt;
  }

  machine(name: string): SimMachine {
    const slot = this.#slots.get(name);
    if (slot === undefined) throw new Error(`the rack has no machine ${name}`);
    return slot.machine;
  }

  history(): RoomEvent[] {
    this.#flush();
    return this.#options.store.history();
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
    if (this.room.historyLimit > 0) this.#events.push({ atMs: this.nowMs(), node: machine.name, event, detail });
  }

  /** Sets a job of the machine, replacing one of its kind, and marks the machine as changed. */
  schedule(machine: SimMachine, kind: JobKind, job: Omit<Job, 'dueMs'>, durationMs: number): void {
    const { zeroDelays, spread } = this.room;
    const tookMs = zeroDelays ? 0 : Math.round(durationMs * (1 + spread * this.#options.random.next()));
    machine.jobs[kind] = { ...job, dueMs: this.nowMs() + tookMs };
    this.changed(machine);
  }

  /** Call after every change of a machine from outside its jobs. */
  changed(machine: SimMachine): void {
    this.#dirty.set(machine.name, machine);
    this.#place(machine);
    if (this.copies.update(machine, this.nowMs())) this.#rerate = true;
    this.#arm();
  }

  /** The copy's bounds changed. */
  rerate(machine: SimMachine): void {
    this.#rerate = true;
    this.changed(machine);
  }

  #place(machine: SimMachine): void {
    const slot = this.#slots.get(machine.name);
    if (slot === undefined) return;
    let dueMs = Number.POSITIVE_INFINITY;
    for (const job of Object.values(machine.jobs)) dueMs = Math.min(dueMs, job.dueMs);
    slot.dueMs = dueMs;
    if (dueMs === Number.POSITIVE_INFINITY) this.#agenda.remove(slot);
    else if (slot.heapIndex < 0) this.#agenda.push(slot);
    else this.#agenda.moved(slot);
  }

  #arm(): void {
    if (this.#closed) return;
    const now = this.nowMs();
    const urgent = this.#dirty.size > 0 || this.#rerate;
    const nextMs = Math.min(this.#agenda.peek()?.dueMs ?? Number.POSITIVE_INFINITY, this.copies.nextMs());
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
    for (let slot = this.#agenda.peek(); slot !== undefined && slot.dueMs <= now; slot = this.#agenda.peek()) {
      this.#runDue(slot.machine, now);
      this.#dirty.set(slot.machine.name, slot.machine);
      this.#place(slot.machine);
      if (this.copies.update(slot.machine, now)) this.#rerate = true;
    }
    for (const machine of this.copies.due(now)) {
      this.#dirty.set(machine.name, machine);
      this.#rerate = true;
    }
    if (this.#rerate) this.copies.rerate(now);
    this.#rerate = false;
    const beat = this.#options.store.durable && now - this.#storedAtMs >= this.#options.progressIntervalMs;
    this.#flush(beat);
    this.#arm();
  }

  #runDue(machine: SimMachine, now: number): void {
    for (const [kind, job] of Object.entries(machine.jobs) as [JobKind, Job][]) {
      if (job.dueMs > now) continue;
      delete machine.jobs[kind];
      if (kind === 'stage') bootStep(this.floor, machine, job.to as BootStep);
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

  /** Power is gone: whatever ran or was asked of what ran has ended. */
  cutPower(machine: SimMachine): void {
    if (machine.power === 'On') this.record(machine, 'power', { to: 'Off' });
    machine.power = 'Off';
    this.#stop(machine);
    this.changed(machine);
  }

  givePower(machine: SimMachine): void {
    if (machine.power === 'On') return;
    machine.power = 'On';
    this.record(machine, 'power', { to: 'On' });
    beginBoot(this.floor, machine);
    this.changed(machine);
  }

  /** A warm reset: power stays. */
  reset(machine: SimMachine): void {
    if (machine.power === 'Off') return;
    this.#stop(machine);
    beginBoot(this.floor, machine);
    this.changed(machine);
  }

  #stop(machine: SimMachine): void {
    this.copies.settle(this.nowMs());
    for (const kind of ['stage', 'shutdown', 'vmm'] as const) delete machine.jobs[kind];
    const { vmm } = machine.changes;
    if (vmm?.status === 'Pending')
      machine.changes.vmm = { token: vmm.token, status: 'Error', error: 'the machine went down' };
    machine.stage = 'Dark';
    machine.trusted = { nonce: '', wiped: [], checked: false };
  }

  close(): void {
    this.#flush(true);
    this.#closed = true;
    this.#cancelTimer?.();
    this.#options.store.close();
  }
}

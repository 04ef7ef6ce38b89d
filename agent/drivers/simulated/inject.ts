/**
 * Begins and ends the faults of a rack: by their rates, or by a test's word.
 *
 * Invariants:
 * 1. Everything drawn comes from the rack's own chance, in an order that its clock and its orders alone decide.
 * 2. A fault that cannot be on a machine as it is now (no guest, no power, already there) does not happen, and is not counted.
 * 3. Faults of one machine live in its record, and so outlive the process; those of the whole rack do not.
 */
import { type ActiveFault, type FaultKind, type FaultRates, faultKinds, faultTable } from './faults.ts';
import type { SimMachine } from './machine.ts';
import type { SimulatedRack } from './rack.ts';
import { onBegin, onEnd } from './strike.ts';

export interface Injection {
  /** Absent: of the whole rack, or a machine drawn by chance. */
  readonly node?: string;
  /** For faults between two machines. */
  readonly other?: string;
  /** Absent: drawn as its row says. */
  readonly lastsMs?: number;
}

const dayMs = 86_400_000;

export class Faults {
  readonly #rack: SimulatedRack;
  /** Of the whole rack. */
  readonly #active = new Map<FaultKind, ActiveFault>();
  readonly #armed = new Map<string, Map<FaultKind, number | undefined>>();
  readonly #counted = new Map<FaultKind, number>();
  readonly #rotten: Set<string>;
  #rates: FaultRates;
  /** Rates a day of the whole rack, by kind, and their sum. */
  #daily: (readonly [FaultKind, number])[] = [];
  #perDay = 0;
  #nextStrikeMs = Number.POSITIVE_INFINITY;
  /** The length that a test asked for of the fault that struck just now. */
  #lastsMs: number | undefined;

  constructor(rack: SimulatedRack) {
    this.#rack = rack;
    this.#rates = rack.room.faultRates;
    this.#rotten = new Set(rack.room.rottenImages);
  }

  /** From now on. A room that starts, or whose time was not running, calls it as well. */
  setRates(rates: FaultRates, nowMs = this.#rack.nowMs()): void {
    this.#rates = rates;
    const machines = this.#rack.machines().length;
    this.#daily = faultKinds
      .filter((kind) => faultTable[kind].occasion === 'Day' && (rates[kind] ?? 0) > 0)
      .map((kind) => [kind, (rates[kind] ?? 0) * (faultTable[kind].scope === 'Rack' ? 1 : machines)] as const);
    this.#perDay = this.#daily.reduce((sum, [, rate]) => sum + rate, 0);
    this.#drawNext(nowMs);
    this.#rack.wake();
  }

  /** Waits between strikes are exponential: they come independently of each other. */
  #drawNext(nowMs: number): void {
    this.#nextStrikeMs =
      this.#perDay === 0
        ? Number.POSITIVE_INFINITY
        : nowMs + Math.ceil((-Math.log(1 - this.#rack.draw()) / this.#perDay) * dayMs);
  }

  /** When a fault of the rack begins or ends next; those of machines are in their own agenda. */
  nextMs(): number {
    let next = this.#nextStrikeMs;
    for (const { untilMs } of this.#active.values()) next = Math.min(next, untilMs ?? Number.POSITIVE_INFINITY);
    return next;
  }

  run(nowMs: number): void {
    for (const [kind, { untilMs }] of this.#active) if (untilMs !== null && untilMs <= nowMs) this.#endInRack(kind);
    while (this.#nextStrikeMs <= nowMs) {
      const kind = this.#anyKind();
      if (kind !== undefined) this.inject(kind);
      this.#drawNext(this.#nextStrikeMs);
    }
  }

  #anyKind(): FaultKind | undefined {
    let at = this.#rack.draw() * this.#perDay;
    for (const [kind, rate] of this.#daily) {
      at -= rate;
      if (at < 0) return kind;
    }
    return this.#daily[0]?.[0];
  }

  /**
   * Lets a fault happen: one of a step at the machine's next such step, any other now.
   * @returns false where it cannot happen to the machine as it is
   */
  inject(kind: FaultKind, { node, other, lastsMs }: Injection = {}): boolean {
    const machine = node === undefined ? this.#any() : this.#rack.machine(node);
    if (machine === undefined) return false;
    if (faultTable[kind].occasion === 'Step') {
      const armed = this.#armed.get(machine.name) ?? new Map<FaultKind, number | undefined>();
      this.#armed.set(machine.name, armed.set(kind, lastsMs));
      return true;
    }
    this.#lastsMs = lastsMs;
    const partner = other === undefined ? this.#any(machine) : this.#rack.machine(other);
    return this.begin(machine, kind, this.lasting(kind), partner);
  }

  #any(except?: SimMachine): SimMachine | undefined {
    const machines = this.#rack.machines().filter((machine) => machine !== except);
    return machines[Math.floor(this.#rack.draw() * machines.length)];
  }

  /** Whether a fault of a step happens to this machine at the step that it does now. */
  strikes(machine: SimMachine, kind: FaultKind): boolean {
    const armed = this.#armed.get(machine.name);
    const scripted = armed?.has(kind) === true;
    const rate = this.#rates[kind] ?? 0;
    if (!scripted && !(rate > 0 && this.#rack.draw() < rate)) return false;
    this.#lastsMs = armed?.get(kind);
    armed?.delete(kind);
    this.#happened(machine, kind);
    return true;
  }

  /** How long the fault that strikes now lasts; null: until healed. */
  lasting(kind: FaultKind): number {
    const { lasts } = faultTable[kind];
    const asked = this.#lastsMs;
    this.#lastsMs = undefined;
    if (asked !== undefined) return asked;
    if (lasts === undefined) return 0;
    if (lasts === 'Healed') return Number.POSITIVE_INFINITY;
    return Math.round(lasts[0] + (lasts[1] - lasts[0]) * this.#rack.draw());
  }

  /** @param lastsMs Infinity: until healed @returns false where it cannot happen now */
  begin(machine: SimMachine, kind: FaultKind, lastsMs: number, other?: SimMachine): boolean {
    const { scope, occasion, lasts } = faultTable[kind];
    const inForce = scope === 'Rack' ? this.#active.has(kind) : machine.faults[kind] !== undefined;
    if (inForce && lasts !== undefined) return false;
    const untilMs = lastsMs === Number.POSITIVE_INFINITY ? null : this.#rack.nowMs() + lastsMs;
    const detail = onBegin(this.#rack, machine, kind, { other, untilMs });
    if (detail === undefined) return false;
    if (occasion === 'Day') this.#happened(machine, kind);
    const active: ActiveFault = { untilMs, detail };
    if (lasts !== undefined && scope === 'Rack') this.#active.set(kind, { ...active, node: machine.name });
    if (lasts !== undefined && scope === 'Machine') machine.faults[kind] = active;
    this.#rack.changed(machine);
    return true;
  }

  end(machine: SimMachine, kind: FaultKind): void {
    const active = machine.faults[kind];
    if (active === undefined) return;
    delete machine.faults[kind];
    onEnd(this.#rack, kind, active, machine);
    this.#rack.record(machine, 'healed', { kind });
    this.#rack.changed(machine);
  }

  #endInRack(kind: FaultKind): void {
    const active = this.#active.get(kind);
    if (active === undefined) return;
    this.#active.delete(kind);
    onEnd(this.#rack, kind, active, undefined);
    if (active.node !== undefined) this.#rack.record(this.#rack.machine(active.node), 'healed', { kind });
    for (const machine of this.#rack.machines()) this.#rack.changed(machine);
  }

  /** Ends the faults of this machine whose time is over. */
  endDue(machine: SimMachine, nowMs: number): void {
    for (const kind of Object.keys(machine.faults) as FaultKind[]) {
      const untilMs = machine.faults[kind]?.untilMs;
      if (untilMs !== undefined && untilMs !== null && untilMs <= nowMs) this.end(machine, kind);
    }
  }

  /** A person acts: ends these faults, all where none is named; of one machine, or of the rack and all its machines. */
  heal({ node, kinds = faultKinds }: { node?: string; kinds?: readonly FaultKind[] } = {}): void {
    const machines = node === undefined ? this.#rack.machines() : [this.#rack.machine(node)];
    for (const kind of kinds) {
      if (node === undefined) this.#endInRack(kind);
      for (const machine of machines) this.end(machine, kind);
    }
    for (const { name } of machines) for (const kind of kinds) this.#armed.get(name)?.delete(kind);
  }

  inRack(kind: FaultKind): ActiveFault | undefined {
    return this.#active.get(kind);
  }

  /** What is behind this URL is not what was published. */
  isRotten(url: string): boolean {
    return this.#rotten.has(url);
  }

  setRotten(url: string, rotten: boolean): void {
    if (rotten) this.#rotten.add(url);
    else this.#rotten.delete(url);
  }

  #happened(machine: SimMachine, kind: FaultKind): void {
    this.#counted.set(kind, (this.#counted.get(kind) ?? 0) + 1);
    this.#rack.record(machine, 'fault', { kind });
  }

  /** How often each kind happened since the process started. */
  counted(): ReadonlyMap<FaultKind, number> {
    return this.#counted;
  }
}

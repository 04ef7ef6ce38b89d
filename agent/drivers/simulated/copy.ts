/**
 * The background copies of a rack: a fluid model of streams that share the image server.
 *
 * Invariants:
 * 1. A stream's bytes follow from its rate and the time since it was last settled; no timer runs per block.
 * 2. Rates change only in `rerate`, which settles every stream first. Each gets an equal share of the server, at most what
 *    its disk, its bounds and the guest's own I/O leave; what a slow stream does not take is not handed on.
 * 3. Somebody is told of progress at sixteenths of the image, and not more often than the interval given.
 */
import { leastFairShare } from '../port.ts';
import { type FilledMap, type SimMachine, targetOf, vmmResident } from './machine.ts';
import type { RoomOptions } from './options.ts';
import { controlReaches } from './wiring.ts';

interface Stream {
  readonly machine: SimMachine;
  bytesPerMs: number;
  toldBytes: number;
  toldAtMs: number;
}

const stepsOfProgress = 16;

/** A guest's I/O takes this share of what it uses away from the copy. */
const yieldShare = { Strict: 1, Fair: 1 - leastFairShare, None: 0 } as const;

export class Copies {
  readonly #streams = new Map<string, Stream>();
  readonly #room: RoomOptions;
  readonly #intervalMs: number;
  #settledAtMs = 0;
  servedBytes = 0;
  /** What the image server can do now, as a share of what it can; set it, then let the rack rerate. */
  serverFactor = 1;

  constructor(room: RoomOptions, intervalMs: number) {
    this.#room = room;
    this.#intervalMs = intervalMs;
  }

  /** Call after anything about the machine changed; returns whether the set of streams did. */
  update(machine: SimMachine, nowMs: number): boolean {
    const wanted = streams(machine);
    if (wanted === this.#streams.has(machine.name)) return false;
    this.settle(nowMs);
    const map = targetOf(machine)?.map;
    if (wanted && map !== undefined && this.#room.zeroDelays) {
      this.#fill(machine, map, map.totalBytes - map.localBytes);
      return false;
    }
    if (!wanted) this.#streams.delete(machine.name);
    else this.#streams.set(machine.name, { machine, bytesPerMs: 0, toldBytes: map?.localBytes ?? 0, toldAtMs: nowMs });
    return true;
  }

  /** Brings every stream's bytes up to now. */
  settle(nowMs: number): void {
    const elapsedMs = nowMs - this.#settledAtMs;
    this.#settledAtMs = nowMs;
    if (elapsedMs <= 0) return;
    for (const { machine, bytesPerMs } of this.#streams.values()) {
      const map = targetOf(machine)?.map;
      if (map === undefined) continue;
      this.#fill(machine, map, Math.min(map.totalBytes - map.localBytes, Math.round(bytesPerMs * elapsedMs)));
    }
  }

  #fill(machine: SimMachine, map: FilledMap, bytes: number): void {
    map.localBytes += bytes;
    machine.readBytes += bytes;
    this.servedBytes += bytes;
  }

  rerate(nowMs: number): void {
    this.settle(nowMs);
    const share = (this.#room.imageServerBytesPerSecond * this.serverFactor) / Math.max(1, this.#streams.size);
    for (const stream of this.#streams.values()) {
      const { machine } = stream;
      const install = machine.running?.environment.install;
      const shape = this.#room.machine.disks.find((disk) => disk.name === machine.running?.disk);
      const left = 1 - machine.guestIo * yieldShare[install?.yield ?? 'None'];
      const disk = (shape?.writeBytesPerSecond ?? 0) * left;
      stream.bytesPerMs = Math.min(share, disk, machine.maxRateBytes ?? Number.POSITIVE_INFINITY) / 1000;
    }
  }

  /** When the next stream completes or has progress worth telling; Infinity: never. */
  nextMs(): number {
    let next = Number.POSITIVE_INFINITY;
    for (const stream of this.#streams.values()) {
      const map = targetOf(stream.machine)?.map;
      if (map === undefined || stream.bytesPerMs <= 0) continue;
      const completeAtMs = this.#settledAtMs + (map.totalBytes - map.localBytes) / stream.bytesPerMs;
      const step = map.totalBytes / stepsOfProgress;
      const stepBytes = (Math.floor(stream.toldBytes / step) + 1) * step - map.localBytes;
      const stepAtMs = Math.max(this.#settledAtMs + stepBytes / stream.bytesPerMs, stream.toldAtMs + this.#intervalMs);
      next = Math.min(next, completeAtMs, stepAtMs);
    }
    return Math.ceil(next);
  }

  /** Machines whose copy completed or has progress to tell; completed ones are no longer streams. */
  due(nowMs: number): SimMachine[] {
    this.settle(nowMs);
    const told: SimMachine[] = [];
    for (const stream of this.#streams.values()) {
      const map = targetOf(stream.machine)?.map;
      if (map === undefined) continue;
      const step = map.totalBytes / stepsOfProgress;
      const complete = map.localBytes >= map.totalBytes;
      const stepped = Math.floor(map.localBytes / step) > Math.floor(stream.toldBytes / step);
      if (!complete && !(stepped && nowMs >= stream.toldAtMs + this.#intervalMs)) continue;
      stream.toldBytes = map.localBytes;
      stream.toldAtMs = nowMs;
      told.push(stream.machine);
      if (complete) this.#streams.delete(stream.machine.name);
    }
    return told;
  }
}

function streams(machine: SimMachine): boolean {
  const map = targetOf(machine)?.map;
  return (
    vmmResident(machine) &&
    machine.exported === 'Open' &&
    machine.failure === undefined &&
    map !== undefined &&
    map.state === 'Valid' &&
    map.localBytes < map.totalBytes &&
    // A hypervisor goes on reading the image that it began with, and no other.
    machine.image?.digest === map.digest &&
    controlReaches(machine)
  );
}

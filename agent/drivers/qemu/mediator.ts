/**
 * The storage mediator of one machine: redirects the guest's reads to the image while the copy fills the local disk, and leaves.
 *
 * Invariants:
 * 1. A block that the guest wrote is never overwritten by the copy, and one that it flushed survives the end of QEMU, agent or image
 *    server: the map of filled blocks is written with the guest's flush.
 * 2. `complete` means: every block is local, and both map and disk were flushed after the last one.
 * 3. While the image server is gone the guest's reads wait; they never fail.
 * 4. After `leave` the block graph is that of a disk that was never mediated, read back from QEMU.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../../../controller/runtime/clock.ts';
import {
  type BlockGraph,
  emptyNode,
  fileNode,
  type GraphKind,
  graphKind,
  graphText,
  nodeNames,
  topNode,
} from './graph.ts';
import type { QemuMachine } from './machine.ts';
import { completeMap, mapPath, readNote } from './map.ts';
import { Qmp, type QmpEvent } from './qmp.ts';
import { type DiskShape, diskPath, portName } from './shape.ts';

/** Where the image of a machine is exported. */
export interface ExportPlace {
  readonly socketPath: string;
  readonly name: string;
}

export interface CopyState {
  readonly totalBytes: number;
  readonly localBytes: number;
  readonly complete: boolean;
}

/** Counters of the guest's own traffic to a disk, since its start. */
export interface GuestTraffic {
  readonly operations: number;
  /** For how long its commands were under way, those at the same time each counted. */
  readonly waitedMs: number;
}

interface JobInfo {
  readonly id: string;
  readonly status: string;
  readonly 'current-progress': number;
  readonly error?: string;
}

/** The copy cannot go on: the local disk does not take it. */
export class CopyFailed extends Error {
  override readonly name = 'CopyFailed';
}

/** Years: a guest waits for its image server as long as it takes. */
const reconnectSeconds = 10 * 365 * 24 * 3600;
const jobOf = (disk: string): string => `${disk}-copy`;

export class Mediator {
  readonly #machine: QemuMachine;
  readonly #clock: Clock;
  readonly #onEvent: (event: QmpEvent) => void;
  #qmp: Promise<Qmp> | undefined;

  constructor(machine: QemuMachine, clock: Clock, onEvent: (event: QmpEvent) => void = () => {}) {
    this.#machine = machine;
    this.#clock = clock;
    this.#onEvent = onEvent;
  }

  /** The channel to the machine that runs now. @throws when none does */
  #channel(): Promise<Qmp> {
    this.#qmp ??= Qmp.connect({
      path: this.#machine.socketPath('vmm'),
      clock: this.#clock,
      onEvent: this.#onEvent,
      onClose: () => {
        this.#qmp = undefined;
      },
    }).catch((error: unknown) => {
      this.#qmp = undefined;
      throw error;
    });
    return this.#qmp;
  }

  async #execute<Answer>(command: string, args: object = {}): Promise<Answer> {
    return (await this.#channel()).execute<Answer>(command, args);
  }

  #disk(name: string): DiskShape {
    const disk = this.#machine.spec.shape.disks.find((shape) => shape.name === name);
    if (disk === undefined) throw new Error(`${this.#machine.spec.name} has no disk ${name}`);
    return disk;
  }

  /** Ends the connection; the machine goes on. */
  close(): void {
    this.#qmp?.then((qmp) => qmp.close()).catch(() => {});
  }

  async graph(disk: string): Promise<{ readonly kind: GraphKind; readonly text: string }> {
    const graph = await this.#execute<BlockGraph>('x-debug-query-block-graph');
    return { kind: graphKind(graph, disk), text: graphText(graph, disk) };
  }

  async #has(node: string): Promise<boolean> {
    const nodes = await this.#execute<{ 'node-name': string }[]>('query-named-block-nodes', { flat: true });
    return nodes.some((present) => present['node-name'] === node);
  }

  async #add(options: object): Promise<void> {
    const { 'node-name': name } = options as { 'node-name': string };
    if (!(await this.#has(name))) await this.#execute('blockdev-add', options);
  }

  async #remove(node: string): Promise<void> {
    if (await this.#has(node)) await this.#execute('blockdev-del', { 'node-name': node });
  }

  async #point(disk: string, below: string): Promise<void> {
    await this.#execute('blockdev-reopen', { options: [topNode(disk, below)] });
  }

  /** Gives the guest the bare disk. */
  async openPlain(disk: string): Promise<void> {
    const names = nodeNames(disk);
    if ((await this.graph(disk)).kind === 'Plain') return;
    await this.#add(fileNode(disk, diskPath(this.#machine.spec, disk)));
    await this.#point(disk, names.file);
    await this.#remove(names.empty);
  }

  /** Takes the disk away from whatever may run, as firmware finds it at a boot from the network. */
  async hide(disk: string): Promise<void> {
    if ((await this.graph(disk)).kind === 'Empty') return;
    await this.#add(emptyNode(this.#disk(disk)));
    await this.#point(disk, nodeNames(disk).empty);
  }

  /** Puts the nodes of the mediator beside the disk, which the guest does not see yet. A map must exist. */
  async prepare(disk: string, place: ExportPlace | undefined): Promise<void> {
    const { spec } = this.#machine;
    const names = nodeNames(disk);
    await this.#add(fileNode(disk, diskPath(spec, disk)));
    await this.#add({ driver: 'file', 'node-name': names.map, filename: mapPath(spec, disk) });
    const isComplete = readNote(spec, disk)?.complete === true;
    if (!isComplete) {
      if (place === undefined) throw new Error('the image is not exported to this machine');
      await this.#add({
        driver: 'nbd',
        'node-name': names.net,
        server: { type: 'unix', path: place.socketPath },
        export: place.name,
        'reconnect-delay': reconnectSeconds,
        'open-timeout': 10,
        'read-only': true,
      });
      await this.#add({ driver: 'raw', 'node-name': names.image, file: names.net, 'read-only': true });
    }
    await this.#add({
      driver: 'qcow2',
      'node-name': names.local,
      file: names.map,
      'data-file': names.file,
      backing: isComplete ? null : names.image,
      // A discarded block would read as zeros through the map and as its old content without it.
      discard: 'ignore',
    });
  }

  /** Writes through the map, as the guest's own writes go, before the guest has the disk; flushed when it resolves. */
  async write(disk: string, offset: number, bytes: Buffer): Promise<void> {
    const path = join(this.#machine.spec.runDirectory, 'write');
    writeFileSync(path, bytes, { mode: 0o600 });
    try {
      await this.#io(disk, `write -s ${path} ${offset} ${bytes.length}`);
      await this.#io(disk, 'flush');
    } finally {
      rmSync(path, { force: true });
    }
  }

  /** @throws with what QEMU said */
  async #io(disk: string, command: string): Promise<void> {
    const said = await this.#execute<string>('human-monitor-command', {
      'command-line': `qemu-io ${nodeNames(disk).local} "${command}"`,
    });
    if (/error|fail|invalid|cannot/i.test(said)) throw new Error(`${disk}: ${said.trim()}`);
  }

  /** From now on the guest's disk is the mediated one. */
  async expose(disk: string): Promise<void> {
    const names = nodeNames(disk);
    await this.#point(disk, names.local);
    await this.#remove(names.empty);
  }

  /** Starts the copy, or finds it running. @param bytesPerSecond 0: no bound */
  async startCopy(disk: string, bytesPerSecond: number): Promise<void> {
    if (readNote(this.#machine.spec, disk)?.complete === true) return;
    const job = await this.#job(disk);
    // Paused by the agent that was here before.
    if (job?.status === 'paused') await this.pauseCopy(disk, false);
    if (job !== undefined) return;
    await this.#execute('block-stream', {
      'job-id': jobOf(disk),
      device: nodeNames(disk).local,
      speed: bytesPerSecond,
      'on-error': 'stop',
      // The image is let go of only after a flush, see `#finish`.
      'auto-finalize': false,
      'auto-dismiss': false,
    });
  }

  async #job(disk: string): Promise<JobInfo | undefined> {
    const jobs = await this.#execute<JobInfo[]>('query-jobs');
    return jobs.find(({ id }) => id === jobOf(disk));
  }

  async #ioStatus(disk: string): Promise<string> {
    const jobs = await this.#execute<{ device: string; 'io-status': string }[]>('query-block-jobs');
    return jobs.find(({ device }) => device === jobOf(disk))?.['io-status'] ?? 'ok';
  }

  /** Looks at the copy, and ends it when its last block is there. @throws CopyFailed */
  async copyState(disk: string): Promise<CopyState> {
    const note = readNote(this.#machine.spec, disk);
    if (note === undefined) throw new Error(`no map of ${disk}`);
    const totalBytes = note.imageBytes;
    if (note.complete) {
      await this.#letGo(disk);
      return { totalBytes, localBytes: totalBytes, complete: true };
    }
    const job = await this.#job(disk);
    if (job === undefined) return { totalBytes, localBytes: 0, complete: false };
    if (job.error !== undefined) {
      await this.#execute('job-dismiss', { id: job.id }).catch(() => {});
      throw new CopyFailed(`the copy to ${disk} ended: ${job.error}`);
    }
    if (job.status === 'paused' && (await this.#ioStatus(disk)) !== 'ok') {
      throw new CopyFailed(`the copy to ${disk} stopped: the disk does not take what is written`);
    }
    if (job.status !== 'pending')
      return { totalBytes, localBytes: Math.min(job['current-progress'], totalBytes), complete: false };
    await this.#finish(disk);
    return { totalBytes, localBytes: totalBytes, complete: true };
  }

  /** Every block is local. What the map still holds in memory is written first: only then is the image not needed any more. */
  async #finish(disk: string): Promise<void> {
    await this.#io(disk, 'flush');
    completeMap(this.#machine.spec, disk);
    await this.#letGo(disk);
  }

  async #letGo(disk: string): Promise<void> {
    const job = await this.#job(disk);
    if (job?.status === 'pending') await this.#execute('job-finalize', { id: job.id });
    if (job !== undefined) {
      await this.#concluded(disk);
      await this.#execute('job-dismiss', { id: job.id });
    }
    const names = nodeNames(disk);
    await this.#remove(names.image);
    await this.#remove(names.net);
  }

  /** Finalizing takes no time; a node that drains may. */
  async #concluded(disk: string): Promise<void> {
    for (let look = 0; look < 1000; look++) {
      const job = await this.#job(disk);
      if (job === undefined || job.status === 'concluded') return;
    }
    throw new Error(`the copy to ${disk} does not conclude`);
  }

  /** @param bytesPerSecond 0: no bound */
  async setRate(disk: string, bytesPerSecond: number): Promise<void> {
    await this.#execute('block-job-set-speed', { device: jobOf(disk), speed: bytesPerSecond });
  }

  async pauseCopy(disk: string, isPaused: boolean): Promise<void> {
    await this.#execute(isPaused ? 'job-pause' : 'job-resume', { id: jobOf(disk) });
  }

  async traffic(disk: string): Promise<GuestTraffic> {
    const all = await this.#execute<{ qdev?: string; stats: Record<string, number> }[]>('query-blockstats');
    const stats = all.find(({ qdev }) => qdev?.includes(`/${disk}/`) || qdev?.endsWith(`/${disk}`))?.stats ?? {};
    const sum = (...names: string[]): number => names.reduce((total, name) => total + (stats[name] ?? 0), 0);
    return {
      operations: sum('rd_operations', 'wr_operations'),
      waitedMs: sum('rd_total_time_ns', 'wr_total_time_ns', 'flush_total_time_ns') / 1e6,
    };
  }

  /**
   * Leaves from under the running guest. The disk must be complete.
   * @throws when the graph that is read back is not that of a plain disk
   */
  async leave(disk: string): Promise<void> {
    const names = nodeNames(disk);
    if ((await this.graph(disk)).kind !== 'Plain') {
      if (readNote(this.#machine.spec, disk)?.complete !== true) throw new Error(`not every block of ${disk} is local`);
      await this.#letGo(disk);
      await this.#point(disk, names.file);
      await this.#remove(names.local);
      await this.#remove(names.map);
    }
    await this.setControlLink(false);
    const { kind, text } = await this.graph(disk);
    if (kind !== 'Plain') throw new Error(`the disk is not plain: ${text}`);
  }

  /** Plugs the control port's cable, or pulls it. */
  async setControlLink(isUp: boolean): Promise<void> {
    await this.#execute('set_link', { name: portName('Control'), up: isUp });
  }
}

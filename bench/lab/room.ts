/**
 * Machines of the lab for the benchmark: the rack's own drivers without an agent above them, so that only the drivers are measured.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Change } from '../../agent/drivers/port.ts';
import type { BootedNode } from '../../agent/drivers/qemu/booted.ts';
import { Console } from '../../agent/drivers/qemu/console.ts';
import type { LabImage } from '../../agent/drivers/qemu/images/build.ts';
import type { QemuMachine } from '../../agent/drivers/qemu/machine.ts';
import { dropMap } from '../../agent/drivers/qemu/map.ts';
import { type OpenedLab, openLab } from '../../agent/drivers/qemu/open.ts';
import type { MachineShape } from '../../agent/drivers/qemu/shape.ts';
import type { Environment } from '../../controller/api/protocol.generated.ts';
import { systemClock as clock, sleep } from '../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../controller/runtime/random.ts';

export type Yield = Environment['install']['yield'];

const mebi = 2 ** 20;
const patienceMs = 600_000;

/** Looks every few milliseconds. @throws with what was waited for */
export async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const end = clock.monotonic() + patienceMs;
  while (!(await condition())) {
    if (clock.monotonic() > end) throw new Error(`not within ${patienceMs / 1000} s: ${what}`);
    await sleep(clock, 2);
  }
}

export interface RoomOptions {
  readonly nodes: number;
  readonly diskBytes: number;
  readonly imageDirectory: string;
  readonly rateBytes?: number;
}

export class Room {
  readonly directory = mkdtempSync(join(tmpdir(), 'lab-bench-'));
  readonly nodes: readonly string[];
  readonly #options: RoomOptions;
  #lab: OpenedLab | undefined;
  #epoch = 0;
  #token = 0;

  constructor(options: RoomOptions) {
    this.#options = options;
    this.nodes = Array.from({ length: options.nodes }, (_, index) => `b${index}`);
  }

  async open(): Promise<void> {
    const { diskBytes, imageDirectory, rateBytes } = this.#options;
    const shape: MachineShape = { memoryMiB: 128, disks: [{ name: 'sda', sizeBytes: diskBytes, media: 'SSD' }] };
    this.#lab = await openLab(
      this.nodes,
      {
        trustedImage: { kernel: '', initrd: '' },
        originDirectories: [imageDirectory],
        shape,
        cacheMemoryBytes: 256 * mebi,
        ...(rateBytes === undefined ? {} : { rateBytes }),
      },
      {
        directory: join(this.directory, 'rack'),
        clock,
        random,
        onError: (error) => process.stderr.write(`${error}\n`),
      },
    );
  }

  get lab(): OpenedLab {
    if (this.#lab === undefined) throw new Error('the room is not open');
    return this.#lab;
  }

  machine(node: string): QemuMachine {
    return this.lab.rack.machines.get(node) as QemuMachine;
  }

  booted(node: string): BootedNode {
    return this.lab.rack.booted.get(node) as BootedNode;
  }

  async #done(what: string, ask: (token: string) => void, change: () => Change | undefined): Promise<void> {
    const token = `bench-${++this.#token}`;
    ask(token);
    await until(what, () => change()?.token === token && change()?.status !== 'Pending');
    if (change()?.status === 'Error') throw new Error(`${what}: ${change()?.error}`);
  }

  /** Everything that precedes a reimage's power-on; what is local of an earlier one is gone. */
  async prepare(node: string, image: LabImage, yielding: Yield, maxRateBytes?: number): Promise<void> {
    const { power, fabric, images, vmm } = this.lab.drivers;
    const epoch = ++this.#epoch;
    const environment: Environment = {
      revision: image.sha256.slice(0, 12),
      os: { family: 'Linux', architecture: 'x86_64' },
      image: { url: `file://${image.path}`, format: 'Raw', sizeBytes: image.sizeBytes, sha256: image.sha256 },
      boot: { firmware: 'Bios', kernelArguments: [] },
      install: { yield: yielding, disk: { media: 'Any', minSizeBytes: 0 } },
      vmm: { dataPorts: 'Passthrough' },
    };
    await this.off(node);
    await this.#done(
      'image',
      (token) => images.open(node, environment.image, token),
      () => images.read(node).exportChange,
    );
    vmm.plan(node, {
      ...{ epoch, environment, hostname: node, sshKeys: [], disk: 'sda', start: 'Fresh' },
      ...(maxRateBytes === undefined ? {} : { maxRateBytes }),
    });
    await this.#done(
      'boot order',
      (token) => power.setOrder(node, 'Network', token),
      () => power.read(node).orderChange,
    );
    images.serve(node, 'Vmm', 'serve');
    await this.#done(
      'control port',
      (token) => fabric.set(node, 'Control', 'provisioning', undefined, token),
      () => fabric.read(node).controlChange,
    );
  }

  async on(node: string): Promise<void> {
    await this.machine(node).on();
  }

  async off(node: string): Promise<void> {
    await this.machine(node).off();
  }

  /** As a machine of which nothing is mediated: its own disk alone. */
  bootFromDisk(node: string): void {
    this.machine(node).bootOverride = { target: 'Hdd', enabled: 'Continuous' };
    dropMap(this.machine(node).spec, 'sda');
  }

  async installed(node: string): Promise<void> {
    await until(`${node} is installed`, () => this.booted(node).read().copy.flushed);
  }

  /** The console, from before the guest's first word. */
  console(node: string): Promise<Console> {
    return Console.connect(this.machine(node).socketPath('serial'), clock);
  }

  async close(): Promise<void> {
    await this.#lab?.close();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Until the guest's marker, in seconds. */
export async function untilUp(console: Console, from: number): Promise<number> {
  await console.waitFor(/LAB-UP env=/, patienceMs);
  return (clock.monotonic() - from) / 1000;
}

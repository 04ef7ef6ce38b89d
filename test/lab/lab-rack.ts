/**
 * A rack of QEMU machines and its agent in this process, on the real clock, with the instructions that tests give it.
 *
 * Invariant: `close` ends every process and namespace of it, also after a failed test.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TrustedSide } from '../../agent/drivers/boot/trusted-boot.ts';
import type { Fabric, Power } from '../../agent/drivers/port.ts';
import { type LabBmcs, startLabBmcs } from '../../agent/drivers/qemu/bmcs.ts';
import type { BootedNode } from '../../agent/drivers/qemu/booted.ts';
import { directPower } from '../../agent/drivers/qemu/direct-power.ts';
import type { QemuMachine } from '../../agent/drivers/qemu/machine.ts';
import { Qmp } from '../../agent/drivers/qemu/qmp.ts';
import type { LabExporter } from '../../agent/drivers/qemu/rack.ts';
import { openQemuRack, type QemuRack, type QemuRackOptions } from '../../agent/drivers/qemu/rack.ts';
import { diskSerial } from '../../agent/drivers/qemu/shape.ts';
import { MemoryLog } from '../../agent/log.ts';
import { freshRow, type Row } from '../../agent/row.ts';
import type { Environment, NodeObservation } from '../../controller/api/protocol.generated.ts';
import { systemClock as clock } from '../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../controller/runtime/random.ts';
import type { TestStep } from '../support/agent-room.ts';
import { until } from '../support/until.ts';
import { type Given, RackAgent } from './rack-agent.ts';

export { until };

/** nbdkit, an NBD server of others, in place of the rack's own: can be killed and started again. */
export class NbdkitExporter implements LabExporter {
  readonly socketPath: string;
  readonly #directory: string;
  #child: ReturnType<typeof spawn> | undefined;

  constructor(directory: string) {
    mkdirSync(directory, { recursive: true });
    this.#directory = directory;
    this.socketPath = join(directory, '..', 'nbd.sock');
  }

  /** @param rateBytes a second, for all clients */
  start(rateBytes?: number): void {
    rmSync(this.socketPath, { force: true });
    const rate = rateBytes === undefined ? [] : [`rate=${rateBytes * 8}`, 'burstiness=0.05'];
    const filter = rateBytes === undefined ? [] : ['--filter=rate'];
    const args = ['-f', '-r', '-U', this.socketPath, ...filter, 'file', `dir=${this.#directory}`, ...rate];
    this.#child = spawn('nbdkit', args, { stdio: 'ignore' });
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await gone;
  }

  async open(name: string, image: Environment['image']): Promise<{ digest: string; sizeBytes: number }> {
    rmSync(join(this.#directory, name), { force: true });
    symlinkSync(new URL(image.url).pathname, join(this.#directory, name));
    return { digest: image.sha256, sizeBytes: image.sizeBytes };
  }

  async read(name: string, offset: number, length: number): Promise<Buffer> {
    const file = await open(join(this.#directory, name));
    try {
      return (await file.read(Buffer.alloc(length), 0, length, offset)).buffer;
    } finally {
      await file.close();
    }
  }

  async close(name: string): Promise<void> {
    rmSync(join(this.#directory, name), { force: true });
  }

  servedBytes(): number {
    return 0;
  }
}

/** A fabric that says what it was told, for tests of what lies above it. */
function obedientFabric(domains: Map<string, string>, changed: (node: string) => void): Fabric {
  const tokens = new Map<string, string>();
  return {
    read(node) {
      const port = (name: string, role: 'Data' | 'Control') =>
        ({ name, role, kind: 'Ethernet', state: 'Ready', domain: domains.get(`${node} ${role}`) ?? '' }) as const;
      const [data, control] = [tokens.get(`${node} Data`), tokens.get(`${node} Control`)];
      return {
        ports: [{ ...port('data0', 'Data'), egress: 'None' }, port('ctl0', 'Control')],
        ...(data === undefined ? {} : { dataChange: { token: data, status: 'Done' } }),
        ...(control === undefined ? {} : { controlChange: { token: control, status: 'Done' } }),
      };
    },
    set(node, role, domain, _egress, token) {
      domains.set(`${node} ${role}`, domain);
      tokens.set(`${node} ${role}`, token);
      clock.setTimer(0, () => changed(node));
    },
    refresh: () => {},
  };
}

const nobodyTrusted: TrustedSide = {
  begin: () => ({ bootId: '', script: '' }),
  end: () => {},
  read: () => ({ up: false, nonce: '', wiped: [], checked: false }),
  attest: () => Promise.reject(new Error('no trusted image')),
  wipe: () => Promise.reject(new Error('no trusted image')),
  check: () => Promise.reject(new Error('no trusted image')),
  handle: async () => false,
};

/** What an agent's log holds of nodes that were reclaimed once, under epoch 1. */
export const certifiedRows = (nodes: readonly string[]): Row[] =>
  nodes.map((node) => {
    const disks = ['sda', 'sdb'].map((disk) => diskSerial(node, disk));
    const certificate = {
      epoch: 1,
      nonce: 'n'.repeat(16),
      at: '2026-01-01T00:00:00Z',
      erase: 'Quick',
      disks,
    } as const;
    return { ...freshRow(node), epoch: 1, seenEpoch: 1, kind: 'Reclaim', certificate };
  });

export interface LabRackOptions {
  readonly nodes?: readonly string[];
  readonly exporter?: (directory: string) => LabExporter;
  readonly rack?: Partial<QemuRackOptions>;
  /** Power by Redfish, through a BMC for each machine. */
  readonly hasBmcs?: boolean;
}

export class LabRack {
  readonly directory = mkdtempSync(join(tmpdir(), 'lab-'));
  readonly nodes: readonly string[];
  readonly log = new MemoryLog('store-1');
  readonly errors: unknown[] = [];
  readonly exporter: LabExporter;
  readonly #options: LabRackOptions;
  bmcs: LabBmcs['bmcs'] = new Map();
  #rack: QemuRack | undefined;
  #agent: RackAgent | undefined;
  /** Of the stand-in for a fabric: switches remember. */
  readonly #domains = new Map<string, string>();
  readonly #given: Given = new Map();

  constructor(options: LabRackOptions = {}) {
    this.#options = options;
    this.nodes = options.nodes ?? ['n0'];
    this.exporter = (options.exporter ?? ((directory) => new NbdkitExporter(directory)))(
      join(this.directory, 'exports'),
    );
    for (const node of this.nodes)
      this.#domains.set(`${node} Data`, 'quarantine').set(`${node} Control`, 'provisioning');
    this.log.write(certifiedRows(this.nodes), 0);
  }

  async open(): Promise<void> {
    const onError = (error: unknown): void => void this.errors.push(error);
    this.#rack = await openQemuRack({
      ...{ nodes: this.nodes, directory: join(this.directory, 'rack'), runDirectory: tmpdir(), clock, random, onError },
      exporter: this.exporter,
      trustedImage: { kernel: '', initrd: '' },
      trusted: () => nobodyTrusted,
      power: (machines, changed) => this.#power(machines, changed, onError),
      fabric: (_rack, changed) => obedientFabric(this.#domains, changed),
      ...this.#options.rack,
    });
    const { drivers } = this.#rack;
    const { nodes, log } = this;
    this.#agent = new RackAgent({ nodes, drivers, log, onError }, this.#given);
  }

  async #power(
    machines: ReadonlyMap<string, QemuMachine>,
    changed: (node: string) => void,
    onError: (error: unknown) => void,
  ): Promise<Power & { close?(): Promise<void> }> {
    if (this.#options.hasBmcs !== true) return directPower(machines, clock, changed);
    const bmcs = await startLabBmcs(machines, { directory: this.directory, clock, random, changed, onError });
    this.bmcs = bmcs.bmcs;
    return { ...bmcs.power, close: () => bmcs.close() };
  }

  /** As when its process is killed: the machines go on. */
  async killAgent(): Promise<void> {
    this.#agent?.close();
    await this.#rack?.close();
  }

  async close(): Promise<void> {
    this.#agent?.close();
    await this.#rack?.remove();
    if (this.exporter instanceof NbdkitExporter) await this.exporter.kill();
    rmSync(this.directory, { recursive: true, force: true });
  }

  get rack(): QemuRack {
    if (this.#rack === undefined) throw new Error('the rack is not open');
    return this.#rack;
  }

  machine(node = 'n0'): QemuMachine {
    return this.rack.machines.get(node) as QemuMachine;
  }

  booted(node = 'n0'): BootedNode {
    return this.rack.booted.get(node) as BootedNode;
  }

  serial(node = 'n0'): string {
    try {
      return readFileSync(this.machine(node).serialLogPath, 'latin1');
    } catch {
      return '';
    }
  }

  /** Sends a byte to the guest's serial port. @param key as sector-image.ts says */
  async pressKey(key: 'r' | 'd', node = 'n0'): Promise<void> {
    const socket = connect(this.machine(node).socketPath('serial'));
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      socket.once('connect', () => socket.end(key, () => resolve()));
    });
  }

  /** Has the guest reset the machine, and waits for QEMU to end. */
  async resetByGuest(node = 'n0'): Promise<void> {
    const socket = connect(this.machine(node).socketPath('serial'));
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      socket.once('close', () => resolve());
      socket.once('connect', () => socket.write('r'));
      socket.resume();
    });
  }

  disk(name = 'sda', node = 'n0'): Buffer {
    return readFileSync(join(this.machine(node).spec.directory, `${name}.raw`));
  }

  get agent(): RackAgent {
    if (this.#agent === undefined) throw new Error('the rack is not open');
    return this.#agent;
  }

  seen(node = 'n0'): NodeObservation {
    return this.agent.seen(node);
  }

  give(step: TestStep, epoch: number, node = 'n0'): string {
    return this.agent.give(step, epoch, node);
  }

  /** Gives the step and waits until it is done. @throws when it fails */
  run(step: TestStep, epoch: number, node = 'n0', limitMs = 60_000): Promise<void> {
    return this.agent.run(step, epoch, node, limitMs);
  }
}

/** What a tenant asks for, of an image in a file. */
export function environmentOf(
  image: { readonly path: string; readonly sizeBytes: number; readonly sha256: string },
  install: Partial<Environment['install']> = {},
): Environment {
  return {
    revision: image.sha256.slice(0, 12),
    os: { family: 'Linux', architecture: 'x86_64' },
    image: { url: `file://${image.path}`, format: 'Raw', sizeBytes: image.sizeBytes, sha256: image.sha256 },
    boot: { firmware: 'Bios', kernelArguments: [] },
    install: { yield: 'None', disk: { media: 'Any', minSizeBytes: 0 }, ...install },
    vmm: { dataPorts: 'Passthrough' },
  };
}

/** Writes as the guest's own disk would, flushed. */
export async function writeAsGuest(lab: LabRack, pattern: number, offset: number, length: number): Promise<void> {
  const qmp = await Qmp.connect({ path: lab.machine().socketPath('free'), clock });
  const device = '/machine/peripheral/sda/virtio-backend';
  for (const command of [`write -P ${pattern} ${offset} ${length}`, 'flush']) {
    const said = await qmp.execute<string>('human-monitor-command', {
      'command-line': `qemu-io -d ${device} "${command}"`,
    });
    assert.doesNotMatch(said, /rror|fail/);
  }
  qmp.close();
}

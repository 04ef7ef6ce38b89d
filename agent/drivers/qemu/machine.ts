/**
 * A machine that QEMU plays: its mains switch, its firmware's boot order, and its reset line; what a BMC stands in front of.
 *
 * Invariants:
 * 1. Power on is a new QEMU process, power off is its end. The process outlives the agent; a new agent finds it by its pid file.
 * 2. A boot from the network begins with empty disks, unless the machine is to keep them as a real one does: nothing of a local disk can run
 *    before the boot server has put it there.
 * 3. A reset is a fresh process too, with the data of the old one written out. While no agent runs, QEMU resets in place.
 * 4. `bootId` names one start of the machine; whatever is known of what it booted belongs to that start alone.
 */
import { closeSync, mkdirSync, openSync, readFileSync, readSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Clock, sleep } from '../../../controller/runtime/clock.ts';
import type { Random } from '../../../controller/runtime/random.ts';
import { readJsonFile, writeJsonFile } from '../boot/files.ts';
import { Turns } from '../turns.ts';
import { type BmcMachine, type BootOverride, isFromNetwork, noOverride } from './bmc/machine.ts';
import { run } from './command.ts';
import { emptyNode, fileNode, nodeNames, topNode } from './graph.ts';
import { tapName } from './network.ts';
import { Qmp } from './qmp.ts';
import {
  type DiskShape,
  diskPath,
  diskSerial,
  type MachineSpec,
  macAddress,
  portName,
  roles,
  systemUuid,
} from './shape.ts';

interface Kept {
  readonly override: BootOverride;
  readonly bootId: string;
  readonly bootedFrom: 'Network' | 'Disk';
}

export interface MachineOptions {
  readonly spec: MachineSpec;
  readonly clock: Clock;
  readonly random: Random;
  /** More of QEMU's arguments for the start that begins now, such as another firmware or a TPM; what they name is ready then. */
  readonly moreArguments?: () => Promise<readonly string[]>;
  /** A boot from the network finds the disks as they are. */
  readonly keepsDisks?: boolean;
  readonly onError: (error: unknown) => void;
}

/** Started: a new `bootId`. Stopped: power is gone. */
export type MachineListener = (what: 'Started' | 'Stopped') => void;

const bootSignature = 0xaa55;
const exitPatienceMs = 10_000;
/** Writing out may wait for an image server that is gone: power is cut then. */
const farewellMs = 3_000;
const pollMs = 10;

export class QemuMachine implements BmcMachine {
  readonly spec: MachineSpec;
  readonly #options: MachineOptions;
  readonly #listeners = new Set<MachineListener>();
  #kept: Kept;
  #pid: number | undefined;
  #monitor: Qmp | undefined;
  #isBusy = false;
  /** The process that said that its guest resets it. */
  #resets: number | undefined;
  readonly #turns = new Turns();
  #isClosed = false;

  constructor(options: MachineOptions) {
    this.spec = options.spec;
    this.#options = options;
    mkdirSync(this.spec.directory, { recursive: true });
    mkdirSync(this.spec.runDirectory, { recursive: true, mode: 0o700 });
    this.#kept = readJsonFile<Kept>(this.#keptPath) ?? { override: noOverride, bootId: '', bootedFrom: 'Disk' };
    for (const disk of this.spec.shape.disks) makeDisk(diskPath(this.spec, disk.name), disk);
  }

  get #keptPath(): string {
    return join(this.spec.directory, 'machine.json');
  }

  get #pidPath(): string {
    return join(this.spec.runDirectory, 'pid');
  }

  /** Of a monitor: "bmc" is this class's, "vmm" the mediator's, "free" is for people and tests. */
  socketPath(name: 'bmc' | 'vmm' | 'free' | 'serial'): string {
    return join(this.spec.runDirectory, name);
  }

  get bootId(): string {
    return this.#kept.bootId;
  }

  /** What the newest start booted from. */
  get bootedFrom(): 'Network' | 'Disk' {
    return this.#kept.bootedFrom;
  }

  get serialLogPath(): string {
    return join(this.spec.directory, 'serial.log');
  }

  onChange(listener: MachineListener): void {
    this.#listeners.add(listener);
  }

  power(): 'On' | 'Off' {
    return this.#pid === undefined && !this.#isBusy ? 'Off' : 'On';
  }

  get bootOverride(): BootOverride {
    return this.#kept.override;
  }

  set bootOverride(override: BootOverride) {
    this.#keep({ override });
  }

  #keep(changed: Partial<Kept>): void {
    this.#kept = { ...this.#kept, ...changed };
    writeJsonFile(this.#keptPath, this.#kept);
  }

  /** Finds the process that an earlier agent started. */
  attach(): Promise<void> {
    return this.#turns.take(async () => {
      const pid = livePid(this.#pidPath, this.spec.runDirectory);
      if (pid === undefined) return;
      this.#pid = pid;
      await this.#openMonitor();
    });
  }

  on(): Promise<void> {
    return this.#turns.take(async () => {
      if (this.#pid === undefined) await this.#start();
    });
  }

  /** Power is cut: what was not written out is lost. */
  off(): Promise<void> {
    return this.#turns.take(() => this.#stop(false));
  }

  /** Presses the ACPI button. */
  shutdown(): Promise<void> {
    return this.#turns.take(async () => {
      if (this.#pid !== undefined) await this.#monitor?.execute('system_powerdown');
    });
  }

  reset(): Promise<void> {
    return this.#turns.take(() => this.#restart());
  }

  /** Leaves the machine as it is. */
  close(): void {
    this.#isClosed = true;
    this.#monitor?.close();
    this.#listeners.clear();
  }

  async #restart(): Promise<void> {
    if (this.#pid === undefined) return;
    this.#isBusy = true;
    try {
      await this.#stop(true);
      await this.#start();
    } finally {
      this.#isBusy = false;
    }
  }

  async #start(): Promise<void> {
    const { override } = this.#kept;
    const bootedFrom = isFromNetwork(override) ? 'Network' : 'Disk';
    this.#keep({
      bootId: this.#options.random.uuid(),
      bootedFrom,
      override: override.enabled === 'Once' ? noOverride : override,
    });
    rmSync(this.#pidPath, { force: true });
    const more = (await this.#options.moreArguments?.()) ?? [];
    // The socket of a process that was killed stays; QEMU replaces it by itself.
    await run('ip', [
      ...['netns', 'exec', this.spec.netns, 'nice', '-n', '5', 'qemu-system-x86_64'],
      ...this.#arguments(bootedFrom),
      ...more,
    ]);
    this.#pid = livePid(this.#pidPath, this.spec.runDirectory);
    if (this.#pid === undefined) throw new Error(`${this.spec.name}: QEMU ended at once`);
    await this.#openMonitor();
    this.#tell('Started');
  }

  #arguments(bootedFrom: 'Network' | 'Disk'): string[] {
    const { name, index, shape } = this.spec;
    const chardev = (id: string, more = ''): string[] => [
      '-chardev',
      `socket,id=${id},path=${this.socketPath(id as 'bmc')},server=on,wait=off${more}`,
    ];
    const args = [
      ...['-name', name, '-uuid', systemUuid(name), '-accel', 'tcg', '-machine', 'q35,graphics=off'],
      // x86-64-v2, which today's distributions ask for, and a source of random numbers: with each further feature a guest starts slower.
      ...['-cpu', 'Nehalem,+rdrand'],
      ...['-m', String(shape.memoryMiB), '-display', 'none', '-nodefaults', '-daemonize', '-pidfile', this.#pidPath],
      // Nothing but what has a place in the order is booted; with nothing to boot the firmware begins again.
      ...['-boot', 'strict=on,reboot-timeout=5000'],
      ...chardev('serial', `,logfile=${this.serialLogPath},logappend=on`),
      ...['-serial', 'chardev:serial'],
    ];
    for (const monitor of ['bmc', 'vmm', 'free']) {
      args.push(...chardev(monitor), '-mon', `chardev=${monitor},mode=control`);
    }
    for (const role of roles) {
      const port = portName(role);
      const boot = role === 'Data' ? ',romfile=' : bootedFrom === 'Network' ? ',bootindex=1' : '';
      args.push('-netdev', `tap,id=${port}-tap,ifname=${tapName(index, role)},script=no,downscript=no`);
      args.push(
        '-device',
        `virtio-net-pci,id=${port},netdev=${port}-tap,mac=${macAddress(index, role)},addr=${role === 'Data' ? '0x2' : '0x3'}${boot}`,
      );
    }
    const order = bootedFrom === 'Disk' ? this.#bootable() : shape.disks;
    const isEmpty = bootedFrom === 'Network' && this.#options.keepsDisks !== true;
    for (const [place, disk] of shape.disks.entries()) {
      const below = isEmpty ? emptyNode(disk) : fileNode(disk.name, diskPath(this.spec, disk.name));
      const names = nodeNames(disk.name);
      args.push('-blockdev', JSON.stringify(below));
      args.push(
        '-blockdev',
        JSON.stringify(topNode(disk.name, isEmpty ? names.empty : names.file)),
        '-device',
        `virtio-blk-pci,id=${disk.name},drive=${names.top},serial=${diskSerial(name, disk.name)},discard=on,write-zeroes=off,` +
          `addr=0x${(4 + place).toString(16)},bootindex=${2 + order.indexOf(disk)}`,
      );
    }
    return args;
  }

  /** As firmware does it: disks with a boot sector first. */
  #bootable(): readonly DiskShape[] {
    const isBootable = (disk: DiskShape): boolean => {
      const sector = Buffer.alloc(512);
      const file = openSync(diskPath(this.spec, disk.name), 'r');
      try {
        readSync(file, sector);
      } finally {
        closeSync(file);
      }
      return sector.readUInt16LE(510) === bootSignature;
    };
    return this.spec.shape.disks.toSorted((a, b) => Number(isBootable(b)) - Number(isBootable(a)));
  }

  async #openMonitor(): Promise<void> {
    const pid = this.#pid;
    this.#monitor = await Qmp.connect({
      path: this.socketPath('bmc'),
      clock: this.#options.clock,
      onEvent: ({ event, data }) => {
        if (event !== 'RESET' || data.guest !== true || this.#resets === pid) return;
        // QEMU may say it more than once.
        this.#resets = pid;
        this.#turns
          .take(async () => {
            if (this.#pid === pid) await this.#restart();
          })
          .catch(this.#options.onError);
      },
      onClose: () => {
        if (this.#isClosed || this.#pid !== pid || this.#isBusy) return;
        this.#turns
          .take(async () => {
            if (this.#pid === pid && pid !== undefined) await this.#ended(pid);
          })
          .catch(this.#options.onError);
      },
    });
  }

  async #stop(isOrderly: boolean): Promise<void> {
    const pid = this.#pid;
    if (pid === undefined) return;
    if (isOrderly) await this.#monitor?.execute('quit', {}, farewellMs).catch(() => {});
    const until = this.#options.clock.monotonic() + (isOrderly ? farewellMs : 0);
    while (isLive(pid) && this.#options.clock.monotonic() < until) await sleep(this.#options.clock, pollMs);
    if (isLive(pid)) process.kill(pid, 'SIGKILL');
    await this.#ended(pid);
  }

  async #ended(pid: number): Promise<void> {
    const until = this.#options.clock.monotonic() + exitPatienceMs;
    while (isLive(pid)) {
      if (this.#options.clock.monotonic() > until) throw new Error(`${this.spec.name}: QEMU ${pid} does not end`);
      await sleep(this.#options.clock, pollMs);
    }
    this.#pid = undefined;
    this.#monitor?.close();
    this.#monitor = undefined;
    this.#tell('Stopped');
  }

  #tell(what: 'Started' | 'Stopped'): void {
    for (const listener of this.#listeners) listener(what);
  }
}

/** A medium of unknown content stays as it is. */
function makeDisk(path: string, { sizeBytes }: DiskShape): void {
  writeFileSync(path, '', { flag: 'a', mode: 0o600 });
  truncateSync(path, sizeBytes);
}

/** A process that ended and that nobody waited for has no command line any more. */
function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}

const isLive = (pid: number): boolean => commandLine(pid) !== '';

/** The process of the pid file, if it is the machine that uses this directory and not one that got the number since. */
function livePid(pidPath: string, runDirectory: string): number | undefined {
  let pid: number;
  try {
    pid = Number(readFileSync(pidPath, 'utf8'));
  } catch {
    return undefined;
  }
  return commandLine(pid).includes(runDirectory) ? pid : undefined;
}

/**
 * The reference VMM of docs/vmm-channel.md on a machine that QEMU plays: it is loaded by the boot server's script, takes its boot record from
 * behind the file that it was loaded from, speaks with the agent from the control port's address, and lets QEMU's block layer do the storage.
 *
 * Invariant: the guest has its disk only once the control port's cable is pulled, and a map was begun.
 */
import { request } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { QemuMachine } from '../../agent/drivers/qemu/machine.ts';
import { beginMap } from '../../agent/drivers/qemu/map.ts';
import { type CopyState, Mediator } from '../../agent/drivers/qemu/mediator.ts';
import { diskSerial } from '../../agent/drivers/qemu/shape.ts';
import { type BootRecord, decodeBootRecord } from '../../agent/drivers/vmm-channel/boot-record.ts';
import type { Plan } from '../../agent/drivers/vmm-channel/messages.ts';
import { type VmmMachine, VmmPeer } from '../../agent/drivers/vmm-channel/peer.ts';
import { systemClock as clock, sleep } from '../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../controller/runtime/random.ts';

const recordBytes = 128;

/** What iPXE loads as `bitvisor.elf`: it waits for the disk that the VMM gives the machine. */
export const loadedAsVmm =
  '#!ipxe\necho The hypervisor has the machine\n:again\nsanboot --no-describe --drive 0x80 || sleep 1\ngoto again\n';

export interface LabVmmOptions {
  readonly machine: QemuMachine;
  /** Of the sockets that lead to the agent by its ports (support/control-port.ts). */
  readonly sockets: string;
  readonly onLeft: () => void;
}

export class LabVmm implements VmmMachine {
  readonly plans: Plan[] = [];
  readonly mediator: Mediator;
  readonly #options: LabVmmOptions;
  readonly #record: BootRecord;
  readonly #peer: VmmPeer;
  #disk = '';
  #copy: CopyState | undefined;
  #isOver = false;

  private constructor(options: LabVmmOptions, record: BootRecord) {
    this.#options = options;
    this.#record = record;
    this.mediator = new Mediator(options.machine, clock);
    const { epoch, port } = record;
    const channel = (): ReturnType<typeof connect> => connect(join(options.sockets, String(port)));
    this.#peer = new VmmPeer({ boot: record, epoch, machine: this, connect: channel, clock, random });
  }

  /** @param bootPort of the agent's boot server. @param path of the file that the machine loaded */
  static async start(options: LabVmmOptions, bootPort: number, path: string): Promise<LabVmm> {
    const file = await fetchFrom(join(options.sockets, String(bootPort)), path);
    return new LabVmm(options, decodeBootRecord(file.subarray(file.length - recordBytes)));
  }

  status(): ReturnType<VmmMachine['status']> {
    const isRunning = this.#copy !== undefined;
    const { totalBytes = 0, localBytes = 0, complete = false } = this.#copy ?? {};
    return {
      ...{ epoch: this.#record.epoch, guest: isRunning ? 'Running' : 'NotStarted', map: isRunning ? 'Valid' : 'None' },
      ...{ flushed: complete, starts: isRunning ? 1 : 0, inFlight: 0, fetchedBytes: BigInt(localBytes) },
      ...{ totalBytes: BigInt(totalBytes), localBytes: BigInt(localBytes) },
    };
  }

  async start(plan: Plan): Promise<void> {
    this.plans.push(plan);
    const { spec } = this.#options.machine;
    const disk = spec.shape.disks.find(({ name }) => diskSerial(spec.name, name) === plan.diskSerial);
    if (disk === undefined) throw new Error(`no disk ${plan.diskSerial}`);
    this.#disk = disk.name;
    await this.mediator.hide(disk.name);
    const note = { epoch: Number(plan.epoch), revision: 'r', digest: plan.imageDigest.toString('hex') };
    await beginMap(spec, disk, { ...note, imageBytes: Number(plan.totalBytes) });
    const { address, name } = plan.source;
    await this.mediator.prepare(disk.name, {
      socketPath: join(this.#options.sockets, address.replace(/^.*:/, '')),
      name,
    });
    for (const { offset, bytes } of plan.writes) await this.mediator.write(disk.name, Number(offset), bytes);
    await this.mediator.setControlLink(false);
    await this.mediator.expose(disk.name);
    await this.mediator.startCopy(disk.name, Number(plan.maxRateBytes));
    this.#look().catch(() => this.stop());
  }

  /** Follows the copy to its end. */
  async #look(): Promise<void> {
    while (!this.#isOver && this.#copy?.complete !== true) {
      this.#copy = await this.mediator.copyState(this.#disk);
      this.#peer.report();
      await sleep(clock, 100);
    }
  }

  throttle(maxRateBytes: bigint): void {
    this.mediator.setRate(this.#disk, Number(maxRateBytes)).catch(() => {});
  }

  notify(): void {}

  async prepare(): Promise<string | undefined> {
    return this.isPrepared() ? undefined : 'not every block is local';
  }

  isPrepared(): boolean {
    return this.#copy?.complete === true;
  }

  leave(): void {
    this.mediator.leave(this.#disk).then(() => this.#options.onLeft());
  }

  /** Power is gone. */
  stop(): void {
    this.#isOver = true;
    this.#peer.stop();
    this.mediator.close();
  }
}

function fetchFrom(socketPath: string, path: string): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath, path, headers: { host: 'boot' } }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () =>
        response.statusCode === 200 ? resolve(Buffer.concat(chunks)) : reject(new Error(`${response.statusCode}`)),
      );
      response.on('error', reject);
    });
    asked.on('error', reject);
    asked.end();
  });
}

/**
 * A machine for a BMC of the lab to stand in front of, played in this process: it boots over HTTP from its control address, speaks the VMM channel as
 * the reference VMM, and the trusted image's protocol.
 */
import { createHmac } from 'node:crypto';
import { request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { type BmcMachine, type BootOverride, noOverride } from '../../../agent/drivers/qemu/bmc/machine.ts';
import { decodeBootRecord } from '../../../agent/drivers/vmm-channel/boot-record.ts';
import type { Plan } from '../../../agent/drivers/vmm-channel/messages.ts';
import { type VmmMachine, VmmPeer } from '../../../agent/drivers/vmm-channel/peer.ts';
import { systemClock as clock } from '../../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../../controller/runtime/random.ts';

const helloType = 1;
const leavingType = 11;
const pauseMs = 20;

export interface PlayedOptions {
  readonly agent: string;
  readonly bootPort: number;
  /** Its own address on the control network. */
  readonly address: string;
  readonly serials: readonly string[];
}

export class PlayedMachine implements BmcMachine {
  bootOverride: BootOverride = noOverride;
  /** What it found at each start, oldest first. */
  readonly booted: string[] = [];
  readonly plans: Plan[] = [];
  /** Of its disk, over the power; with it goes the count of starts. */
  mapEpoch: bigint | undefined;
  hasLeft = false;
  /** Its last word does not arrive. */
  losesLeaving = false;
  /** COMMIT does not arrive. */
  isDeaf = false;
  /** Says this to a PREPARE. */
  notReady: string | undefined;
  failsToStart = false;
  /** Of what it sends only HELLO arrives. */
  isMute = false;
  /** Where it last loaded the hypervisor from. */
  elf = '';
  /** Of the power button. */
  presses = 0;
  readonly notices: string[] = [];
  readonly #options: PlayedOptions;
  #power: 'On' | 'Off' = 'Off';
  #run = 0;
  #vmm: VmmPeer | undefined;
  #socket: Socket | undefined;
  #starting = new Map<bigint, number>();

  constructor(options: PlayedOptions) {
    this.#options = options;
  }

  get answers(): boolean {
    return this.#power === 'On' && this.#vmm !== undefined && !this.hasLeft;
  }

  power(): 'On' | 'Off' {
    return this.#power;
  }

  async on(): Promise<void> {
    if (this.#power === 'On') return;
    this.#power = 'On';
    this.#start();
  }

  async off(): Promise<void> {
    this.#stop();
    this.#power = 'Off';
  }

  async shutdown(): Promise<void> {
    this.presses++;
    await this.off();
  }

  async reset(): Promise<void> {
    this.#stop();
    this.#start();
  }

  /** The cable of the control port is pulled and put back. */
  breakConnection(): void {
    this.#socket?.destroy();
  }

  #stop(): void {
    this.#run++;
    this.#vmm?.stop();
    this.#vmm = undefined;
    this.#socket?.destroy();
  }

  #start(): void {
    const { target, enabled } = this.bootOverride;
    this.hasLeft = false;
    if (enabled === 'Disabled' || target !== 'Pxe') {
      this.booted.push('Disk');
      return;
    }
    const run = ++this.#run;
    this.#networkBoot(run).catch((error: unknown) => {
      if (this.#run === run) this.booted.push(`fault: ${error}`);
    });
  }

  async #networkBoot(run: number): Promise<void> {
    const { agent, bootPort } = this.#options;
    const server = `http://${agent}:${bootPort}`;
    while (this.#run === run) {
      const script = (await this.fetch('GET', `${server}/boot.ipxe`)).body.toString();
      const [, kernel, told] = /^kernel (\S+\/kernel) (.*)$/m.exec(script) ?? [];
      const [, elf] = /^kernel (\S+\.elf) /m.exec(script) ?? [];
      if (kernel !== undefined) return this.#trusted(run, kernel, told ?? '');
      if (elf !== undefined) return this.#startVmm(elf);
      await new Promise((resolve) => clock.setTimer(pauseMs, () => resolve(undefined)));
    }
  }

  fetch(
    method: string,
    url: string,
    body = '',
    headers: Record<string, string> = {},
    localAddress = this.#options.address,
  ): Promise<{ status: number; body: Buffer }> {
    return new Promise((resolve, reject) => {
      const asked = request(url, { method, headers, localAddress }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('end', () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks) }));
        response.on('error', reject);
      });
      asked.on('error', reject);
      asked.end(body);
    });
  }

  async #startVmm(elf: string): Promise<void> {
    this.elf = elf;
    const { body } = await this.fetch('GET', elf);
    const record = decodeBootRecord(body.subarray(body.length - 128));
    this.booted.push('Vmm');
    const { address, port, epoch } = record;
    this.#vmm = new VmmPeer({
      ...{ boot: record, epoch, clock, random, machine: this.#machine(epoch) },
      connect: () => this.#connect(address, port),
    });
  }

  #connect(host: string, port: number): Socket {
    const socket = connect({ host, port, localAddress: this.#options.address });
    const write = socket.write.bind(socket) as (chunk: Buffer) => boolean;
    socket.write = ((chunk: Buffer) => (this.#loses(chunk.readUInt16LE(4)) ? true : write(chunk))) as Socket['write'];
    this.#socket = socket;
    return socket;
  }

  #loses(type: number): boolean {
    return (this.losesLeaving && type === leavingType) || (this.isMute && type !== helloType);
  }

  #machine(epoch: bigint): VmmMachine {
    let plan: Plan | undefined;
    const isRunning = (): boolean => plan !== undefined && this.mapEpoch === epoch;
    return {
      status: () => ({
        ...{ epoch, guest: isRunning() ? 'Running' : 'NotStarted', map: isRunning() ? 'Valid' : 'None' },
        ...{
          flushed: isRunning(),
          starts: this.mapEpoch === epoch ? (this.#starting.get(epoch) ?? 0) : 0,
          inFlight: 0,
          fetchedBytes: 0n,
        },
        ...{ totalBytes: plan?.totalBytes ?? 0n, localBytes: isRunning() ? (plan?.totalBytes ?? 0n) : 0n },
      }),
      start: async (given) => {
        plan = given;
        this.plans.push(given);
        if (this.failsToStart) throw new Error('no such device');
        if (given.start === 'Keep' && this.mapEpoch !== epoch) throw new Error('no valid map');
        this.mapEpoch = epoch;
        this.#starting.set(epoch, (this.#starting.get(epoch) ?? 0) + 1);
      },
      throttle() {},
      notify: (text) => {
        this.notices.push(text);
      },
      prepare: async () => this.notReady,
      isPrepared: () => !this.isDeaf,
      leave: () => {
        this.hasLeft = true;
      },
    };
  }

  async #trusted(run: number, kernel: string, told: string): Promise<void> {
    const value = (key: string): string => new RegExp(`bitvisor\\.${key}=(\\S+)`).exec(told)?.[1] ?? '';
    await this.fetch('GET', kernel);
    this.booted.push('Trusted');
    const token = Buffer.from(value('token'), 'hex');
    const send = async (method: string, path: string, body = ''): Promise<string> => {
      const mac = createHmac('sha256', token).update(`${method} ${path}\n${body}`).digest('hex');
      const headers = { authorization: `BitVisor-MAC ${mac}` };
      return (await this.fetch(method, `${value('agent')}/${value('boot')}${path}`, body, headers)).body.toString();
    };
    const facts = [
      'cores=4',
      'memory-kib=2000000',
      ...this.#options.serials.map((serial) => `disk=sda 4294967296 ${serial}`),
    ];
    await send('POST', '/up', facts.join('\n'));
    for (let done = 0; this.#run === run; ) {
      const job = await send('GET', `/jobs/${done}`);
      const [, id, kind = '', nonce] = /^job=(\d+)\nkind=(\w+)\n(?:nonce=(.*)\n)?/.exec(job) ?? [];
      if (id === undefined) continue;
      done = Number(id);
      const found =
        kind === 'attest'
          ? [`nonce=${nonce}`]
          : kind === 'wipe'
            ? this.#options.serials.map((one) => `wiped=${one}`)
            : facts;
      if (kind === 'wipe') this.mapEpoch = undefined;
      await send('POST', `/results/${id}`, [...found, `done=${kind}`].join('\n'));
    }
  }
}

/** A rack of one played machine behind a BMC, a switch controller and the drivers of real hardware, with an unchanged agent over them. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { AgentCore } from '../../../agent/core.ts';
import { type HardwareTuning, type OpenedHardware, openHardware } from '../../../agent/drivers/hardware/open.ts';
import type { HardwareSettings } from '../../../agent/drivers/hardware/settings.ts';
import { type RunningBmc, startBmc } from '../../../agent/drivers/qemu/bmc/server.ts';
import { MemoryLog } from '../../../agent/log.ts';
import type { Environment, Instruction, NodeObservation } from '../../../controller/api/protocol.generated.ts';
import { systemClock as clock } from '../../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../../controller/runtime/random.ts';
import { sharedCa } from '../../support/agent-network.ts';
import { environment, type TestStep } from '../../support/agent-room.ts';
import { testHardware } from '../../support/bmc-machine.ts';
import { SwitchService } from '../../support/switch-service.ts';
import { startOrigin } from '../image/support.ts';
import { quickPolls, quickTimes } from '../redfish/bench.ts';
import { PlayedMachine } from './played-machine.ts';

const node = 'n00';
const agentAddress = '127.0.77.1';
const machineAddress = '127.0.77.10';
const imageBytes = 2 ** 20;
const stepMs = 60_000;

const quickTimesOfNode = {
  ...{ quietMs: 2_500, quietAfterWordMs: 100, prepareMs: 3_000, commitMs: 20_000, lookMs: 30 },
  newsMs: 50,
};

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export class Hall {
  readonly directory = mkdtempSync(join(tmpdir(), 'hardware-'));
  readonly machine: PlayedMachine;
  readonly switches: SwitchService;
  readonly settings: HardwareSettings;
  readonly image: Environment;
  readonly log = new MemoryLog('store-1');
  readonly errors: unknown[] = [];
  readonly #bmc: RunningBmc;
  #opened: OpenedHardware | undefined;
  #core: AgentCore | undefined;
  #operations = 0;
  readonly #given = new Map<string, Instruction>();
  #wake = (): void => {};

  private constructor(
    machine: PlayedMachine,
    switches: SwitchService,
    bmc: RunningBmc,
    settings: HardwareSettings,
    image: Environment,
  ) {
    this.machine = machine;
    this.switches = switches;
    this.#bmc = bmc;
    this.settings = settings;
    this.image = image;
  }

  static async start(t: TestContext): Promise<Hall> {
    const [bootPort, channelPort, imagePort] = [await freePort(), await freePort(), await freePort()];
    const serials = testHardware.disks.map(({ serial }) => serial);
    const machine = new PlayedMachine({ agent: agentAddress, bootPort, address: machineAddress, serials });
    const credentials = { username: 'agent', password: 'a secret of the test' };
    const bmc = await startBmc({ machine, hardware: testHardware, credentials, clock, random });
    const switches = new SwitchService();
    for (const port of ['data0', 'ctl0'])
      switches.ports.set(`${node}/${port}`, { domain: 'unmanaged', egress: 'None' });
    const url = await switches.listen();
    const directory = mkdtempSync(join(tmpdir(), 'hardware-site-'));
    const files = join(directory, 'vmm');
    mkdirSync(files);
    writeFileSync(join(files, 'bitvisor.elf'), randomBytes(5000));
    writeFileSync(join(files, 'kernel'), 'kernel');
    writeFileSync(join(files, 'ipxe.efi'), 'an iPXE');
    writeFileSync(join(directory, 'bmc.json'), JSON.stringify(credentials), { mode: 0o600 });
    const bytes = Buffer.concat([Buffer.alloc(1024), randomBytes(imageBytes - 1024)]);
    const ca = await sharedCa();
    writeFileSync(join(directory, 'images.crt'), ca.caPem);
    const origin = await startOrigin({ '/os.raw': bytes }, await ca.issue('images', ['localhost']));
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    const image = environment('r1', { url: `${origin.url}/os.raw`, sha256, sizeBytes: imageBytes });
    const settings: HardwareSettings = {
      bmc: { credentials: join(directory, 'bmc.json') },
      fabric: { http: { url } },
      images: {
        ...{ port: imagePort, memoryBytes: 2 ** 24, diskBytes: 2 ** 26 },
        ...{ prefixes: [`${origin.url}/`], ca: join(directory, 'images.crt') },
      },
      boot: {
        ...{ port: bootPort, channelPort },
        dnsmasq: { firmware: { root: files, bios: 'undionly.kpxe', uefi: 'ipxe.efi' } },
        vmm: { directory: files, bios: 'bitvisor.elf', uefi: 'loadvmm.efi' },
        trusted: { kernel: join(files, 'kernel'), initrd: join(files, 'kernel') },
      },
      classes: { thin: { cores: 4 } },
      nodes: {
        [node]: {
          bmc: { url: bmc.url },
          class: 'thin',
          ports: [
            { name: 'data0', role: 'Data', kind: 'Ethernet', address: '52:54:00:00:00:01' },
            { name: 'ctl0', role: 'Control', kind: 'Ethernet', address: '52:54:00:00:00:02' },
          ],
          control: { agent: agentAddress, machine: `${machineAddress}/24`, interface: 'vlan100' },
        },
      },
    };
    const plain = { ...image, boot: { ...image.boot, kernelArguments: [] } };
    const hall = new Hall(machine, switches, bmc, settings, plain);
    t.after(async () => {
      await machine.off();
      await hall.stopAgent();
      await Promise.all([bmc.close(), switches.close(), origin.stop()]);
      for (const path of [directory, hall.directory]) rmSync(path, { recursive: true, force: true });
    });
    await hall.startAgent();
    return hall;
  }

  async startAgent(tuning: HardwareTuning = {}): Promise<void> {
    const context = { directory: this.directory, clock, random, onError: (error: unknown) => this.errors.push(error) };
    this.#opened = await openHardware([node], this.settings, context, {
      times: quickTimesOfNode,
      power: { polls: quickPolls, times: quickTimes, timeoutMs: 1_500 },
      fabric: { pollMs: 100, pendingPollMs: 20 },
      answers: async () => this.machine.answers,
      ...tuning,
    });
    const { drivers } = this.#opened;
    const core = { name: 'rack', version: 'test', nodes: [node], drivers, log: this.log, clock, random };
    this.#core = new AgentCore({ ...core, onError: (error) => this.errors.push(error) });
    this.#core.onChange(() => this.#wake());
  }

  /** The machine goes on. */
  async stopAgent(): Promise<void> {
    this.#core?.close();
    await this.#opened?.close();
    this.#opened = undefined;
  }

  get capabilities(): readonly string[] {
    return this.#opened?.drivers.capabilities ?? [];
  }

  get bmc(): RunningBmc {
    return this.#bmc;
  }

  get core(): AgentCore {
    if (this.#core === undefined) throw new Error('no agent');
    return this.#core;
  }

  seen(): NodeObservation {
    const seen = this.core.observation(node);
    if (seen === undefined) throw new Error('never observed');
    return seen.node;
  }

  async until(what: string, holds: () => boolean): Promise<void> {
    const end = clock.monotonic() + stepMs;
    while (!holds()) {
      if (clock.monotonic() > end)
        throw new Error(`not within ${stepMs} ms: ${what}; seen ${JSON.stringify(this.seen())}`);
      await new Promise<void>((resolve) => {
        const cancel = clock.setTimer(100, resolve);
        this.#wake = () => {
          cancel();
          resolve();
        };
      });
    }
  }

  give(step: TestStep, epoch: number): string {
    const operationId = `op-${++this.#operations}`;
    const instruction = { operationId, node, epoch, ...step } as Instruction;
    this.#given.set(operationId, instruction);
    const [answer] = this.core.instruct({ term: 1, instructions: [instruction] }).results;
    if (answer?.result !== 'Accepted') throw new Error(`${step.verb}: ${answer?.reason}: ${answer?.message}`);
    return operationId;
  }

  /** An agent that started meanwhile is told again. */
  async ended(id: string): Promise<string> {
    await this.until(`${id} ended`, () => {
      const { operation } = this.seen();
      const given = this.#given.get(id);
      if (operation?.id === id && operation.awaitsWord && given !== undefined)
        this.core.instruct({ term: 1, instructions: [given] });
      return operation?.id === id && operation.status !== 'Running';
    });
    const { operation } = this.seen();
    return operation?.failure === undefined
      ? (operation?.status ?? 'none')
      : `${operation.failure.code}: ${operation.failure.message}`;
  }

  async run(step: TestStep, epoch: number): Promise<string> {
    return this.ended(this.give(step, epoch));
  }

  async runAll(list: readonly TestStep[], epoch: number): Promise<void> {
    for (const step of list) {
      const status = await this.run(step, epoch);
      if (status !== 'Done') throw new Error(`${step.verb}: ${status} ${JSON.stringify(this.seen())}`);
    }
  }
}

/**
 * Machines that QEMU plays as a rack of real ones: the program runs with `drivers: hardware` in a network namespace of its own, and has nothing
 * of them but their BMCs (Redfish over TLS), the plug-in of their switch (bridge-switch.py), and what comes through their control ports.
 *
 * Invariant: `close` ends every process, namespace and interface of it, also after a failed test.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import type { HardwareNodeSettings, HardwareSettings } from '../../agent/drivers/hardware/settings.ts';
import { startBmc } from '../../agent/drivers/qemu/bmc/server.ts';
import { hardwareOf } from '../../agent/drivers/qemu/bmcs.ts';
import { QemuMachine } from '../../agent/drivers/qemu/machine.ts';
import { measuredArguments } from '../../agent/drivers/qemu/measured.ts';
import { controlAddress, controlPortAddress, tapName } from '../../agent/drivers/qemu/network.ts';
import {
  defaultShape,
  diskPath,
  diskSerial,
  type MachineSpec,
  macAddress,
  portName,
  roles,
} from '../../agent/drivers/qemu/shape.ts';
import { AgentPool } from '../../controller/agents/pool.ts';
import type { AgentLink } from '../../controller/agents/port.ts';
import type { Instruction, NodeObservation } from '../../controller/api/protocol.generated.ts';
import { systemClock as clock } from '../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../controller/runtime/random.ts';
import { sharedCa } from '../support/agent-network.ts';
import type { TestStep } from '../support/agent-room.ts';
import { until } from '../support/until.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const relay = fileURLToPath(new URL('support/control-port.ts', import.meta.url));
const plugin = fileURLToPath(new URL('support/bridge-switch.py', import.meta.url));
const rack = 'r0';
const agentPort = 9443;

export interface SiteShape {
  /** UEFI firmware and a TPM. */
  readonly hasTpms?: boolean;
  /** The control port's card brings an iPXE; without one the firmware has to load one. Of machines with UEFI firmware. */
  readonly hasBootRom?: boolean;
  /** What the firmware boots from the network by, and the BMC has as the target for it. */
  readonly network?: 'Pxe' | 'UefiHttp';
}

/** As the target says: OVMF (OvmfPkg/PlatformBootManagerLib) boots by HTTP where it may not by PXE. */
const onlyHttp = ['IPv4PXESupport', 'IPv6PXESupport'].flatMap((name) => [
  ...['-fw_cfg', `name=opt/org.tianocore/${name},string=no`],
]);

export class HardwareSite {
  readonly directory = mkdtempSync(join(tmpdir(), 'hw-'));
  readonly machines: ReadonlyMap<string, QemuMachine>;
  readonly #name: string;
  /** A /30: the management network, between the BMCs here and the agent there. */
  readonly #network: string;
  readonly #closers: (() => Promise<void> | void)[] = [];
  readonly #bootsByHttp: boolean;
  #agent: ChildProcess | undefined;
  #link: AgentLink | undefined;
  #operations = 0;

  constructor(nodes: readonly string[], { hasTpms = false, hasBootRom = true, network = 'Pxe' }: SiteShape = {}) {
    this.#bootsByHttp = network === 'UefiHttp';
    const hash = createHash('sha256').update(this.directory).digest();
    this.#name = `bvhw${hash.toString('hex', 0, 4)}`;
    this.#network = `10.98.${hash[0]}.${(hash[1] ?? 0) & 0xfc}`;
    const shape = { ...defaultShape, memoryMiB: hasTpms ? 256 : 128 };
    this.machines = new Map(
      nodes.map((name, index) => {
        const spec: MachineSpec = {
          ...{ name, index, shape, netns: this.#name, directory: join(this.directory, 'machines', name) },
          runDirectory: join(this.directory, String(index)),
        };
        const moreArguments = async (): Promise<string[]> => [
          ...(await measuredArguments(spec, { isUefi: true, clock })),
          ...(hasBootRom ? [] : ['-global', 'virtio-net-pci.romfile=']),
          ...(machine.bootOverride.target === 'UefiHttp' ? onlyHttp : []),
        ];
        const more = hasTpms ? { moreArguments } : {};
        const machine = new QemuMachine({ spec, clock, random, onError: () => {}, keepsDisks: true, ...more });
        return [name, machine];
      }),
    );
  }

  #here(last: number): string {
    return this.#network.replace(/\d+$/, (base) => String(Number(base) + last));
  }

  /** Cables and switch, as they are found: no tap is in any bridge. */
  #wire(): void {
    const ip = (...words: string[]): void => void execFileSync('ip', words, { stdio: 'pipe' });
    ip('netns', 'add', this.#name);
    this.#closers.push(() => ip('netns', 'del', this.#name));
    ip('link', 'add', this.#name, 'type', 'veth', 'peer', 'name', 'mgmt', 'netns', this.#name);
    ip('address', 'add', `${this.#here(1)}/30`, 'dev', this.#name);
    ip('link', 'set', this.#name, 'up');
    const inside = (...words: string[]): void => ip('-n', this.#name, ...words);
    inside('link', 'set', 'lo', 'up');
    inside('address', 'add', `${this.#here(2)}/30`, 'dev', 'mgmt');
    inside('link', 'set', 'mgmt', 'up');
    const taps: Record<string, object> = {};
    for (const { spec } of this.machines.values()) {
      const home = `cb${spec.index}`;
      inside('link', 'add', home, 'type', 'bridge', 'stp_state', '0', 'forward_delay', '0');
      inside('address', 'add', `${controlAddress(spec.index)}/24`, 'dev', home);
      inside('link', 'set', home, 'up');
      for (const role of roles) {
        const tap = tapName(spec.index, role);
        inside('tuntap', 'add', 'dev', tap, 'mode', 'tap');
        inside('link', 'set', tap, 'up');
        taps[tap] = { node: spec.name, port: portName(role), ...(role === 'Control' ? { home } : {}) };
      }
    }
    writeFileSync(join(this.directory, 'taps.json'), JSON.stringify(taps));
    mkdirSync(join(this.directory, 'switch'));
  }

  async #bmcOf(machine: QemuMachine, password: string): Promise<string> {
    const host = this.#here(1);
    const { certPem, keyPem } = await (await sharedCa()).issue('bmc', ['bmc.test']);
    const credentials = { username: 'agent', password };
    const hardware = { ...hardwareOf(machine.spec), bootsByHttp: this.#bootsByHttp };
    const bmc = await startBmc({ machine, hardware, credentials, host, tls: { certPem, keyPem }, clock, random });
    this.#closers.push(() => bmc.close());
    return bmc.url;
  }

  /** Wires everything, and starts the program and the dnsmasq that it configures. */
  async start(settings: Omit<HardwareSettings, 'nodes' | 'fabric' | 'bmc'>): Promise<void> {
    this.#wire();
    const ca = await sharedCa();
    const file = (name: string, text: string): string => {
      writeFileSync(join(this.directory, name), text, { mode: 0o600 });
      return join(this.directory, name);
    };
    const password = random.uuid();
    const nodes: Record<string, HardwareNodeSettings> = {};
    for (const [name, machine] of this.machines)
      nodes[name] = nodeSettings(machine.spec, await this.#bmcOf(machine, password));
    const { certPem, keyPem } = await ca.issue(rack, [rack]);
    const hardware: HardwareSettings = {
      ...settings,
      bmc: {
        ...{ credentials: file('bmc.json', JSON.stringify({ username: 'agent', password })), ca: file('ca', ca.caPem) },
        network: this.#bootsByHttp ? 'UefiHttp' : 'Pxe',
      },
      fabric: { command: ['python3', plugin, join(this.directory, 'taps.json'), join(this.directory, 'switch')] },
      nodes,
    };
    file(
      'rack.json',
      JSON.stringify({
        ...{ dataDir: 'data', host: this.#here(2), drivers: 'hardware', hardware },
        tls: { ca: 'ca', certificate: file('certificate', certPem), key: file('key', keyPem) },
        racks: [{ name: rack, site: 'lab', rack, nodes: [...this.machines.keys()].join(','), port: agentPort }],
      }),
    );
    await this.startAgent();
    const config = join(this.directory, 'data', rack, 'dnsmasq.conf');
    this.#inside('dnsmasq', ['--keep-in-foreground', '--user=root', `--conf-file=${config}`]);
  }

  /** A process inside the namespace, that ends with the site. */
  #inside(program: string, args: readonly string[]): ChildProcess {
    const log = openSync(join(this.directory, 'log'), 'a');
    const words = ['netns', 'exec', this.#name, program, ...args];
    const child = spawn('ip', words, { cwd: root, stdio: ['ignore', log, log] });
    this.#closers.push(() => endOf(child, 'SIGKILL'));
    return child;
  }

  get log(): string {
    return readFileSync(join(this.directory, 'log'), 'utf8');
  }

  async startAgent(): Promise<void> {
    const before = listening(this.log0());
    const config = join(this.directory, 'rack.json');
    this.#agent = this.#inside(process.execPath, ['controller/main.ts', 'agent', '--config', config]);
    await until('the agent listens', () => {
      if (this.#agent?.exitCode !== null) throw new Error(`the agent ended: ${this.log}`);
      return listening(this.log0()) > before;
    });
    const ca = await sharedCa();
    const operator = await ca.issue('bitvisor-operator');
    const acceptedNodes = new Set(this.machines.keys());
    const endpoint = `https://${this.#here(2)}:${agentPort}`;
    const pool = new AgentPool({ ...operator, clock, random });
    this.#link = pool.connect({ name: rack, endpoint, caPem: ca.caPem, serverName: rack, acceptedNodes });
    await until('its nodes are seen', () => this.#link?.state().synced === true);
  }

  log0(): string {
    try {
      return this.log;
    } catch {
      return '';
    }
  }

  /**
   * Sockets, in the directory that is given back, to ports of the agent: what comes through them has the address of the machine's control port.
   * The machine has let go of that address by then.
   */
  async controlPort(
    node: string,
    ports: readonly number[],
  ): Promise<{ readonly directory: string; end(): Promise<void> }> {
    const { index } = (this.machines.get(node) as QemuMachine).spec;
    const directory = mkdtempSync(join(this.directory, 'port-'));
    const own = controlPortAddress(index);
    execFileSync('ip', ['-n', this.#name, 'address', 'add', `${own}/32`, 'dev', 'lo']);
    const words = [relay, directory, controlAddress(index), own, ...ports.map(String)];
    const child = this.#inside(process.execPath, words);
    await until('its sockets are there', () => ports.every((port) => existsSync(join(directory, String(port)))));
    return {
      directory,
      end: async () => {
        await endOf(child, 'SIGKILL');
        execFileSync('ip', ['-n', this.#name, 'address', 'del', `${own}/32`, 'dev', 'lo']);
      },
    };
  }

  /** The machines go on. */
  async killAgent(): Promise<void> {
    this.#link?.close();
    if (this.#agent !== undefined) await endOf(this.#agent, 'SIGKILL');
  }

  seen(node: string): NodeObservation {
    const seen = this.#link?.nodes.get(node);
    if (seen === undefined) throw new Error(`${node} was never observed: ${this.log}`);
    return seen;
  }

  async give(step: TestStep, epoch: number, node: string): Promise<string> {
    const operationId = `op-${++this.#operations}`;
    const instruction = { operationId, node, epoch, ...step } as Instruction;
    const [answer] = (await this.#link?.instruct([instruction], 1)) ?? [];
    if (answer?.result !== 'Accepted') throw new Error(`${step.verb}: ${answer?.reason}: ${answer?.message}`);
    return operationId;
  }

  /** @throws when the operation fails */
  async ended(id: string, node: string, limitMs: number): Promise<void> {
    const operation = (): NodeObservation['operation'] => this.seen(node).operation;
    const isOver = (): boolean => operation()?.id === id && operation()?.status !== 'Running';
    await until(`${id} on ${node} is over`, isOver, limitMs).catch((error: Error) => {
      throw new Error(`${error.message}; seen ${JSON.stringify(this.seen(node))}\n${this.log.slice(-3000)}`);
    });
    if (operation()?.status !== 'Done') throw new Error(`${id}: ${JSON.stringify(operation())}`);
  }

  /** Each step once the one before is done. @throws when one fails */
  async runAll(steps: readonly TestStep[], epoch: number, node: string, limitMs: number): Promise<void> {
    for (const step of steps) await this.ended(await this.give(step, epoch, node), node, limitMs);
  }

  disk(node: string, name: string): Buffer {
    return readFileSync(diskPath((this.machines.get(node) as QemuMachine).spec, name));
  }

  /** What an earlier tenant left. The machine is off. */
  soil(node: string, name: string): void {
    const path = diskPath((this.machines.get(node) as QemuMachine).spec, name);
    writeFileSync(path, Buffer.alloc(statSync(path).size, 0x5a));
  }

  serial(node: string): string {
    return readFileSync(this.machines.get(node)?.serialLogPath ?? '', 'latin1');
  }

  async close(): Promise<void> {
    this.#link?.close();
    for (const machine of this.machines.values()) {
      await machine.off();
      machine.close();
    }
    for (const close of this.#closers.splice(0).reverse()) await close();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

const listening = (log: string): number => log.split('are listening').length - 1;

function nodeSettings({ name, index, shape }: MachineSpec, url: string): HardwareNodeSettings {
  return {
    bmc: { url, serverName: 'bmc.test' },
    class: 'lab',
    disks: shape.disks.map((disk) => ({ serial: diskSerial(name, disk.name), sizeBytes: disk.sizeBytes })),
    ports: roles.map((role) => ({
      ...{ name: portName(role), role, kind: 'Ethernet', address: macAddress(index, role) },
    })),
    control: { agent: controlAddress(index), machine: `${controlPortAddress(index)}/24`, interface: `cb${index}` },
  };
}

async function endOf(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill(signal);
  await gone;
}

/**
 * The network of a rack in a namespace of its own: a bridge for the data ports, a bridge for each control port, and DHCP.
 *
 * Invariants:
 * 1. Each control port is alone on its bridge, so the local address of a connection proves the port that it came through.
 * 2. `ensure` keeps what is there: machines that run go on when an agent starts again. `remove` leaves nothing.
 * 3. Who may talk to whom is the fabric's matter: the network alone isolates no data port.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { Server } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type DhcpLayout, dnsmasqConfig } from '../boot/dnsmasq.ts';
import { run } from './command.ts';
import { type MachineSpec, macAddress, type PortRole, roles } from './shape.ts';

export const bootPort = 8080;
const dataBridge = 'data';
/** The rack's own address on the data bridge: DHCP, and where egress begins. */
export const dataGateway = '10.99.255.254';
export const controlAddress = (index: number): string => `10.77.${index}.1`;
/** The only address that the machine's control port may use. */
export const controlPortAddress = (index: number): string => `10.77.${index}.10`;
/** Of a guest that asks by DHCP, and of one that makes its address of its port's MAC address as the lab's own do. */
export const dataAddress = (index: number): string => `10.99.${index}.1`;
export const tapName = (index: number, role: PortRole): string => `${role === 'Data' ? 'd' : 'c'}${index}`;
const controlBridge = (index: number): string => `cb${index}`;

export interface RackNetworkOptions {
  readonly netns: string;
  readonly directory: string;
  readonly machines: readonly MachineSpec[];
}

/** The address of IPv6 that iPXE makes of a MAC address (RFC 4291, appendix A). */
function linkLocal(mac: string): string {
  const [a = 0, b, c, d, e, f] = mac.split(':').map((byte) => Number.parseInt(byte, 16));
  const hex = (...bytes: (number | undefined)[]): string =>
    bytes.map((byte = 0) => byte.toString(16).padStart(2, '0')).join('');
  return `fe80::${hex(a ^ 2, b)}:${hex(c, 0xff)}:${hex(0xfe, d)}:${hex(e, f)}`;
}

/** A bridge forwards from its first moment on: there are no loops to look for. */
const bridgeOptions = 'type bridge stp_state 0 forward_delay 0 mcast_snooping 0';

function batchOf(machines: readonly MachineSpec[]): string {
  const lines = [
    'link set lo up',
    `link add ${dataBridge} ${bridgeOptions}`,
    `address add ${dataGateway}/16 dev ${dataBridge}`,
    `link set ${dataBridge} up`,
  ];
  for (const { index } of machines) {
    lines.push(
      `link add ${controlBridge(index)} ${bridgeOptions}`,
      `address add ${controlAddress(index)}/24 dev ${controlBridge(index)}`,
      // With an address of IPv6 to advertise, iPXE does not wait for one in vain.
      `address add fd77:0:0:${index.toString(16)}::1/64 dev ${controlBridge(index)} nodad`,
      `link set ${controlBridge(index)} up`,
    );
    for (const role of roles) {
      const tap = tapName(index, role);
      lines.push(
        `tuntap add dev ${tap} mode tap`,
        `link set ${tap} master ${role === 'Data' ? dataBridge : controlBridge(index)}`,
        `link set ${tap} up`,
      );
    }
    lines.push(
      // The router's answer goes to this machine alone, and the rules let nobody answer the question for its neighbour. Behind the
      // ports: a bridge that gets its first one takes another address and forgets its neighbours.
      `neighbor add ${linkLocal(macAddress(index, 'Control'))} lladdr ${macAddress(index, 'Control')} dev ${controlBridge(index)} nud permanent`,
    );
  }
  return `${lines.join('\n')}\n`;
}

/** DHCP of the rack: guests by their data port, and a control segment for each machine. */
function dhcpOf({ machines, directory }: RackNetworkOptions): DhcpLayout {
  return {
    directory,
    user: 'root',
    data: {
      interface: dataBridge,
      network: '10.99.0.0',
      netmask: '255.255.0.0',
      hosts: machines.map(({ index }) => ({ mac: macAddress(index, 'Data'), address: dataAddress(index) })),
    },
    control: machines.map(({ index }) => ({
      interface: controlBridge(index),
      network: `10.77.${index}.0`,
      netmask: '255.255.255.0',
      prefix: `fd77:0:0:${index.toString(16)}::`,
      hosts: [{ mac: macAddress(index, 'Control'), address: controlPortAddress(index) }],
      boot: `http://${controlAddress(index)}:${bootPort}/boot.ipxe`,
    })),
  };
}

function runningPid(pidFile: string, program: string): number | undefined {
  try {
    const pid = Number(readFileSync(pidFile, 'utf8'));
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')[0]?.includes(program) === true ? pid : undefined;
  } catch {
    return undefined;
  }
}

export class RackNetwork {
  readonly #options: RackNetworkOptions;

  constructor(options: RackNetworkOptions) {
    this.#options = options;
  }

  get netns(): string {
    return this.#options.netns;
  }

  async #exists(): Promise<boolean> {
    return (await run('ip', ['netns', 'list'])).split('\n').some((line) => line.split(' ')[0] === this.netns);
  }

  /** @throws when the rights or programs are missing */
  async ensure(): Promise<void> {
    const { directory, machines } = this.#options;
    mkdirSync(directory, { recursive: true });
    if (!(await this.#exists())) {
      await run('ip', ['netns', 'add', this.netns]);
      try {
        await run('ip', ['-n', this.netns, '-batch', '-'], { input: batchOf(machines) });
      } catch (error) {
        await run('ip', ['netns', 'del', this.netns]);
        throw error;
      }
    }
    const config = dnsmasqConfig(dhcpOf(this.#options));
    const configPath = join(directory, 'dnsmasq.conf');
    const pid = this.#dnsmasqPid();
    if (pid !== undefined && existsSync(configPath) && readFileSync(configPath, 'utf8') === config) return;
    if (pid !== undefined) process.kill(pid);
    writeFileSync(configPath, config);
    await run('ip', ['netns', 'exec', this.netns, 'dnsmasq', `--conf-file=${configPath}`]);
  }

  #dnsmasqPid(): number | undefined {
    return runningPid(join(this.#options.directory, 'dnsmasq.pid'), 'dnsmasq');
  }

  /** Listens at the address of each control bridge; connections come by the index of the machine. */
  listen(): Promise<Map<number, Server>> {
    const { machines } = this.#options;
    const script = fileURLToPath(new URL('listen/main.ts', import.meta.url));
    const places = machines.map(({ index }) => `${index},${controlAddress(index)},${bootPort}`);
    const child = spawn('ip', ['netns', 'exec', this.netns, process.execPath, script, ...places], {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    const servers = new Map<number, Server>();
    let printed = '';
    child.stderr?.on('data', (text) => (printed += text));
    child.on('message', (index, server) => {
      servers.set(Number(index), server as Server);
      child.send('taken');
    });
    return new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', () => {
        if (servers.size === machines.length) resolve(servers);
        else reject(new Error(`cannot listen in ${this.netns}: ${printed.trim()}`));
      });
    });
  }

  async remove(): Promise<void> {
    const pid = this.#dnsmasqPid();
    if (pid !== undefined) process.kill(pid);
    if (await this.#exists()) await run('ip', ['netns', 'del', this.netns]);
    rmSync(join(this.#options.directory, 'dhcp.leases'), { force: true });
  }
}

/**
 * A rack's bridges and guests of the real kernel, in network namespaces: each guest is a process with root on its end of a cable.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import process from 'node:process';
import { NetnsProgram, python } from './netns-program.ts';

/** Whether this process may make network namespaces, and nft, ip and Python are there. */
export function roomIsPossible(): boolean {
  const probe = spawnSync('unshare', ['--net', 'nft', 'list', 'ruleset']);
  return probe.status === 0 && spawnSync('ip', ['-V']).status === 0 && spawnSync(python, ['-V']).status === 0;
}

export const roomRemedy = 'run as root with iproute2, nftables and python3 installed';

export interface Cable {
  /** In the rack's namespace; the guest's end is `eth0` in its own. */
  readonly ifname: string;
  readonly bridge: string;
  readonly address: string;
  readonly ipv4?: string;
}

const ip = (args: readonly string[], input?: string): string => execFileSync('ip', args, { encoding: 'utf8', input });

export class Guest {
  readonly cable: Cable;
  readonly #program: NetnsProgram;

  constructor(namespace: string, cable: Cable) {
    this.cable = cable;
    this.#program = new NetnsProgram(namespace, 'frames.py', 'eth0');
  }

  async send(...frames: readonly string[]): Promise<void> {
    await this.#program.ask({ send: frames });
  }

  /** Frames that arrived since the last call, as hexadecimal text. */
  async seen(): Promise<string[]> {
    return (await this.#program.ask<{ seen: string[] }>({ seen: true })).seen;
  }

  /** Whether a frame that holds the text arrives within the time. */
  async gets(part: string, ms = 2000): Promise<boolean> {
    return (await this.#program.ask<{ found: boolean }>({ await: part, ms })).found;
  }

  async flood(frame: string | null, everyMicroseconds = 200): Promise<void> {
    await this.#program.ask({ flood: frame, every: everyMicroseconds });
  }

  end(): Promise<void> {
    return this.#program.end();
  }
}

export class SwitchRoom {
  readonly netns: string;
  readonly guests = new Map<string, Guest>();

  /** @param bridges by name, with the rack's own address on it */
  constructor(name: string, bridges: Readonly<Record<string, string>>, cables: Readonly<Record<string, Cable>>) {
    this.netns = `${name}-${process.pid}`;
    ip(['netns', 'add', this.netns]);
    const inRack = Object.entries(bridges).flatMap(([bridge, address]) => [
      `link add ${bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`,
      `address add ${address} dev ${bridge}`,
      `link set ${bridge} up`,
    ]);
    ip(['-n', this.netns, '-batch', '-'], `${['link set lo up', ...inRack].join('\n')}\n`);
    for (const [guest, cable] of Object.entries(cables)) this.#plug(guest, cable);
    for (const [guest, cable] of Object.entries(cables)) {
      this.guests.set(guest, new Guest(this.namespaceOf(guest), cable));
    }
  }

  namespaceOf(guest: string): string {
    return `${this.netns}-${guest}`;
  }

  #plug(guest: string, { ifname, bridge, address, ipv4 }: Cable): void {
    const namespace = this.namespaceOf(guest);
    ip(['netns', 'add', namespace]);
    ip(
      ['-n', this.netns, '-batch', '-'],
      `${[
        `link add ${ifname} type veth peer name eth0 netns ${namespace}`,
        `link set ${ifname} master ${bridge}`,
        `link set ${ifname} up`,
      ].join('\n')}\n`,
    );
    const lines = ['link set lo up', `link set eth0 address ${address}`, 'link set eth0 up'];
    if (ipv4 !== undefined) lines.push(`address add ${ipv4} dev eth0`);
    ip(['-n', namespace, '-batch', '-'], `${lines.join('\n')}\n`);
  }

  guest(name: string): Guest {
    const guest = this.guests.get(name);
    if (guest === undefined) throw new Error(`there is no guest ${name}`);
    return guest;
  }

  /** Runs a program in the rack's namespace. */
  run(program: string, ...args: readonly string[]): string {
    return ip(['netns', 'exec', this.netns, program, ...args]);
  }

  /** The interface behind which the bridge believes the address to be. */
  whereIs(address: string): string[] {
    const rows = JSON.parse(this.run('bridge', '-json', 'fdb', 'show')) as {
      mac: string;
      ifname: string;
      master?: string;
    }[];
    return rows.filter((row) => row.mac === address && row.master !== undefined).map(({ ifname }) => ifname);
  }

  async close(): Promise<void> {
    await Promise.all([...this.guests.values()].map((guest) => guest.end()));
    for (const guest of this.guests.keys()) ip(['netns', 'del', this.namespaceOf(guest)]);
    ip(['netns', 'del', this.netns]);
  }
}

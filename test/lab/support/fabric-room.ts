/**
 * Two tenants, control ports, a gateway and the bridge fabric over them, on the kernel's own bridges.
 */
import assert from 'node:assert/strict';
import { type BridgeFabric, type BridgeFabricOptions, bridgeFabric } from '../../../agent/drivers/fabric/bridge.ts';
import type { BridgePort } from '../../../agent/drivers/fabric/layout.ts';
import type { Change, Egress } from '../../../agent/drivers/port.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { Wakers } from '../../support/wakers.ts';
import { frame, textHex } from './packets.ts';
import { SwitchRoom } from './switch-room.ts';

export const machineIp = '10.77.0.1';
/** The boot server's address for c2 alone. */
export const ownServerIp = '10.77.0.2';
export const mac = (last: number): string => `52:54:00:00:00:${last.toString(16).padStart(2, '0')}`;

/** Data ports of tenants A (a1, a2) and B (b1, b2), control ports c1 and c2, and the router behind the gateway. */
const cables = {
  a1: { ifname: 'da1', bridge: 'data', address: mac(0xa1), ipv4: '10.78.0.11/16' },
  a2: { ifname: 'da2', bridge: 'data', address: mac(0xa2), ipv4: '10.78.0.12/16' },
  b1: { ifname: 'db1', bridge: 'data', address: mac(0xb1), ipv4: '10.78.0.21/16' },
  b2: { ifname: 'db2', bridge: 'data', address: mac(0xb2), ipv4: '10.78.0.22/16' },
  c1: { ifname: 'cc1', bridge: 'ctl', address: mac(0xc1), ipv4: '10.77.0.11/16' },
  c2: { ifname: 'cc2', bridge: 'ctl', address: mac(0xc2), ipv4: '10.77.0.12/16' },
  gw: { ifname: 'gw0', bridge: 'data', address: mac(0x99), ipv4: '10.78.0.254/16' },
} as const;
export type Name = keyof typeof cables;
export const nodes: readonly Name[] = ['a1', 'a2', 'b1', 'b2', 'c1', 'c2'];
export const ipOf = (name: Name): string => cables[name].ipv4.split('/')[0] ?? '';
export const macOf = (name: Name): string => cables[name].address;
const ifnameOf = (name: Name): string => cables[name].ifname;

export const portOf = (name: Name): BridgePort => ({
  name: 'port0',
  role: name.startsWith('c') ? 'Control' : 'Data',
  kind: 'Ethernet',
  ifname: ifnameOf(name),
  address: macOf(name),
  ipv4: ipOf(name),
  ...(name === 'c2' ? { bootServer: ownServerIp } : {}),
});

export class FabricRoom {
  readonly room: SwitchRoom;
  readonly faults: string[] = [];
  fabric: BridgeFabric;
  readonly #wakers = new Wakers();
  #tokens = 0;
  #texts = 0;

  private constructor(name: string) {
    this.room = new SwitchRoom(name, { data: '10.78.0.1/16', ctl: `${machineIp}/16` }, cables);
    this.room.run('ip', 'address', 'add', `${ownServerIp}/16`, 'dev', 'ctl');
    this.fabric = bridgeFabric(this.options());
  }

  static async open(name: string): Promise<FabricRoom> {
    const opened = new FabricRoom(name);
    await opened.fabric.ready;
    return opened;
  }

  options(): BridgeFabricOptions {
    return {
      table: 'isolation',
      netns: this.room.netns,
      nodes: new Map(nodes.map((name) => [name, [portOf(name)]])),
      bootServer: { addresses: [machineIp], tcpPorts: [8080], udpPorts: [] },
      dhcp: {},
      gateway: { ifname: 'gw0', shared: ['10.78.0.254', '10.90.0.0/16'], forbidden: ['10.77.0.0/16'] },
      clock: systemClock,
      onChange: () => {
        this.#wakers.wake();
      },
      onError: (error) => this.faults.push(error.message),
    };
  }

  /** Waits, without asking the driver for anything, until its readings say so. */
  until(what: string, holds: () => boolean): Promise<void> {
    return this.#wakers.until(what, holds);
  }

  changeOf(name: Name): Change | undefined {
    const { controlChange, dataChange } = this.fabric.read(name);
    return name.startsWith('c') ? controlChange : dataChange;
  }

  domainOf(name: Name): string {
    return this.fabric.read(name).ports[0]?.domain ?? 'none';
  }

  /** Asks for it and waits for its end. */
  async put(name: Name, domain: string, egress: Egress = 'None'): Promise<Change> {
    const token = `t${++this.#tokens}`;
    this.fabric.set(name, portOf(name).role, domain, egress, token);
    assert.deepEqual(this.changeOf(name), { token, status: 'Pending' });
    await this.until(`${name} in ${domain}`, () => this.changeOf(name)?.status !== 'Pending');
    return this.changeOf(name) ?? assert.fail();
  }

  /** The start of every test: two tenants of two, both control ports in provisioning, nothing heard yet. */
  async twoTenants(): Promise<void> {
    await Promise.all([
      this.put('a1', 'allocation/a'),
      this.put('a2', 'allocation/a'),
      this.put('b1', 'group/team/b'),
      this.put('b2', 'group/team/b'),
      this.put('c1', 'provisioning'),
      this.put('c2', 'provisioning'),
    ]);
    for (const guest of this.room.guests.values()) await guest.seen();
  }

  /** A text that no other frame holds. */
  text(): string {
    return `probe${++this.#texts}.`;
  }

  hears(receiver: Name, part: string, ms = 100): Promise<boolean> {
    return this.room.guest(receiver).gets(part, ms);
  }

  /** Who of `receivers` gets the frames; a last frame from a neighbour in its domain shows that all earlier ones had their time. */
  async whoGets(sender: Name, frames: (part: string) => string[], receivers: readonly Name[]): Promise<Name[]> {
    const part = this.text();
    await this.room.guest(sender).send(...frames(part));
    const got: Name[] = [];
    for (const receiver of receivers) {
      const domain = nodes.includes(receiver) ? this.domainOf(receiver) : '';
      const neighbour = nodes.find(
        (name) => name !== receiver && name !== sender && domain.includes('/') && this.domainOf(name) === domain,
      );
      if (neighbour !== undefined) {
        const last = this.text();
        await this.room.guest(neighbour).send(frame(macOf(neighbour), macOf(receiver), last));
        assert.ok(await this.hears(receiver, textHex(last), 2000), `${receiver} hears ${neighbour}`);
      }
      if (await this.hears(receiver, textHex(part))) got.push(receiver);
    }
    return got;
  }

  /** The hardware address of the rack's own end of the bridge. */
  bridgeMac(bridge: 'data' | 'ctl'): string {
    return JSON.parse(this.room.run('ip', '-json', 'link', 'show', bridge))[0].address as string;
  }

  async close(): Promise<void> {
    await this.fabric.close();
    await this.room.close();
  }
}

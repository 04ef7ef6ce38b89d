/**
 * What a rack's Linux bridges look like to the fabric driver: its ports, and what lies beyond them. Checked once, at the start.
 *
 * Invariant: every name and address that reaches nft or ip has passed `checkLayout`, and so holds no blank, quote or newline.
 */
import { isIPv4 } from 'node:net';
import type { Port } from '../../../controller/api/protocol.generated.ts';

export interface BridgePort {
  /** What the operator calls it, such as `data0`. */
  readonly name: string;
  readonly role: Port['role'];
  readonly kind: Port['kind'];
  /** The interface in the bridge that the machine's cable ends in: a tap, a veth, a switch port. */
  readonly ifname: string;
  /** The only source MAC address that the port may send from. */
  readonly address: string;
  /**
   * The only IPv4 address, or prefix of addresses that are this port's alone, under which it reaches what nodes share (boot server,
   * gateway); inside its own domain it may use any. Without it a port reaches neither, DHCP apart.
   */
  readonly ipv4?: string;
  /** The only address of the boot server that it reaches: where each port has one of its own, that address proves the port. */
  readonly bootServer?: string;
}

/** Where a port in the domain `provisioning` may go. */
export interface BootServer {
  /** Interface in the bridge that leads to it; absent: it listens on the bridge's own address. */
  readonly ifname?: string;
  /** IPv4 addresses of boot server and agent, for ports that name none of their own. */
  readonly addresses: readonly string[];
  readonly tcpPorts: readonly number[];
  /** Besides DHCP. */
  readonly udpPorts: readonly number[];
}

/** Who answers DHCP to the ports of tenants, whatever their egress. */
export interface DhcpServer {
  /** Interface in the bridge that leads to it; absent: it listens on the bridge's own address. */
  readonly ifname?: string;
}

/** Where ports with egress Shared or Internet may go. */
export interface Gateway {
  /** Interface in the bridge that leads to the router; absent: this machine is the router. */
  readonly ifname?: string;
  /** IPv4 prefixes of the services that tenants share, the gateway's own address included where it answers. */
  readonly shared: readonly string[];
  /** IPv4 prefixes that nobody reaches, Internet or not: boot servers, agents, BMCs, the nodes' control ports. */
  readonly forbidden: readonly string[];
}

export interface BridgeLayout {
  /** By node. */
  readonly nodes: ReadonlyMap<string, readonly BridgePort[]>;
  readonly bootServer?: BootServer;
  readonly dhcp?: DhcpServer;
  readonly gateway?: Gateway;
}

export interface NodePort extends BridgePort {
  readonly node: string;
}

const ifnamePattern = /^[A-Za-z0-9_.-]{1,15}$/;
const macPattern = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/;
const multicastMac = /^.[13579bdf]/;

function isPrefix(text: string): boolean {
  const [address = '', length = '32', ...rest] = text.split('/');
  return rest.length === 0 && isIPv4(address) && /^\d{1,2}$/.test(length) && Number(length) <= 32;
}

const isPort = (value: number): boolean => Number.isInteger(value) && value > 0 && value < 65_536;

function* wrongPlaces({ bootServer, dhcp, gateway }: BridgeLayout): Generator<string> {
  for (const [what, place] of Object.entries({ 'boot server': bootServer, 'DHCP server': dhcp, gateway })) {
    const ifname = place?.ifname;
    if (ifname !== undefined && !ifnamePattern.test(ifname)) yield `${what}: "${ifname}" is no interface name`;
  }
  for (const address of bootServer?.addresses ?? []) {
    if (!isIPv4(address)) yield `boot server: "${address}" is no IPv4 address`;
  }
  for (const port of [...(bootServer?.tcpPorts ?? []), ...(bootServer?.udpPorts ?? [])]) {
    if (!isPort(port)) yield `boot server: ${port} is no port number`;
  }
  for (const prefix of [...(gateway?.shared ?? []), ...(gateway?.forbidden ?? [])]) {
    if (isPrefix(prefix)) continue;
    yield `gateway: "${prefix}" is no IPv4 prefix${prefix.includes(':') ? ' (IPv6 is not forwarded)' : ''}`;
  }
}

function* wrongPorts(ports: readonly NodePort[]): Generator<string> {
  const seen = new Map<string, string>();
  for (const { node, name, ifname, address, ipv4, bootServer } of ports) {
    const of = `port ${name} of ${node}`;
    if (!ifnamePattern.test(ifname)) yield `${of}: "${ifname}" is no interface name`;
    if (!macPattern.test(address) || multicastMac.test(address)) {
      yield `${of}: "${address}" is no unicast MAC address in lower case`;
    }
    if (ipv4 !== undefined && !isPrefix(ipv4)) yield `${of}: "${ipv4}" is no IPv4 address or prefix`;
    if (bootServer !== undefined && !isIPv4(bootServer)) yield `${of}: "${bootServer}" is no IPv4 address`;
    for (const [what, value] of Object.entries({ interface: ifname, 'MAC address': address, 'IPv4 address': ipv4 })) {
      const other = value === undefined ? undefined : seen.get(`${what} ${value}`);
      if (other !== undefined) yield `${of}: ${what} ${value} is that of ${other}`;
      seen.set(`${what} ${value}`, of);
    }
  }
}

/**
 * The ports of a layout, in order.
 * @throws Error that names every value that cannot be
 */
export function checkLayout(layout: BridgeLayout): NodePort[] {
  const ports = [...layout.nodes].flatMap(([node, list]) => list.map((port) => ({ ...port, node })));
  const wrong = [...wrongPlaces(layout), ...wrongPorts(ports)];
  const beyond = [layout.bootServer?.ifname, layout.dhcp?.ifname, layout.gateway?.ifname];
  for (const { ifname } of ports) {
    if (beyond.includes(ifname)) wrong.push(`${ifname} cannot be a node's port and lead to what nodes share`);
  }
  if (wrong.length > 0) throw new Error(`the fabric's layout is wrong: ${wrong.join('; ')}`);
  return ports;
}

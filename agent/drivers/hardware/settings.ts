/**
 * The section `hardware` of an agent's configuration: its form, and what has to fit together. docs/hardware.md shows one.
 *
 * Invariants:
 * 1. What passes can be opened without a further look at its form; every complaint names the field.
 * 2. Tenants reach no control port, agent or BMC through the gateway, and images come from nowhere that the administrator did not name.
 * 3. A request to the boot server names one node: by the agent's address that it came to, and where nodes share one, by its own.
 */
import { isIPv4 } from 'node:net';
import { type AttestationSettings, attestationSchema } from '../boot/attestation-settings.ts';
import type { DhcpSegment } from '../boot/dnsmasq.ts';
import type { Firmware } from '../boot/loaders.ts';
import { type TrustedImage, trustedImageSchema } from '../boot/trusted-boot.ts';
import type { BridgePort, DhcpServer, Gateway } from '../fabric/layout.ts';

export interface HardwarePort {
  readonly name: string;
  readonly role: 'Data' | 'Control';
  readonly kind: 'Ethernet' | 'InfiniBand';
  /** MAC address in lower case, or GUID. */
  readonly address?: string;
  /** With a bridge: the interface that the cable ends in. */
  readonly ifname?: string;
  /** With a bridge: the only address of the port outside of its domain. */
  readonly ipv4?: string;
}

interface BmcDefaults {
  /** JSON file with `username` and `password`. */
  readonly credentials?: string;
  /** PEM file. */
  readonly ca?: string;
  readonly network?: 'Pxe' | 'UefiHttp';
}

export interface HardwareNodeSettings {
  readonly bmc: BmcDefaults & {
    readonly url: string;
    readonly serverName?: string;
    readonly fingerprint?: string;
    readonly systemId?: string;
  };
  readonly class?: string;
  readonly disks?: readonly { readonly serial: string; readonly sizeBytes: number }[];
  readonly ports: readonly HardwarePort[];
  readonly control: {
    /** The agent's, as this machine reaches it. */
    readonly agent: string;
    /** The machine's own, with prefix length. */
    readonly machine: string;
    /** Interface of this host on that segment; for DHCP. */
    readonly interface?: string;
  };
  /** Of the guest on the data network, where DHCP always gives it the same. */
  readonly guestAddress?: string;
}

export interface HardwareSettings {
  readonly bmc?: BmcDefaults;
  readonly fabric: {
    readonly command?: readonly [string, ...string[]];
    readonly http?: { readonly url: string; readonly ca?: string; readonly tokenFile?: string };
    readonly bridge?: {
      readonly table: string;
      readonly netns?: string;
      readonly gateway?: Gateway;
      readonly dhcp?: DhcpServer;
    };
  };
  readonly images: {
    /** How hypervisors read; Nbd when absent. */
    readonly transport?: 'Nbd' | 'Aoe';
    readonly port: number;
    /** Where images may come from: directories of this host, and beginnings of addresses. Tenants name the images. */
    readonly directories?: readonly string[];
    readonly prefixes?: readonly string[];
    /** Authorities (PEM) of https:// addresses, in place of those that Node knows. */
    readonly ca?: string;
    readonly memoryBytes: number;
    readonly diskBytes: number;
    readonly rateBytes?: number;
    readonly aoe?: {
      readonly bridge: string;
      readonly netns?: string;
      readonly shelf: number;
      readonly diskBytes: number;
    };
  };
  readonly boot: {
    readonly port: number;
    readonly channelPort: number;
    readonly vmm: { readonly directory: string; readonly bios: string; readonly uefi: string };
    readonly trusted: TrustedImage;
    readonly dnsmasq?: {
      readonly firmware?: Firmware;
      readonly data?: DhcpSegment;
    };
  };
  /** How trusted boots are attested; absent: by their token and port. */
  readonly attestation?: AttestationSettings;
  /** What a node of the class must have at its check. */
  readonly classes?: Readonly<Record<string, { readonly cores?: number; readonly minMemoryBytes?: number }>>;
  readonly nodes: Readonly<Record<string, HardwareNodeSettings>>;
}

const text = { type: 'string', minLength: 1, maxLength: 4096 };
const name = { type: 'string', pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$' };
const ifname = { type: 'string', pattern: '^[A-Za-z0-9_.-]{1,15}$' };
const mac = { type: 'string', pattern: '^[0-9a-f]{2}(:[0-9a-f]{2}){5}$' };
const bytes = { type: 'integer', minimum: 1 };
const tcpPort = { type: 'integer', minimum: 1, maximum: 65_535 };
const list = (items: object, minItems = 0): object => ({ type: 'array', minItems, maxItems: 1024, items });
const closed = (required: string[], properties: object): object => {
  return { type: 'object', additionalProperties: false, required, properties };
};
const map = (values: object): object => ({ type: 'object', maxProperties: 1024, additionalProperties: values });
const bmcDefaults = { credentials: text, ca: text, network: { enum: ['Pxe', 'UefiHttp'] } };
const fileName = { type: 'string', pattern: '^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$' };

/** JSON schema of the section. */
export const hardwareSchema = closed(['fabric', 'images', 'boot', 'nodes'], {
  bmc: closed([], bmcDefaults),
  fabric: {
    ...closed([], {
      command: list(text, 1),
      http: closed(['url'], { url: { type: 'string', pattern: '^https?://' }, ca: text, tokenFile: text }),
      bridge: closed(['table'], {
        ...{ table: name, netns: name, dhcp: closed([], { ifname }) },
        gateway: closed(['shared', 'forbidden'], { ifname, shared: list(text), forbidden: list(text) }),
      }),
    }),
    minProperties: 1,
    maxProperties: 1,
  },
  images: closed(['port', 'memoryBytes', 'diskBytes'], {
    ...{ transport: { enum: ['Nbd', 'Aoe'] }, port: tcpPort, directories: list(text), prefixes: list(text), ca: text },
    ...{ memoryBytes: { type: 'integer', minimum: 2 ** 24 }, diskBytes: bytes, rateBytes: bytes },
    aoe: closed(['bridge', 'shelf', 'diskBytes'], {
      ...{ bridge: ifname, netns: name, diskBytes: bytes },
      shelf: { type: 'integer', minimum: 0, maximum: 65_534 },
    }),
  }),
  boot: closed(['port', 'channelPort', 'vmm', 'trusted'], {
    ...{ port: tcpPort, channelPort: tcpPort },
    vmm: closed(['directory', 'bios', 'uefi'], { directory: text, bios: fileName, uefi: fileName }),
    trusted: trustedImageSchema,
    dnsmasq: closed([], {
      firmware: closed(['root', 'bios', 'uefi'], { root: text, bios: fileName, uefi: fileName, arm64: fileName }),
      data: closed(['interface', 'network', 'netmask', 'hosts'], {
        ...{ interface: ifname, network: text, netmask: text },
        hosts: list(closed(['mac', 'address'], { mac, address: text })),
      }),
    }),
  }),
  attestation: attestationSchema,
  classes: map(closed([], { cores: { type: 'integer', minimum: 1 }, minMemoryBytes: bytes })),
  nodes: map(
    closed(['bmc', 'ports', 'control'], {
      bmc: closed(['url'], {
        ...{ ...bmcDefaults, url: { type: 'string', pattern: '^https://' }, serverName: text, systemId: text },
        fingerprint: { type: 'string', pattern: '^([0-9A-Fa-f]{2}:?){32}$' },
      }),
      class: name,
      disks: list(closed(['serial', 'sizeBytes'], { serial: text, sizeBytes: bytes })),
      ports: list(
        closed(['name', 'role', 'kind'], {
          ...{ name, role: { enum: ['Data', 'Control'] }, kind: { enum: ['Ethernet', 'InfiniBand'] } },
          ...{ address: text, ifname, ipv4: text },
        }),
        2,
      ),
      control: closed(['agent', 'machine'], { agent: text, machine: text, interface: ifname }),
      guestAddress: text,
    }),
  ),
});

export function addressIn(prefix: string): string {
  return prefix.split('/')[0] ?? '';
}

/** The control port of a node that boots from the network: its first one. */
export const controlMac = ({ ports }: HardwareNodeSettings): string =>
  ports.find(({ role }) => role === 'Control')?.address ?? '';

/** How the firmware of a node boots from the network; undefined: as the BMC's driver takes it. */
export const networkOf = (bmc: BmcDefaults, defaults: HardwareSettings['bmc']): BmcDefaults['network'] =>
  bmc.network ?? defaults?.network;

function* nodeFaults(node: string, settings: HardwareSettings): Generator<string> {
  const own = settings.nodes[node];
  const at = `hardware.nodes.${node}`;
  if (own === undefined) {
    yield `${at} is missing: the rack has this node`;
    return;
  }
  if (own.bmc.credentials === undefined && settings.bmc?.credentials === undefined)
    yield `${at}.bmc.credentials is missing, and hardware.bmc.credentials as well`;
  if (own.class !== undefined && settings.classes?.[own.class] === undefined)
    yield `${at}.class: there is no hardware.classes.${own.class}`;
  const { agent, machine } = own.control;
  if (!isIPv4(agent)) yield `${at}.control.agent: "${agent}" is no IPv4 address`;
  const [address = '', length = ''] = machine.split('/');
  const isPrefix = isIPv4(address) && /^([1-9]|[12]\d|3[0-2])$/.test(length);
  if (!isPrefix)
    yield `${at}.control.machine: "${machine}" is no IPv4 address with a prefix length, such as 10.77.0.10/24`;
  for (const role of ['Data', 'Control'] as const) {
    if (!own.ports.some((port) => port.role === role)) yield `${at}.ports: there is no ${role.toLowerCase()} port`;
  }
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(controlMac(own)))
    yield `${at}.ports: the control port needs its MAC address, in lower case`;
  for (const port of settings.fabric.bridge === undefined ? [] : own.ports) {
    if (port.ifname === undefined || port.address === undefined)
      yield `${at}.ports: with a bridge ${port.name} needs ifname and address`;
  }
  if (settings.boot.dnsmasq !== undefined && own.control.interface === undefined)
    yield `${at}.control.interface is missing: hardware.boot.dnsmasq needs it`;
  const { dnsmasq } = settings.boot;
  if (networkOf(own.bmc, settings.bmc) === 'UefiHttp' && dnsmasq !== undefined && dnsmasq.firmware === undefined)
    yield `${at}.bmc.network is UefiHttp, and hardware.boot.dnsmasq.firmware, which names the iPXE for it, is missing`;
}

function* sharedFaults(nodes: readonly string[], settings: HardwareSettings): Generator<string> {
  const seen = new Map<string, string>();
  for (const node of nodes) {
    const own = settings.nodes[node];
    if (own === undefined) continue;
    const values = {
      'control.machine': addressIn(own.control.machine),
      'bmc.url': `${own.bmc.url} ${own.bmc.systemId ?? ''}`,
      'control port': controlMac(own),
    };
    for (const [field, value] of Object.entries(values)) {
      const other = seen.get(`${field} ${value}`);
      if (other !== undefined) yield `hardware.nodes.${node}: ${field} is that of ${other}`;
      seen.set(`${field} ${value}`, node);
    }
  }
}

/** @throws Error that names every field that does not fit */
export function checkSettings(nodes: readonly string[], settings: HardwareSettings): void {
  const { images, boot } = settings;
  const wrong = nodes.flatMap((node) => [...nodeFaults(node, settings)]);
  wrong.push(...sharedFaults(nodes, settings));
  if (images.transport === 'Aoe' && images.aoe === undefined)
    wrong.push('hardware.images.aoe is missing: hardware.images.transport is Aoe');
  // Its rules let a control port reach the agent by IP, and nothing else.
  if (images.transport === 'Aoe' && settings.fabric.bridge !== undefined)
    wrong.push('hardware.images.transport: no frame of AoE passes hardware.fabric.bridge: use Nbd, or a plug-in');
  if ((images.directories ?? []).length + (images.prefixes ?? []).length === 0)
    wrong.push(
      'hardware.images: prefixes or directories must name where images may come from; tenants write their addresses',
    );
  if (new Set([images.port, boot.port, boot.channelPort]).size < 3)
    wrong.push('hardware.images.port, hardware.boot.port and hardware.boot.channelPort must differ');
  if (nodes.length > 255) wrong.push('hardware.nodes: a rack has at most 255');
  if (wrong.length > 0) throw new Error(wrong.join('; '));
}

/** The gateway, with what no tenant reaches whatever its egress: this rack's control ports and agents, and BMCs known by address. */
export function withoutManagement(gateway: Gateway, { nodes }: HardwareSettings): Gateway {
  const own = Object.values(nodes).flatMap(({ bmc, control }) => [
    ...[control.agent, addressIn(control.machine), URL.parse(bmc.url)?.hostname ?? ''],
  ]);
  return { ...gateway, forbidden: [...new Set([...gateway.forbidden, ...own.filter((address) => isIPv4(address))])] };
}

/** Ports of a node as the bridge's driver wants them. */
export function bridgePorts({ ports, control }: HardwareNodeSettings): BridgePort[] {
  return ports.map(({ ifname = '', address = '', ipv4, ...port }) => ({
    ...{ ...port, ifname, address },
    ...(port.role === 'Control' ? { ipv4: addressIn(control.machine), bootServer: control.agent } : {}),
    ...(ipv4 === undefined ? {} : { ipv4 }),
  }));
}

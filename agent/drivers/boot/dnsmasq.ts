/**
 * The configuration of dnsmasq for a rack: who gets which address, and what a machine without an operating system is told to load. Pure.
 *
 * Invariants:
 * 1. Nobody gets an address that is not in the layout: there are no ranges to draw from.
 * 2. What any machine can ask for as often as it likes is not logged: a tenant would fill the disk that the agent's own log is on.
 * 3. No name or address holds a comma, blank or line break: a layout with one is refused.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { join } from 'node:path';
import { type Firmware, loaderName, platformsOf } from './loaders.ts';

export interface DhcpHost {
  /** MAC address in lower case. */
  readonly mac: string;
  readonly address: string;
}

/** One segment that dnsmasq answers on. */
export interface DhcpSegment {
  /** Interface of this host. */
  readonly interface: string;
  readonly network: string;
  readonly netmask: string;
  readonly hosts: readonly DhcpHost[];
}

export interface ControlSegment extends DhcpSegment {
  /** URL of the script that iPXE is told, as machines of this segment reach it. */
  readonly boot: string;
  /** URL below which the boot server has the loaders for firmware that boots by HTTP; absent: such firmware is told nothing. */
  readonly loaders?: string;
  /** IPv6 prefix of 64 bits to advertise, so that iPXE does not wait for one in vain. */
  readonly prefix?: string;
}

export interface DhcpLayout {
  /** For leases, pid and log. */
  readonly directory: string;
  /** dnsmasq's own user; its default when absent. */
  readonly user?: string;
  readonly data?: DhcpSegment;
  readonly control: readonly ControlSegment[];
  /** What firmware loads, where machines have no iPXE of their own. */
  readonly firmware?: Firmware;
}

function segmentLines(tag: string, lease: string, { interface: name, network, netmask, hosts }: DhcpSegment): string[] {
  return [
    `interface=${name}`,
    `dhcp-range=set:${tag},${network},static,${netmask},${lease}`,
    ...hosts.map(({ mac, address }) => `dhcp-host=${mac},${address}`),
  ];
}

function controlLines(segment: ControlSegment, index: number): string[] {
  const tag = `ctl${index}`;
  return [
    ...segmentLines(tag, '1h', segment),
    ...(segment.prefix === undefined ? [] : [`dhcp-range=${segment.prefix},ra-only,64,1h`]),
    `dhcp-boot=tag:ipxe,tag:${tag},${segment.boot}`,
  ];
}

/** Firmware that boots by HTTP takes an answer for its own only with this in option 60 (UEFI 2.10, section 24.7). */
const httpVendorClass = 'HTTPClient';

function httpLines(firmware: Firmware, control: readonly ControlSegment[]): string[] {
  return platformsOf(firmware).flatMap((platform) => {
    const tag = `${platform.name}-http`;
    return [
      `dhcp-match=set:${tag},option:client-arch,${platform.httpCode}`,
      `dhcp-option-force=tag:!ipxe,tag:${tag},option:vendor-class,${httpVendorClass}`,
      ...control.flatMap(({ loaders }, index) =>
        loaders === undefined
          ? []
          : [`dhcp-boot=tag:!ipxe,tag:${tag},tag:ctl${index},${loaders}/${loaderName(platform)}`],
      ),
    ];
  });
}

function firmwareLines({ firmware, control }: DhcpLayout): string[] {
  if (firmware === undefined) return [];
  const platforms = platformsOf(firmware);
  const notBios = [...platforms.map(({ name }) => `tag:!${name}`), 'tag:!http'].join(',');
  return [
    ...control.map(({ interface: name }) => `enable-tftp=${name}`),
    `tftp-root=${firmware.root}`,
    'tftp-no-blocksize',
    // Else each file comes from a port of its own, which no rule that names ports lets a machine answer.
    'tftp-single-port',
    `dhcp-vendorclass=set:http,${httpVendorClass}`,
    ...platforms.flatMap(({ name, tftpCodes, file }) => [
      ...tftpCodes.map((code) => `dhcp-match=set:${name},option:client-arch,${code}`),
      ...control.map((_segment, index) => `dhcp-boot=tag:!ipxe,tag:${name},tag:ctl${index},${file}`),
    ]),
    ...control.map((_segment, index) => `dhcp-boot=tag:!ipxe,${notBios},tag:ctl${index},${firmware.bios}`),
    ...httpLines(firmware, control),
  ];
}

function* faults({ data, control, firmware, directory }: DhcpLayout): Generator<string> {
  const word = /^[A-Za-z0-9_.:/@%+=-]{1,255}$/;
  for (const segment of [...(data === undefined ? [] : [data]), ...control]) {
    if (!/^[A-Za-z0-9_.-]{1,15}$/.test(segment.interface)) yield `"${segment.interface}" is no interface name`;
    for (const text of [segment.network, segment.netmask, ...segment.hosts.map(({ address }) => address)]) {
      if (!isIPv4(text)) yield `"${text}" is no IPv4 address`;
    }
    for (const { mac } of segment.hosts) {
      if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(mac)) yield `"${mac}" is no MAC address in lower case`;
    }
  }
  for (const { boot, loaders = boot, prefix } of control) {
    for (const url of [boot, loaders]) if (!word.test(url)) yield `"${url}" is no URL for a machine to boot from`;
    if (prefix !== undefined && !isIPv6(prefix)) yield `"${prefix}" is no IPv6 prefix`;
  }
  for (const text of [directory, ...Object.values(firmware ?? {})]) {
    if (!word.test(text)) yield `"${text}" cannot stand in dnsmasq's configuration`;
  }
}

/** @throws Error that names every value that cannot be */
export function dnsmasqConfig(layout: DhcpLayout): string {
  const wrong = [...faults(layout)];
  if (wrong.length > 0) throw new Error(`the DHCP layout is wrong: ${wrong.join('; ')}`);
  const { directory, user, data, control, firmware } = layout;
  const lines = [
    'port=0',
    // With bind-interfaces dnsmasq 2.90 sends nothing from its one port of TFTP.
    firmware === undefined ? 'bind-interfaces' : 'bind-dynamic',
    'except-interface=lo',
    ...(user === undefined ? [] : [`user=${user}`]),
    'no-resolv',
    'no-hosts',
    'no-ping',
    'dhcp-authoritative',
    'quiet-dhcp',
    'quiet-ra',
    'quiet-tftp',
    ...(control.some(({ prefix }) => prefix !== undefined) ? ['enable-ra'] : []),
    `dhcp-leasefile=${join(directory, 'dhcp.leases')}`,
    `pid-file=${join(directory, 'dnsmasq.pid')}`,
    `log-facility=${join(directory, 'dnsmasq.log')}`,
    'dhcp-match=set:ipxe,175',
    // Option 176 of iPXE's own space: no ProxyDHCP is to be waited for.
    'dhcp-option=encap:175,176,1b',
    ...(data === undefined ? [] : segmentLines('data', '12h', data)),
    ...control.flatMap(controlLines),
    ...firmwareLines(layout),
  ];
  return `${lines.join('\n')}\n`;
}

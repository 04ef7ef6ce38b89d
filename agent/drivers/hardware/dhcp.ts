/** What dnsmasq is to answer on the control segments of a rack: pure. */
import type { ControlSegment, DhcpLayout } from '../boot/dnsmasq.ts';
import { loaderPlace } from '../boot/loaders.ts';
import { addressIn, controlMac, type HardwareSettings } from './settings.ts';

const text = (address: number): string => [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.');
const number = (address: string): number => address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0) >>> 0;

/** A segment for each interface; nodes that share one share its segment. Settings were checked. */
export function dhcpLayout(
  nodes: readonly string[],
  { nodes: all, boot }: HardwareSettings,
  directory: string,
): DhcpLayout {
  const segments = new Map<string, ControlSegment>();
  for (const node of nodes) {
    const own = all[node];
    if (own?.control.interface === undefined) continue;
    const { agent, machine, interface: ifname } = own.control;
    const mask = (0xffffffff << (32 - Number(machine.split('/')[1]))) >>> 0;
    const address = addressIn(machine);
    const host = { mac: controlMac(own), address };
    const before = segments.get(ifname);
    segments.set(ifname, {
      interface: ifname,
      network: text((number(address) & mask) >>> 0),
      netmask: text(mask),
      boot: `http://${agent}:${boot.port}/boot.ipxe`,
      loaders: `http://${agent}:${boot.port}/${loaderPlace}`,
      hosts: [...(before?.hosts ?? []), host],
    });
  }
  const { firmware, data } = boot.dnsmasq ?? {};
  return {
    ...{ directory, control: [...segments.values()] },
    ...(firmware === undefined ? {} : { firmware }),
    ...(data === undefined ? {} : { data }),
  };
}

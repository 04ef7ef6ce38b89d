/**
 * The boot order as Redfish shows and takes it. Pure.
 *
 * Invariant: `Network` and `Disk` are said only of what holds for every boot from now on: a continuous override, or the first entry
 * of the boot order while nothing overrides it. An override for once is `Unknown`.
 */
import type { BootOrder } from '../port.ts';
import { objectOf, type Resource, textOf, textsOf } from './fields.ts';
import type { Quirk } from './quirks.ts';

export type Place = 'Network' | 'Disk';
export type NetworkTarget = 'Pxe' | 'UefiHttp';

/** Which entries of BootOrder are what, by their reference; read once from BootOptions. */
export type BootPlaces = ReadonlyMap<string, Place>;

/** One way to make an order last. */
export interface Way {
  readonly name: string;
  readonly boot: Resource;
}

const places: Readonly<Record<string, Place>> = {
  Pxe: 'Network',
  UefiHttp: 'Network',
  Hdd: 'Disk',
  RemoteDrive: 'Disk',
};
const networkWords = /\bpxe\b|\bhttp boot\b|uefi http|network|ethernet|\bnic\b|\blan\b/i;
const diskWords = /hard ?(disk|drive)|\bhdd?\b|\bssd\b|nvme|\bsata\b|\bsas\b|\braid\b|boot manager|\bdisk\b/i;
/** Nodes of UEFI device paths (UEFI 2.10, section 10.6). */
const networkPath = /MAC\(|IPv[46]\(|Uri\(/i;
const diskPath = /HD\(|Sata\(|NVMe\(|Scsi\(|SasEx?\(/i;

/** What a BootOption is. */
export function placeOf(option: Resource): Place | undefined {
  const alias = places[textOf(option.Alias) ?? ''];
  if (alias !== undefined) return alias;
  const path = textOf(option.UefiDevicePath) ?? '';
  if (networkPath.test(path)) return 'Network';
  if (diskPath.test(path)) return 'Disk';
  const words = `${textOf(option.DisplayName) ?? ''} ${textOf(option.Name) ?? ''}`;
  if (networkWords.test(words)) return 'Network';
  return diskWords.test(words) ? 'Disk' : undefined;
}

/**
 * The order that the next boot, and every one after it, follows.
 * @param boot `Boot` of the system, with what its settings resource holds for the next boot laid over it
 * @param whenNothing what the firmware does by itself, for machines that show no boot order
 */
export function readOrder(boot: Resource, known: BootPlaces, whenNothing: BootOrder): BootOrder {
  const enabled = textOf(boot.BootSourceOverrideEnabled) ?? 'Disabled';
  const target = textOf(boot.BootSourceOverrideTarget) ?? 'None';
  if (enabled === 'Continuous' && target !== 'None') return places[target] ?? 'Unknown';
  if (enabled === 'Once' && target !== 'None') return 'Unknown';
  const [first] = textsOf(boot.BootOrder);
  return first === undefined ? whenNothing : (known.get(first) ?? 'Unknown');
}

/** Boot of the system, under what is set for its next boot at the settings resource. */
export const effectiveBoot = (system: Resource, settings: Resource | undefined): Resource => ({
  ...objectOf(system.Boot),
  ...Object.fromEntries(
    Object.entries(objectOf(settings?.Boot) ?? {}).filter(([name, value]) => !name.includes('@') && value !== null),
  ),
});

function overrideWay(boot: Resource, place: Place, network: NetworkTarget, quirk: Quirk): Way | string {
  if (boot.BootSourceOverrideTarget === undefined && boot.BootSourceOverrideEnabled === undefined) {
    return 'the BMC has no boot override';
  }
  const targets = textsOf(boot['BootSourceOverrideTarget@Redfish.AllowableValues']);
  const wanted = place === 'Disk' ? 'Hdd' : network;
  if (targets.length > 0 && !targets.includes(wanted)) return `its boot override has no target ${wanted}`;
  const kinds = textsOf(boot['BootSourceOverrideEnabled@Redfish.AllowableValues']);
  if (kinds.length > 0 && !kinds.includes('Continuous')) return 'its boot override lasts for one boot alone';
  const mode = textOf(boot.BootSourceOverrideMode);
  return {
    name: 'a continuous boot override',
    boot: {
      BootSourceOverrideTarget: wanted,
      BootSourceOverrideEnabled: 'Continuous',
      ...(quirk.sendsMode && mode !== undefined ? { BootSourceOverrideMode: mode } : {}),
    },
  };
}

function orderWay(boot: Resource, place: Place, known: BootPlaces, quirk: Quirk): Way | string {
  const order = textsOf(boot.BootOrder);
  if (order.length === 0) return 'it shows no boot order that could be changed';
  const first = order.filter((reference) => known.get(reference) === place);
  if (first.length === 0)
    return `its boot order has no entry that is known to be ${place === 'Disk' ? 'a disk' : 'the network'}`;
  const overridden = (textOf(boot.BootSourceOverrideEnabled) ?? 'Disabled') !== 'Disabled';
  const { disabledTarget } = quirk;
  return {
    name: 'the boot order',
    boot: {
      BootOrder: [...first, ...order.filter((reference) => !first.includes(reference))],
      ...(overridden ? { BootSourceOverrideEnabled: 'Disabled' } : {}),
      ...(overridden && disabledTarget !== undefined ? { BootSourceOverrideTarget: disabledTarget } : {}),
    },
  };
}

/** The ways to make the order last, best first, and in words why others are none. */
export function waysTo(
  place: Place,
  boot: Resource,
  known: BootPlaces,
  quirk: Quirk,
  network: NetworkTarget,
): { readonly ways: readonly Way[]; readonly missing: readonly string[] } {
  const all = [overrideWay(boot, place, network, quirk), orderWay(boot, place, known, quirk)];
  return {
    ways: all.filter((way): way is Way => typeof way !== 'string'),
    missing: all.filter((way): way is string => typeof way === 'string'),
  };
}

/**
 * What a machine is made of, from its Redfish resources.
 *
 * Invariant: facts are whole or not there. A part that the BMC does not let be read is an error, never a machine without that part: a
 * machine without disks would be clean at once.
 */
import type { Disk, Inventory } from '../../../controller/api/protocol.generated.ts';
import { listOf, numberOf, objectOf, objectsOf, type Resource, referenceOf, textOf } from './fields.ts';

export interface NetworkInterface {
  readonly name: string;
  /** MAC address in lower case. */
  readonly address: string;
}

/** The facts of the `Power` driver, and the network interfaces, which the layout of a fabric is written from. */
export interface RedfishFacts {
  readonly systemUuid: string;
  readonly inventory: Inventory;
  readonly interfaces: readonly NetworkInterface[];
}

/** Reads the resource at the path, or throws. */
export type Read = (path: string) => Promise<Resource>;

export const uuidMissing = 'the BMC shows no UUID of the system, by which machines are told apart';
const mostDisks = 64;
const uuidPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
/** What BMCs show until the firmware has told them. */
const noUuid = /^[0-]+$|^[f-]+$/;
const macPattern = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/;
const gibibyte = 2 ** 30;

async function membersOf(read: Read, link: string | undefined): Promise<Resource[]> {
  if (link === undefined) return [];
  const members: Resource[] = [];
  for (const member of listOf((await read(link)).Members)) {
    const path = referenceOf(member);
    if (path !== undefined) members.push(await read(path));
  }
  return members;
}

const isPresent = (resource: Resource): boolean => textOf(objectOf(resource.Status)?.State) !== 'Absent';

function mediaOf({ Protocol: protocol, MediaType: media }: Resource): Disk['media'] {
  if (typeof protocol === 'string' && /nvme/i.test(protocol)) return 'NVMe';
  return media === 'HDD' ? 'HDD' : 'SSD';
}

function diskOf(drive: Resource, index: number): Disk | undefined {
  const sizeBytes = numberOf(drive.CapacityBytes);
  if (sizeBytes === undefined || sizeBytes === 0 || !isPresent(drive) || drive.Protocol === 'USB') return undefined;
  const serial = textOf(drive.SerialNumber)?.trim().slice(0, 128);
  return {
    name: (textOf(drive.Id) ?? textOf(drive.Name) ?? `disk${index}`).slice(0, 64),
    ...(serial === undefined || serial === '' ? {} : { serial }),
    sizeBytes: Math.floor(sizeBytes),
    media: mediaOf(drive),
  };
}

async function disksOf(read: Read, system: Resource): Promise<Disk[]> {
  const drives: Resource[] = [];
  const seen = new Set<string>();
  for (const controller of await membersOf(read, referenceOf(system.Storage))) {
    for (const link of listOf(controller.Drives)) {
      const path = referenceOf(link);
      if (path === undefined || seen.has(path)) continue;
      seen.add(path);
      drives.push(await read(path));
    }
  }
  if (system.Storage === undefined) {
    // Older services have no serial numbers there; such disks can be used, and are wiped by place.
    for (const controller of await membersOf(read, referenceOf(system.SimpleStorage))) {
      drives.push(
        ...objectsOf(controller.Devices).map((device, index) => ({
          Id: `${textOf(controller.Id) ?? '0'}-${index}`,
          ...device,
        })),
      );
    }
  }
  return drives.flatMap((drive, index) => diskOf(drive, index) ?? []).slice(0, mostDisks);
}

async function processorOf(read: Read, system: Resource): Promise<Pick<Inventory, 'architecture' | 'cores'>> {
  const summary = objectOf(system.ProcessorSummary);
  const processors = (await membersOf(read, referenceOf(system.Processors))).filter(
    (one) => isPresent(one) && (one.ProcessorType ?? 'CPU') === 'CPU',
  );
  const counted = processors.reduce((sum, one) => sum + (numberOf(one.TotalCores) ?? 0), 0);
  const cores = numberOf(summary?.CoreCount) ?? (counted > 0 ? counted : (numberOf(summary?.Count) ?? 1));
  const isArm = processors.some(
    ({ InstructionSet: set, ProcessorArchitecture: architecture }) =>
      architecture === 'ARM' || (typeof set === 'string' && set.startsWith('ARM')),
  );
  return { architecture: isArm ? 'aarch64' : 'x86_64', cores: Math.min(65_536, Math.max(1, Math.floor(cores))) };
}

/** The system's UUID in lower case; undefined while the BMC does not know it. */
export function uuidOf(system: Resource): string | undefined {
  const uuid = textOf(system.UUID)?.toLowerCase();
  return uuid !== undefined && uuidPattern.test(uuid) && !noUuid.test(uuid) ? uuid : undefined;
}

/**
 * Reads all facts of a system.
 * @param system its ComputerSystem resource
 * @throws Error when the system has no UUID, and whatever `read` throws
 */
export async function readFacts(read: Read, system: Resource): Promise<RedfishFacts> {
  const systemUuid = uuidOf(system);
  if (systemUuid === undefined) throw new Error(uuidMissing);
  const memory = numberOf(objectOf(system.MemorySummary)?.TotalSystemMemoryGiB) ?? 0;
  const interfaces = (await membersOf(read, referenceOf(system.EthernetInterfaces))).flatMap((one) => {
    const address = (textOf(one.PermanentMACAddress) ?? textOf(one.MACAddress))?.toLowerCase();
    return address === undefined || !macPattern.test(address) ? [] : [{ name: textOf(one.Id) ?? '', address }];
  });
  return {
    systemUuid,
    inventory: {
      ...(await processorOf(read, system)),
      memoryBytes: Math.floor(memory * gibibyte),
      disks: await disksOf(read, system),
    },
    interfaces,
  };
}

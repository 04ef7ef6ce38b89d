/**
 * The state of a simulated machine: plain data, all of it stored, so that a machine outlives the process that plays it.
 */
import { createHash } from 'node:crypto';
import type { Failure, Port } from '../../../controller/api/protocol.generated.ts';
import type { Change, MachineFacts, Serving, VmmPlan } from '../port.ts';
import type { ActiveFault, FaultKind } from './faults.ts';
import type { MachineShape } from './options.ts';

/** What the machine is doing, from power on. `Stuck`: nothing to boot; `Crashed`: on, and nothing runs. */
export type Stage =
  | 'Dark'
  | 'Post'
  | 'VmmLoading'
  | 'GuestBooting'
  | 'Guest'
  | 'TrustedLoading'
  | 'Trusted'
  | 'BareMetal'
  | 'Stuck'
  | 'Crashed';

/** What is asked of a machine through its drivers. */
export type Channel = 'power' | 'order' | 'data' | 'control' | 'export' | 'serving' | 'vmm';

/** `flush`: the write cache after the last block; `tenant`: what the guest's owner is about to do. */
export type JobKind = Channel | 'stage' | 'shutdown' | 'flush' | 'tenant';

/** A job that waits for somebody to end a fault. Not Infinity, which JSON does not know. */
export const never = Number.MAX_SAFE_INTEGER;

export interface Job {
  /** In the room's own time. */
  dueMs: number;
  readonly token: string;
  /** What it brings about; its form depends on the kind. */
  readonly to: string;
  readonly egress?: 'None' | 'Shared' | 'Internet';
  /** Decided when it was asked for. */
  fails: boolean;
  /** A fault of this very job, decided when it was asked for. */
  readonly fault?: FaultKind;
  /** Its effect is there, and only its end is still to be read. */
  ran?: boolean;
}

/** A job that hardware runs although its driver was told that it is gone. */
export interface Ghost {
  readonly dueMs: number;
  readonly kind: Channel;
  readonly to: string;
  readonly egress?: 'None' | 'Shared' | 'Internet';
}

/** Truth: whose data a disk holds. */
export interface DataOf {
  /** The true domain of the machine's first data port when it came there: how a tenant is told from outside. */
  readonly domain: string;
  /** Of the plan that the guest or the image belongs to; 0: of nobody that this room knows. */
  readonly epoch: number;
  /** A guest with root ran while the disk was in the machine. */
  readonly written: boolean;
  readonly atMs: number;
}

export interface FilledMap {
  epoch: number;
  revision: string;
  /** Of the image that the blocks come from. */
  digest: string;
  totalBytes: number;
  localBytes: number;
  /** Every local block is out of the write cache. */
  flushed: boolean;
  state: 'Valid' | 'Invalid';
}

export interface SimDisk {
  readonly name: string;
  serial: string;
  content: 'Unknown' | 'Blank' | 'Image';
  map?: FilledMap;
  /** Absent: blank. */
  data?: DataOf;
  wipedAtMs?: number;
}

/** What is true of it; where a reading may differ, the field says so. */
export interface SimMachine {
  readonly name: string;
  systemUuid: string;
  power: 'On' | 'Off';
  /** What its firmware does. */
  order: 'Network' | 'Disk';
  /** What the BMC says of the order, where that is something else. */
  orderShown?: 'Network' | 'Disk';
  serving: Serving;
  exported: 'Open' | 'Closed';
  image?: { url: string; digest: string; sizeBytes: number };
  stage: Stage;
  /** The switch ports that are recorded as this machine's; `cables` says which of them its own cables do not lead to. */
  ports: Port[];
  /** By name of the port: the machine as whose port the switch knows the one that the cable leads to. */
  cables: Record<string, string>;
  disks: SimDisk[];
  /** At the boot server, for the next boot. */
  plan?: VmmPlan;
  /** At the boot server: under which plan a map was begun last. */
  begunEpoch?: number;
  /** Of the VMM that is resident, or was when the guest was started. */
  running?: VmmPlan;
  /** Boots of a guest under the epoch of the newest plan. */
  starts: { epoch: number; count: number };
  guestIo: number;
  maxRateBytes?: number;
  trusted: TrustedBoot;
  failure?: Failure;
  /** Epoch of the plan under which it failed. */
  failedEpoch?: number;
  changes: Partial<Record<Channel, Change>>;
  jobs: Partial<Record<JobKind, Job>>;
  ghosts: Ghost[];
  faults: Partial<Record<FaultKind, ActiveFault>>;
  /** Counts boots, of whatever; names one. */
  boots: number;
  /** Bytes of images that this machine's VMM read. */
  readBytes: number;
}

export interface TrustedBoot {
  nonce: string;
  /** Serial numbers as the image says them. */
  wiped: string[];
  checked: boolean;
  /** Disks that the wiper has been at. */
  done: number;
  /** Serial numbers of disks that it says it wiped and did not. */
  missed: string[];
}

export const noTrustedBoot = (): TrustedBoot => ({ nonce: '', wiped: [], checked: false, done: 0, missed: [] });

export function digestHex(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

/** A version-5-shaped UUID of the name, so that a machine is the same after its records were lost. */
function uuidOf(name: string): string {
  const hex = digestHex(name);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

function addressOf(name: string, port: string, kind: Port['kind']): string {
  const hex = digestHex(`${name}/${port}`);
  const pairs = (count: number): string => (hex.slice(0, count * 2).match(/../g) ?? []).join(':');
  // 02: locally administered, so that no real vendor's address is used.
  return kind === 'Ethernet' ? `02:${pairs(5)}` : pairs(8);
}

/** A machine as delivered: off, its disks of unknown content, its ports in nobody's domain. */
export function newMachine(name: string, shape: MachineShape): SimMachine {
  return {
    name,
    systemUuid: uuidOf(name),
    power: 'Off',
    order: 'Network',
    serving: 'Nothing',
    exported: 'Closed',
    stage: 'Dark',
    ports: shape.ports.map((port) => ({
      ...port,
      address: addressOf(name, port.name, port.kind),
      state: 'Ready',
      domain: port.role === 'Data' ? 'quarantine' : 'provisioning',
      ...(port.role === 'Data' ? { egress: 'None' as const } : {}),
    })),
    disks: shape.disks.map((disk) => ({
      name: disk.name,
      serial: `SIM-${name}-${disk.name}`,
      content: 'Unknown',
      data: { domain: 'delivery', epoch: 0, written: true, atMs: 0 },
    })),
    starts: { epoch: 0, count: 0 },
    guestIo: 0,
    trusted: noTrustedBoot(),
    changes: {},
    jobs: {},
    cables: {},
    ghosts: [],
    faults: {},
    boots: 0,
    readBytes: 0,
  };
}

export function factsOf(machine: SimMachine, shape: MachineShape): MachineFacts {
  return {
    systemUuid: machine.systemUuid,
    inventory: {
      architecture: shape.architecture,
      cores: shape.cores,
      memoryBytes: shape.memoryBytes,
      disks: shape.disks.map(({ name, sizeBytes, media }) => ({
        name,
        serial: machine.disks.find((disk) => disk.name === name)?.serial ?? '',
        sizeBytes,
        media,
      })),
    },
  };
}

export const vmmResident = ({ stage }: SimMachine): boolean => stage === 'GuestBooting' || stage === 'Guest';

/** A guest executes instructions. */
export const guestRuns = (machine: SimMachine): boolean => vmmResident(machine) || machine.stage === 'BareMetal';

export const targetOf = (machine: SimMachine): SimDisk | undefined =>
  machine.running === undefined ? undefined : machine.disks.find((disk) => disk.name === machine.running?.disk);

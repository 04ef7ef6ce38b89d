/**
 * The state of a simulated machine: plain data, all of it stored, so that a machine outlives the process that plays it.
 */
import { createHash } from 'node:crypto';
import type { Failure, Port } from '../../../controller/api/protocol.generated.ts';
import type { Change, MachineFacts, Serving, VmmPlan } from '../port.ts';
import type { MachineShape } from './options.ts';

/** What the machine is doing, from power on. `Stuck`: nothing to boot. */
export type Stage =
  | 'Dark'
  | 'Post'
  | 'VmmLoading'
  | 'GuestBooting'
  | 'Guest'
  | 'TrustedLoading'
  | 'Trusted'
  | 'BareMetal'
  | 'Stuck';

export type JobKind = 'power' | 'order' | 'data' | 'control' | 'export' | 'serving' | 'stage' | 'shutdown' | 'vmm';

export interface Job {
  /** In the room's own time. */
  dueMs: number;
  readonly token: string;
  /** What it brings about; its form depends on the kind. */
  readonly to: string;
  readonly egress?: 'None' | 'Shared' | 'Internet';
  /** Decided when it was asked for. */
  readonly fails: boolean;
}

export interface SimDisk {
  readonly name: string;
  readonly serial: string;
  content: 'Unknown' | 'Blank' | 'Image';
  map?: { epoch: number; revision: string; totalBytes: number; localBytes: number; state: 'Valid' | 'Invalid' };
}

export interface SimMachine {
  readonly name: string;
  readonly systemUuid: string;
  power: 'On' | 'Off';
  order: 'Network' | 'Disk';
  serving: Serving;
  exported: 'Open' | 'Closed';
  image?: { url: string; digest: string; sizeBytes: number };
  stage: Stage;
  ports: Port[];
  disks: SimDisk[];
  /** At the boot server, for the next boot. */
  plan?: VmmPlan;
  /** Of the VMM that is resident, or was when the guest was started. */
  running?: VmmPlan;
  /** Boots of a guest under the epoch of the newest plan. */
  starts: { epoch: number; count: number };
  guestIo: number;
  maxRateBytes?: number;
  trusted: { nonce: string; wiped: string[]; checked: boolean };
  failure?: Failure;
  /** Epoch of the plan under which it failed. */
  failedEpoch?: number;
  changes: Partial<Record<'power' | 'order' | 'data' | 'control' | 'export' | 'serving' | 'vmm', Change>>;
  jobs: Partial<Record<JobKind, Job>>;
}

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
    disks: shape.disks.map((disk) => ({ name: disk.name, serial: `SIM-${name}-${disk.name}`, content: 'Unknown' })),
    starts: { epoch: 0, count: 0 },
    guestIo: 0,
    trusted: { nonce: '', wiped: [], checked: false },
    changes: {},
    jobs: {},
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
        serial: `SIM-${machine.name}-${name}`,
        sizeBytes,
        media,
      })),
    },
  };
}

export const vmmResident = ({ stage }: SimMachine): boolean => stage === 'GuestBooting' || stage === 'Guest';

export const targetOf = (machine: SimMachine): SimDisk | undefined =>
  machine.running === undefined ? undefined : machine.disks.find((disk) => disk.name === machine.running?.disk);

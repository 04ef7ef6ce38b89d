/**
 * The simulated machine room as data: what its machines are made of, how long things take, how often they fail.
 * All durations are milliseconds of the room's own time; a room that runs faster gets a faster clock.
 */
import type { Failure } from '../../../controller/api/protocol.generated.ts';
import type { FaultRates } from './faults.ts';

export interface DiskShape {
  readonly name: string;
  readonly sizeBytes: number;
  readonly media: 'NVMe' | 'SSD' | 'HDD';
  readonly writeBytesPerSecond: number;
}

export interface MachineShape {
  readonly architecture: 'x86_64' | 'aarch64';
  readonly cores: number;
  readonly memoryBytes: number;
  readonly disks: readonly DiskShape[];
  readonly ports: readonly {
    readonly name: string;
    readonly role: 'Data' | 'Control';
    readonly kind: 'Ethernet' | 'InfiniBand';
  }[];
}

const gibibyte = 2 ** 30;

/** TSUBAME2's thin node (two 6-core Xeons, 54 GB, two SSDs, GbE and InfiniBand), with a port for the VMM. */
const thinNode: MachineShape = {
  architecture: 'x86_64',
  cores: 12,
  memoryBytes: 54 * gibibyte,
  disks: [
    { name: 'sda', sizeBytes: 64 * gibibyte, media: 'SSD', writeBytesPerSecond: 200e6 },
    { name: 'sdb', sizeBytes: 64 * gibibyte, media: 'SSD', writeBytesPerSecond: 200e6 },
  ],
  ports: [
    { name: 'eth0', role: 'Data', kind: 'Ethernet' },
    { name: 'ib0', role: 'Data', kind: 'InfiniBand' },
    { name: 'mgmt0', role: 'Control', kind: 'Ethernet' },
  ],
};

/** Each is stretched by up to `spread` of itself, by chance. */
export interface Durations {
  readonly power: number;
  readonly bootOrder: number;
  readonly fabric: number;
  readonly imageOpen: number;
  readonly serve: number;
  /** Power on until the network boot asks the boot server. */
  readonly post: number;
  readonly vmmLoad: number;
  readonly guestBoot: number;
  readonly trustedBoot: number;
  readonly shutdown: number;
  /** Emptying the disk's write cache after the last block. */
  readonly flush: number;
  readonly devirtualize: number;
  readonly attest: number;
  readonly wipeQuick: number;
  readonly wipeCrypto: number;
  readonly check: number;
}

const realDurations: Durations = {
  power: 2_000,
  bootOrder: 1_000,
  fabric: 3_000,
  imageOpen: 2_000,
  serve: 200,
  post: 60_000,
  vmmLoad: 5_000,
  guestBoot: 30_000,
  trustedBoot: 30_000,
  shutdown: 10_000,
  flush: 500,
  devirtualize: 100,
  attest: 3_000,
  wipeQuick: 10_000,
  wipeCrypto: 2_000,
  check: 15_000,
};

/** What can fail, each time it is done. `guestBoot` shows as a guest that never starts, the others as errors. */
export const failingSteps = [
  'power',
  'bootOrder',
  'fabric',
  'imageOpen',
  'vmmLoad',
  'guestBoot',
  'disk',
  'devirtualize',
  'attest',
  'wipe',
  'check',
] as const;

export type FailingStep = (typeof failingSteps)[number];

export interface RoomOptions {
  readonly machine: MachineShape;
  readonly durations: Durations;
  readonly spread: number;
  /** Everything takes no time at all, the copy included; for benchmarks of what is around the room. */
  readonly zeroDelays: boolean;
  /** Shared by the streams of a rack. */
  readonly imageServerBytesPerSecond: number;
  /** How much of a disk's time a guest takes for itself, 0 to 1; drawn for each boot between 0 and this. */
  readonly guestIo: number;
  /** 0 to 1, per step. */
  readonly failureRates: Readonly<Partial<Record<FailingStep, number>>>;
  /** Of the other faults, by kind. */
  readonly faultRates: FaultRates;
  /**
   * How the drivers know who speaks to them. `Port`, `Key`: the boot server goes by the switch port that a request comes
   * from, the channel to a hypervisor by a key of that boot. `Mac`, `Word`: they believe what they are told; for tests that
   * must show what follows from it.
   */
  readonly identity: { readonly boot: 'Port' | 'Mac'; readonly channel: 'Key' | 'Word' };
  /** URLs whose content is no longer what was published. */
  readonly rottenImages: readonly string[];
  /** Events that a rack keeps; 0: none. */
  readonly historyLimit: number;
}

export const defaultRoom: RoomOptions = {
  machine: thinNode,
  durations: realDurations,
  spread: 0.2,
  zeroDelays: false,
  // 10 GbE.
  imageServerBytesPerSecond: 1.25e9,
  guestIo: 0.125,
  failureRates: {},
  faultRates: {},
  identity: { boot: 'Port', channel: 'Key' },
  rottenImages: [],
  historyLimit: 10_000,
};

export const simulatedFailure = (code: Failure['code'], message: string, retryable = true): Failure => ({
  code,
  message,
  retryable,
});

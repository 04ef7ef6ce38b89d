/**
 * What a machine of the lab is made of, and how its parts are called.
 *
 * Invariant: a machine's identity follows from its rack and its place in it alone, so it is the same after every record was lost.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { MachineFacts } from '../port.ts';

export interface DiskShape {
  readonly name: string;
  /** A multiple of 1 MiB. */
  readonly sizeBytes: number;
  readonly media: 'NVMe' | 'SSD' | 'HDD';
}

export interface MachineShape {
  readonly memoryMiB: number;
  readonly disks: readonly DiskShape[];
}

const mebi = 2 ** 20;

/** Small enough for four of them on a laptop, and for a wipe that reads everything back: an image of 64 MiB fits on the first disk. */
export const defaultShape: MachineShape = {
  memoryMiB: 128,
  disks: [
    { name: 'sda', sizeBytes: 72 * mebi, media: 'SSD' },
    { name: 'sdb', sizeBytes: 16 * mebi, media: 'HDD' },
  ],
};

/** A machine of a rack, its files and its addresses. */
export interface MachineSpec {
  readonly name: string;
  /** Its place in the rack, from 0 to 199: names of taps and addresses follow from it. */
  readonly index: number;
  readonly shape: MachineShape;
  /** Disks, maps, logs: what outlives the machine's power. */
  readonly directory: string;
  /** Sockets; a short path, because the system bounds those. */
  readonly runDirectory: string;
  /** Network namespace of the rack. */
  readonly netns: string;
}

export type PortRole = 'Data' | 'Control';
export const roles: readonly PortRole[] = ['Data', 'Control'];

const hexByte = (value: number): string => value.toString(16).padStart(2, '0');

/** 52:54:00 is QEMU's own prefix for machines of no vendor. */
export const macAddress = (index: number, role: PortRole): string =>
  `52:54:00:00:${hexByte(index)}:${role === 'Data' ? '01' : '02'}`;

/** The device as the guest and QMP know it, and the port's name in the fabric. */
export const portName = (role: PortRole): string => (role === 'Data' ? 'data0' : 'ctl0');

/** Virtio bounds a serial number at 20 bytes. */
export function diskSerial(node: string, disk: string): string {
  const readable = `${node}-${disk}`;
  return readable.length <= 20 ? readable : createHash('sha256').update(readable).digest('hex').slice(0, 20);
}

export const diskPath = ({ directory }: MachineSpec, disk: string): string => join(directory, `${disk}.raw`);

export function systemUuid(node: string): string {
  const hex = createHash('sha256').update(`bitvisor lab ${node}`).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

export function factsOf({ name, shape }: MachineSpec): MachineFacts {
  return {
    systemUuid: systemUuid(name),
    inventory: {
      architecture: 'x86_64',
      cores: 1,
      memoryBytes: shape.memoryMiB * mebi,
      disks: shape.disks.map((disk) => ({ ...disk, serial: diskSerial(name, disk.name) })),
    },
  };
}

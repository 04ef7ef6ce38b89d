/**
 * Which drivers the agents of a configuration have: the simulated machine room, or machines that QEMU plays.
 *
 * Invariant: what the drivers need is loaded when they are asked for, so that a site without them needs none of it.
 */
import type { OpenDrivers } from '../../agent/main.ts';

/** Machines that QEMU plays on this host, see docs/lab.md. Paths are relative to the file. */
export interface QemuConfig {
  /** Kernel and initramfs of the trusted image. */
  readonly trusted: { readonly kernel: string; readonly initrd: string };
  /** Directories whose files environments may name with file://. */
  readonly origins?: readonly string[];
  /** Bytes a second that the rack's image server sends to all machines together. */
  readonly rateBytes?: number;
  /** Machines go on when the agent ends in order; they do in any case when it is killed. */
  readonly keepMachines?: boolean;
}

export interface DriversConfig {
  /** Default "simulated". */
  readonly drivers?: 'simulated' | 'qemu';
  readonly qemu?: QemuConfig;
}

const text = { type: 'string', minLength: 1, maxLength: 4096 };
const closed = (required: string[], properties: object): object => {
  return { type: 'object', additionalProperties: false, required, properties };
};

/** Of the configuration's JSON schema. */
export const driversSchema = {
  drivers: { enum: ['simulated', 'qemu'] },
  qemu: closed(['trusted'], {
    trusted: closed(['kernel', 'initrd'], { kernel: text, initrd: text }),
    origins: { type: 'array', maxItems: 64, items: text },
    rateBytes: { type: 'number', exclusiveMinimum: 0 },
    keepMachines: { type: 'boolean' },
  }),
};

/**
 * @param at resolves a path of the file
 * @returns undefined for the simulated machine room
 * @throws Error for people when a section is missing
 */
export async function driversOf(
  { drivers = 'simulated', qemu }: DriversConfig,
  at: (path: string) => string,
): Promise<OpenDrivers | undefined> {
  if (drivers === 'simulated') return undefined;
  if (qemu === undefined) throw new Error('drivers: qemu needs the section qemu; docs/lab.md shows one');
  const { openLab } = await import('../../agent/drivers/qemu/open.ts');
  const { trusted, origins = [], ...rest } = qemu;
  const settings = {
    ...rest,
    trustedImage: { kernel: at(trusted.kernel), initrd: at(trusted.initrd) },
    originDirectories: origins.map(at),
  };
  return ({ nodes }, context) => openLab(nodes, settings, context);
}

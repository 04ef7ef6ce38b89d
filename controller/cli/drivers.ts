/**
 * Which drivers the agents of a configuration have: the simulated machine room, machines that QEMU plays, or real ones.
 *
 * Invariant: what the drivers need is loaded when they are asked for, so that a site without them needs none of it.
 */
import {
  type AttestationSettings,
  attestationSchema,
  withAttestationPaths,
} from '../../agent/drivers/boot/attestation-settings.ts';
import { type TrustedImage, trustedImageAt, trustedImageSchema } from '../../agent/drivers/boot/trusted-boot.ts';
import { type HardwareSettings, hardwareSchema } from '../../agent/drivers/hardware/settings.ts';
import type { OpenDrivers } from '../../agent/main.ts';

/** Machines that QEMU plays on this host, see docs/lab.md. Paths are relative to the file. */
export interface QemuConfig {
  readonly trusted: TrustedImage;
  /** Machines have a TPM, boot the trusted image by UEFI, and are attested by a quote; absent: by the token of the boot. */
  readonly attestation?: AttestationSettings;
  /** Directories whose files environments may name with file://. */
  readonly origins?: readonly string[];
  /** Bytes a second that the rack's image server sends to all machines together. */
  readonly rateBytes?: number;
  /** Machines go on when the agent ends in order; they do in any case when it is killed. */
  readonly keepMachines?: boolean;
}

export interface DriversConfig {
  /** Default "simulated". */
  readonly drivers?: 'simulated' | 'qemu' | 'hardware';
  readonly qemu?: QemuConfig;
  /** Real machines, see docs/hardware.md. Paths are relative to the file. */
  readonly hardware?: HardwareSettings;
}

const text = { type: 'string', minLength: 1, maxLength: 4096 };
const closed = (required: string[], properties: object): object => {
  return { type: 'object', additionalProperties: false, required, properties };
};

/** Of the configuration's JSON schema. */
export const driversSchema = {
  drivers: { enum: ['simulated', 'qemu', 'hardware'] },
  hardware: hardwareSchema,
  qemu: closed(['trusted'], {
    trusted: trustedImageSchema,
    attestation: attestationSchema,
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
  { drivers = 'simulated', qemu, hardware }: DriversConfig,
  at: (path: string) => string,
): Promise<OpenDrivers | undefined> {
  if (drivers === 'simulated') return undefined;
  if (drivers === 'hardware') {
    if (hardware === undefined)
      throw new Error('drivers: hardware needs the section hardware; docs/hardware.md shows one');
    const [{ openHardware }, { withPaths }] = await Promise.all([
      import('../../agent/drivers/hardware/open.ts'),
      import('../../agent/drivers/hardware/paths.ts'),
    ]);
    return ({ nodes }, context) => openHardware(nodes, withPaths(hardware, at), context);
  }
  if (qemu === undefined) throw new Error('drivers: qemu needs the section qemu; docs/lab.md shows one');
  const { openLab } = await import('../../agent/drivers/qemu/open.ts');
  const { trusted, attestation, origins = [], ...rest } = qemu;
  const settings = {
    ...rest,
    trustedImage: trustedImageAt(trusted, at),
    ...(attestation === undefined ? {} : { attestation: withAttestationPaths(attestation, at) }),
    originDirectories: origins.map(at),
  };
  return ({ nodes }, context) => openLab(nodes, settings, context);
}

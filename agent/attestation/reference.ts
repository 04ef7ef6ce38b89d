/**
 * Reference values of a trusted image: the digests by which a measured boot of it is known. A file beside the image, made by the command
 * that builds it. Pure.
 *
 * Invariants:
 * 1. The values are computed from the one file that machines boot; nothing is taken from a machine.
 * 2. What is read has the form that is written, and is bounded; anything else is refused with what is wrong.
 */
import { createHash } from 'node:crypto';
import { authenticodeDigest, peSection } from './authenticode.ts';

export interface ReferenceValues {
  readonly version: 1;
  /** For people: which image, such as its file's name. */
  readonly name: string;
  /** Authenticode digests, hexadecimal, of what runs one after the other: loaders, the unified image, the kernel in it. */
  readonly applications: readonly string[];
  /** SHA-256 of the initramfs, hexadecimal. */
  readonly initrd: string;
}

/** What a file of reference values is called after: `trusted.efi` has `trusted.efi.reference.json`. */
export const referenceSuffix = '.reference.json';

const mostLoaders = 14;
const hex = /^[0-9a-f]{64}$/;

/**
 * @param unified the file that is booted: systemd's EFI stub with the sections `.linux` and `.initrd`
 * @param loaders EFI programs that firmware loads before it, in their order, such as an iPXE that comes by TFTP
 * @throws Error when one of them is no such file
 */
export function referenceOf(unified: Buffer, name: string, loaders: readonly Buffer[] = []): ReferenceValues {
  const kernel = peSection(unified, '.linux');
  const initrd = peSection(unified, '.initrd');
  return {
    version: 1,
    name,
    applications: [...loaders, unified, kernel].map(authenticodeDigest),
    initrd: createHash('sha256').update(initrd).digest('hex'),
  };
}

/** @throws Error that says what is wrong */
export function parseReference(text: string): ReferenceValues {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error('it is no JSON');
  }
  const { version, name, applications, initrd } = (value ?? {}) as Partial<Record<keyof ReferenceValues, unknown>>;
  if (version !== 1) throw new Error('its version is not 1');
  if (typeof name !== 'string' || name === '' || name.length > 256) throw new Error('it has no name');
  if (typeof initrd !== 'string' || !hex.test(initrd)) throw new Error('initrd is no SHA-256');
  const isList = Array.isArray(applications) && applications.length >= 2 && applications.length <= mostLoaders + 2;
  if (!isList || !applications.every((digest) => typeof digest === 'string' && hex.test(digest))) {
    throw new Error(`applications are not 2 to ${mostLoaders + 2} SHA-256 digests`);
  }
  return { version, name, applications: applications as string[], initrd };
}

/** A measured boot to try policies on: made-up applications, real digests. */
import { createHash } from 'node:crypto';
import type { BootPolicy } from '../../agent/attestation/policy.ts';
import { algorithm, u16, u32 } from '../../agent/attestation/tpm-bytes.ts';

export interface Measured {
  readonly pcr: number;
  readonly type: number;
  readonly digest: Buffer;
  readonly data: Buffer;
}

const hash = (bytes: Buffer | string): Buffer => createHash('sha256').update(bytes).digest();
export const event = (
  pcr: number,
  type: number,
  data: Buffer | string,
  measuredAs: Buffer | string = data,
): Measured => ({
  pcr,
  type,
  digest: hash(measuredAs),
  data: Buffer.from(data),
});

const hex = (text: string): string => hash(text).toString('hex');
const firmware = hex('firmware');
export const rom = hex('rom');
const stub = hex('stub');
export const kernel = hex('kernel');
const commandLine = 'trusted.efi console=ttyS0 bitvisor.token=00';

/** As a machine with UEFI firmware measures: firmware, settings, option ROM, separators, applications, kernel. */
export function bootEvents(given = commandLine): Measured[] {
  const zeros = Buffer.alloc(4);
  return [
    event(0, 0x8000_0008, 'base and length', 'firmware'),
    event(7, 0x8000_0001, 'SecureBoot'),
    event(2, 0x8000_0004, 'path', 'rom'),
    event(1, 0x8000_0002, 'BootOrder and the port’s address'),
    event(4, 0x8000_0007, 'Calling EFI Application from Boot Option'),
    ...[0, 1, 2, 3, 4, 5, 6, 7].map((pcr) => event(pcr, 4, zeros)),
    event(4, 0x8000_0003, 'path', 'stub'),
    event(4, 0x8000_0003, 'path', 'stub'),
    event(4, 0x8000_0003, 'path', 'kernel'),
    event(9, 6, 'LOADED_IMAGE::LoadOptions', Buffer.from(`${given}\0`, 'utf16le')),
    event(9, 6, 'Linux initrd', 'initrd'),
    event(5, 0x8000_0007, 'Exit Boot Services Returned with Success'),
  ];
}

export function policyOf(changed: Partial<BootPolicy> = {}): BootPolicy {
  return {
    applications: [stub, kernel],
    initrd: hex('initrd'),
    commandLine,
    others: [rom],
    firmware: [firmware],
    ...changed,
  };
}

const le32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const le16 = (value: number): Buffer => le32(value).subarray(0, 2);

/** In the crypto-agile form, with the digests of SHA-256 alone. */
export function eventLog(events: readonly Measured[]): Buffer {
  const header = Buffer.concat([
    Buffer.from('Spec ID Event03\0', 'latin1'),
    ...[le32(0), Buffer.from([0, 2, 0, 2]), le32(1), le16(algorithm.sha256), le16(32), Buffer.from([0])],
  ]);
  return Buffer.concat([
    ...[le32(0), le32(3), Buffer.alloc(20), le32(header.length), header],
    ...events.flatMap(({ pcr, type, digest, data }) => [
      ...[le32(pcr), le32(type), le32(1), le16(algorithm.sha256), digest, le32(data.length), data],
    ]),
  ]);
}

/** TPM2_PCR_Extend with an empty password. */
export function extendOf({ pcr, digest }: Measured): Buffer {
  const authorization = Buffer.concat([u32(0x4000_0009), Buffer.alloc(5)]);
  const body = Buffer.concat([
    ...[u32(pcr), u32(authorization.length), authorization, u32(1), u16(algorithm.sha256), digest],
  ]);
  return Buffer.concat([u16(0x8002), u32(body.length + 10), u32(0x182), body]);
}

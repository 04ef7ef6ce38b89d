/**
 * The boot record (docs/vmm-channel.md, "Transport"): what the boot server tells the VMM of one start of one machine.
 *
 * Invariant: 128 bytes, all of them defined; a record that is not exactly so is no record.
 */
import { isIPv4, isIPv6, SocketAddress } from 'node:net';
import type { BootKey } from './agent-side.ts';

const bootRecordBytes = 128;
const magic = 'BVBOOT1\0';

export interface BootRecord extends BootKey {
  readonly epoch: bigint;
  /** The agent's: IPv4 or IPv6. */
  readonly address: string;
  readonly port: number;
  /** TLS 1.2 with the key as PSK. */
  readonly tls: boolean;
}

export function encodeBootRecord(record: BootRecord): Buffer {
  const bytes = Buffer.alloc(bootRecordBytes);
  bytes.write(magic, 0, 'latin1');
  bytes.writeBigUInt64LE(record.epoch, 8);
  record.bootId.copy(bytes, 16, 0, 16);
  record.key.copy(bytes, 32, 0, 32);
  addressBytes(record.address).copy(bytes, 64);
  bytes.writeUInt16LE(record.port, 80);
  bytes.writeUInt16LE(record.tls ? 1 : 0, 82);
  return bytes;
}

/** @throws Error when the bytes are no boot record */
export function decodeBootRecord(bytes: Buffer): BootRecord {
  if (bytes.length !== bootRecordBytes || bytes.toString('latin1', 0, 8) !== magic) throw new Error('no boot record');
  const flags = bytes.readUInt16LE(82);
  if (flags > 1 || bytes.subarray(84).some((byte) => byte !== 0))
    throw new Error('the boot record has undefined fields');
  return {
    epoch: bytes.readBigUInt64LE(8),
    bootId: Buffer.from(bytes.subarray(16, 32)),
    key: Buffer.from(bytes.subarray(32, 64)),
    address: addressText(bytes.subarray(64, 80)),
    port: bytes.readUInt16LE(80),
    tls: flags === 1,
  };
}

const mapped = Buffer.from('00000000000000000000ffff', 'hex');

function addressBytes(address: string): Buffer {
  if (isIPv4(address)) return Buffer.concat([mapped, Buffer.from(address.split('.').map(Number))]);
  if (!isIPv6(address) || address.includes('.') || address.includes('%')) {
    throw new Error(`${address} is no address that a boot record holds`);
  }
  const [head = '', tail] = address.split('::');
  const groups = (text: string): string[] => (text === '' ? [] : text.split(':'));
  const [left, right] = [groups(head), groups(tail ?? '')];
  const zeros = Array.from({ length: tail === undefined ? 0 : 8 - left.length - right.length }, () => '0');
  return Buffer.from([...left, ...zeros, ...right].map((group) => group.padStart(4, '0')).join(''), 'hex');
}

function addressText(bytes: Buffer): string {
  if (bytes.subarray(0, 12).equals(mapped)) return [...bytes.subarray(12)].join('.');
  const groups = (bytes.toString('hex').match(/.{4}/g) ?? []).join(':');
  return new SocketAddress({ address: groups, family: 'ipv6' }).address;
}

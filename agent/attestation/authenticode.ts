/**
 * PE/COFF files as UEFI firmware sees them: their sections, and the digest by which an application is measured: SHA-256 of the file without
 * its checksum, its directory entry of certificates, and the certificates (Microsoft's Authenticode description).
 */
import { createHash } from 'node:crypto';

/** Hexadecimal. @throws Error when the bytes are no PE/COFF file of x86-64 */
export function authenticodeDigest(file: Buffer): string {
  const pe = headerOf(file);
  const optional = pe + 24;
  if (file.readUInt16LE(optional) !== 0x20b) throw new Error('no PE32+ file');
  const checksum = optional + 64;
  const headersEnd = file.readUInt32LE(optional + 60);
  const certificateEntry = optional + 112 + 4 * 8;
  const hasEntry = file.readUInt32LE(optional + 108) > 4;
  const certificateBytes = hasEntry ? file.readUInt32LE(certificateEntry + 4) : 0;
  const hash = createHash('sha256');
  hash.update(file.subarray(0, checksum));
  hash.update(file.subarray(checksum + 4, hasEntry ? certificateEntry : headersEnd));
  if (hasEntry) hash.update(file.subarray(certificateEntry + 8, headersEnd));
  let hashed = headersEnd;
  for (const { offset, size } of sections(file, pe)) {
    hash.update(file.subarray(offset, offset + size));
    hashed += size;
  }
  // What lies behind the sections and before the certificates.
  if (file.length - certificateBytes > hashed) hash.update(file.subarray(hashed, file.length - certificateBytes));
  return hash.digest('hex');
}

function headerOf(file: Buffer): number {
  if (file.length < 1024 || file.toString('latin1', 0, 2) !== 'MZ') throw new Error('no PE file');
  const pe = file.readUInt32LE(0x3c);
  if (pe > file.length - 512 || file.toString('latin1', pe, pe + 4) !== 'PE\0\0') throw new Error('no PE file');
  return pe;
}

interface Section {
  readonly name: string;
  readonly offset: number;
  /** In the file, padded. */
  readonly size: number;
  /** Of what it holds. */
  readonly bytes: number;
}

function sections(file: Buffer, pe: number): Section[] {
  const table = pe + 24 + file.readUInt16LE(pe + 20);
  const count = file.readUInt16LE(pe + 6);
  if (table + count * 40 > file.length) throw new Error('the PE file ends within its table of sections');
  return Array.from({ length: count }, (_, index) => table + index * 40)
    .map((at) => ({
      name: file.toString('latin1', at, at + 8).replace(/\0+$/, ''),
      bytes: file.readUInt32LE(at + 8),
      size: file.readUInt32LE(at + 16),
      offset: file.readUInt32LE(at + 20),
    }))
    .filter(({ size }) => size > 0)
    .sort((a, b) => a.offset - b.offset);
}

/** What the section holds. @throws Error when the bytes are no PE file with one whole section of this name */
export function peSection(file: Buffer, name: string): Buffer {
  const [found, second] = sections(file, headerOf(file)).filter((section) => section.name === name);
  if (found === undefined || second !== undefined) throw new Error(`the PE file has not one section ${name}`);
  const end = found.offset + Math.min(found.bytes, found.size);
  if (end > file.length) throw new Error(`the PE file ends within its section ${name}`);
  return file.subarray(found.offset, end);
}

/** A guest in one sector: says on the serial port that it runs, and halts. Behind it lie bytes that show which image it is. */
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';

/** cli; ds = 0; for each byte from 0x7c20 up to a zero: out 0x3f8; then hlt for ever. */
const program = Buffer.from('fa31c08ed8be207cac84c07406baf803eeebf5f4ebfd', 'hex');

export interface SectorImage {
  readonly path: string;
  readonly sizeBytes: number;
  readonly sha256: string;
  readonly bytes: Buffer;
  /** What it prints. */
  readonly marker: string;
}

export function makeSectorImage(path: string, name: string, sizeBytes: number): SectorImage {
  const marker = `SECTOR-${name}`;
  const bytes = Buffer.alloc(sizeBytes);
  for (let at = 0, seed = createHash('sha256').update(name).digest(); at < sizeBytes; at += 32) {
    seed = createHash('sha256').update(seed).digest();
    seed.copy(bytes, at);
  }
  bytes.fill(0, 0, 512);
  program.copy(bytes, 0);
  bytes.write(`\r\n${marker}\r\n`, 0x20, 'latin1');
  bytes.writeUInt16LE(0xaa55, 510);
  writeFileSync(path, bytes);
  return { path, sizeBytes, sha256: createHash('sha256').update(bytes).digest('hex'), bytes, marker };
}

/**
 * A guest in one sector: says on the serial port that it runs, and resets the machine when it is sent a byte there. Behind it lie
 * bytes that show which image it is.
 */
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';

/**
 * ds = 0; each byte from 0x7c40 up to a zero goes to port 0x3f8; then waits for a key (int 0x16), which the firmware takes
 * from the serial port; then 6 to port 0xcf9.
 */
const program = Buffer.from(
  ['fa31c08ed8be407c', 'ac84c07406baf803eeebf5', 'fb30e4cd16', 'baf90cb006eef4ebfd'].join(''),
  'hex',
);

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
  bytes.write(`\r\n${marker}\r\n`, 0x40, 'latin1');
  bytes.writeUInt16LE(0xaa55, 510);
  writeFileSync(path, bytes);
  return { path, sizeBytes, sha256: createHash('sha256').update(bytes).digest('hex'), bytes, marker };
}

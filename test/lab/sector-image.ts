/**
 * A guest in one sector: says on the serial port that it runs. Sent an "r" there, it resets the machine; sent anything else, it says "?", reads
 * the image's last sector, and says what stands there. Behind it lie bytes that show which image it is.
 */
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';

const messageAt = 0x80;
const packetAt = 0x70;
const sectorBytes = 512;
/**
 * ds = 0; each byte from 0x7c80 up to a zero goes to port 0x3f8. Then it waits for a key (int 0x16), which the firmware takes from the serial
 * port: "r" sends 6 to port 0xcf9; any other has a sector read to 0x7e00 (int 0x13, function 0x42, with the packet at 0x7c70), and what stands there goes
 * to port 0x3f8 as above.
 */
const program = Buffer.from(
  [
    ...['fa31c08ed8be807c', 'ac84c07406baf803eeebf5'],
    ...['fb30e4cd163c727414', 'baf803b03fee', 'be707cb442b280cd13', 'be007eebd8', 'baf90cb006eef4ebfd'],
  ].join(''),
  'hex',
);

/** Of int 0x13: one sector to 0000:7e00. */
function packet(sector: number): Buffer {
  const bytes = Buffer.from('10000100007e00000000000000000000', 'hex');
  bytes.writeUInt32LE(sector, 8);
  return bytes;
}

export interface SectorImage {
  readonly path: string;
  readonly sizeBytes: number;
  readonly sha256: string;
  readonly bytes: Buffer;
  /** What it prints. */
  readonly marker: string;
  /** What stands in its last sector. */
  readonly lastWords: string;
}

export function makeSectorImage(path: string, name: string, sizeBytes: number): SectorImage {
  const marker = `SECTOR-${name}`;
  const bytes = Buffer.alloc(sizeBytes);
  for (let at = 0, seed = createHash('sha256').update(name).digest(); at < sizeBytes; at += 32) {
    seed = createHash('sha256').update(seed).digest();
    seed.copy(bytes, at);
  }
  bytes.fill(0, 0, sectorBytes);
  program.copy(bytes, 0);
  packet(sizeBytes / sectorBytes - 1).copy(bytes, packetAt);
  bytes.write(`\r\n${marker}\r\n`, messageAt, 'latin1');
  const lastWords = `LAST-WORDS-${name}`;
  bytes.fill(0, sizeBytes - sectorBytes);
  bytes.write(`\r\n${lastWords}\r\n`, sizeBytes - sectorBytes, 'latin1');
  bytes.writeUInt16LE(0xaa55, 510);
  writeFileSync(path, bytes);
  return { path, sizeBytes, sha256: createHash('sha256').update(bytes).digest('hex'), bytes, marker, lastWords };
}

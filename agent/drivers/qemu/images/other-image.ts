/**
 * A guest that is no operating system at all: 437 bytes of real-mode x86 in the boot sector.
 *
 * On COM1 (115200 8N1) it says, each on a line:
 *   OTHER-UP boots=00000001   how often it was started from this disk: a counter that it keeps in sector 1
 *   OTHER-AT lba=00000800     that it has read so far, each mebibyte
 *   OTHER-SUM 89abcdef        the sum of all little-endian 32-bit words from sector 64 to the end; then it reads again
 *   OTHER-ERR ax=00000400     what INT 13h answered when the disk failed; then it stops
 * So whoever sees the sum knows that every block came through whole, and the counter that its writes were kept.
 */
import { patternedBytes } from './pattern.ts';

/** Offset in the image, machine code in hexadecimal. Assembled by hand; addresses are those of the code at 7c00h. */
const code: readonly [number, string][] = [
  // Segments and stack at 0, the boot drive kept.
  [0x000, 'ea057c0000 31c0 8ed8 8ec0 8ed0 bc007c 8816b47d'],
  // COM1: divisor latch, 115200 baud, 8N1.
  [0x014, 'bafb03 b080 ee baf803 b80100 ee 42 30c0 ee b003 bafb03 ee'],
  // Read sector 1, count this boot in it, write it back, say so.
  [0x02b, 'c706a27d0100 66c706a87d01000000 b442 e88000 66ff060080 b443 e87600 be187d e8be00 66a10080 e88b00'],
  // A pass: from sector 64, sum 0.
  [0x056, '66c706a87d40000000 6631ed'],
  // Next piece: what is left, 64 sectors at most; read; add up its words.
  [0x062, '66a1b07d 662b06a87d 7444 6683f840 7603 b84000 a3a27d b442 e84100'],
  [0x07e, '8b0ea27d c1e107 be0080 66ad 6601c5 e2f9'],
  // Go on; each 2048 sectors say how far.
  [0x08f, '660fb706a27d 660106a87d f706a87dff07 75c0 be287d e86500 66a1a87d e83200 ebb1'],
  // The end of a pass: say the sum, start again.
  [0x0b1, 'be367d e85600 6689e8 e82400 eb97'],
  // disk: INT 13h with the packet; on an error say what and stop.
  [0x0bf, 'bea07d 8a16b47d 6655 cd13 665d 7201 c3 50 be417d e83700 58 660fb7c0 e80300 f4 ebfd'],
  // hex: EAX as eight digits and a line feed; then putc, which waits for the transmitter.
  [0x0e1, '6689c3 b90800 66c1c304 88d8 240f 3c0a 7202 0427 0430 e80400 e2eb b00a'],
  [0x0fe, '50 bafd03 ec a820 74fb 58 baf803 ee c3'],
  // puts: the text at SI.
  [0x10d, 'ac 84c0 7405 e8e9ff ebf6 c3'],
];
const texts: readonly [number, string][] = [
  [0x118, 'OTHER-UP boots=\0'],
  [0x128, 'OTHER-AT lba=\0'],
  [0x136, 'OTHER-SUM \0'],
  [0x141, 'OTHER-ERR ax=\0'],
];
/** The disk address packet of INT 13h: size 16, one sector, to 0000:8000, from LBA 1. */
const packet: readonly [number, string] = [0x1a0, '10000100008000000100000000000000'];
const totalSectorsAt = 0x1b0;
const driveAt = 0x1b4;
const firstSummedByte = 64 * 512;

/** A whole image. `sizeBytes` is a multiple of one mebibyte. */
export function otherImage(sizeBytes: number): { readonly image: Buffer; readonly sum: string } {
  if (sizeBytes % (1 << 20) !== 0 || sizeBytes < 1 << 20) throw new Error('the size is a whole number of mebibytes');
  const image = Buffer.alloc(sizeBytes);
  for (const [at, hex] of [...code, packet]) image.write(hex.replaceAll(' ', ''), at, 'hex');
  for (const [at, text] of texts) image.write(text, at, 'latin1');
  image.writeUInt32LE(sizeBytes / 512, totalSectorsAt);
  image[driveAt] = 0x80;
  image.writeUInt16LE(0xaa55, 510);
  patternedBytes('other', 0, sizeBytes - firstSummedByte).copy(image, firstSummedByte);
  let sum = 0;
  for (let at = firstSummedByte; at < sizeBytes; at += 4) sum = (sum + image.readUInt32LE(at)) >>> 0;
  return { image, sum: sum.toString(16).padStart(8, '0') };
}

/**
 * What a machine's own boot adds to an image, and where: kernel arguments and the seed (host name, keys, user data).
 *
 * An image that takes them says so in its second sector (the layout). Both places have a fixed size, so that whoever mediates
 * the disk can fill them before the guest's first instruction without knowing a file system, and the local disk has them too:
 * - the boot entry: a whole file that the boot loader's configuration includes (boot.localArguments: LoaderEntry);
 * - the seed: between partition table and first partition.
 *
 * Layout, little endian: "BVLAYOUT", version u32 = 1, zero u32, boot entry offset u64 and length u32, zero u32, seed offset u64 and
 * length u32; offsets and lengths in bytes, a length of zero where the image takes none.
 *
 * Invariants:
 * 1. Nothing is written outside the two places; what does not fit is refused, never cut.
 * 2. An image without a layout is left alone, and refuses arguments.
 */

export interface Place {
  readonly offset: number;
  readonly length: number;
}

export interface Layout {
  readonly bootEntry: Place;
  readonly seed: Place;
}

export interface TenantData {
  readonly kernelArguments: readonly string[];
  readonly hostname: string;
  readonly sshKeys: readonly string[];
  /** The text that the environment gives; absent: none. */
  readonly userData?: string;
  /** Changes with each tenancy and re-imaging: user data runs once for each. */
  readonly instance: string;
}

export interface Write {
  readonly offset: number;
  readonly bytes: Buffer;
}

const magic = 'BVLAYOUT';
export const layoutOffset = 512;
/** Opens the boot entry: a comment for the boot loader. */
export const bootEntryTitle = '# BitVisor boot entry: arguments of this machine\n';
/** The kernel's own bound of its command line on x86, less what the image itself gives. */
const longestArguments = 1792;

export function layoutSector({ bootEntry, seed }: Layout): Buffer {
  const sector = Buffer.alloc(512);
  sector.write(magic, 0, 'latin1');
  sector.writeUInt32LE(1, 8);
  sector.writeBigUInt64LE(BigInt(bootEntry.offset), 16);
  sector.writeUInt32LE(bootEntry.length, 24);
  sector.writeBigUInt64LE(BigInt(seed.offset), 32);
  sector.writeUInt32LE(seed.length, 40);
  return sector;
}

/** Reads an image's second sector. `undefined`: the image takes nothing. Throws on a layout that points outside the image. */
export function readLayout(sector: Buffer, sizeBytes: number): Layout | undefined {
  if (sector.length < 44 || sector.toString('latin1', 0, 8) !== magic || sector.readUInt32LE(8) !== 1) return undefined;
  const place = (at: number): Place => ({
    offset: Number(sector.readBigUInt64LE(at)),
    length: sector.readUInt32LE(at + 8),
  });
  const layout = { bootEntry: place(16), seed: place(32) };
  for (const { offset, length } of [layout.bootEntry, layout.seed]) {
    if (length === 0) continue;
    if (offset < 1024 || length > 1 << 20 || offset + length > sizeBytes) {
      throw new Error(`the image's layout names ${length} bytes at ${offset}, outside of its ${sizeBytes} bytes`);
    }
  }
  return layout;
}

/** What to write on the disk before the guest starts. Throws an Error for people when the image cannot take it. */
export function tenantWrites(layout: Layout | undefined, data: TenantData): Write[] {
  const writes: Write[] = [];
  if (layout !== undefined && layout.bootEntry.length > 0) {
    writes.push({ offset: layout.bootEntry.offset, bytes: bootEntry(layout.bootEntry.length, data.kernelArguments) });
  } else if (data.kernelArguments.length > 0) {
    throw new Error(
      'the image has no boot entry that takes kernel arguments: build them into it (localArguments: InImage)',
    );
  }
  if (layout !== undefined && layout.seed.length > 0) {
    writes.push({ offset: layout.seed.offset, bytes: seed(layout.seed.length, data) });
  } else if (data.userData !== undefined) {
    throw new Error('the image has no place for user data');
  }
  return writes;
}

export function bootEntry(length: number, kernelArguments: readonly string[]): Buffer {
  const line = kernelArguments.join(' ');
  if (!/^[\x20-\x7e]*$/.test(line)) throw new Error('a kernel argument holds a character that no command line carries');
  if (line.length > longestArguments) {
    throw new Error(`the kernel arguments are ${line.length} characters long; the kernel takes ${longestArguments}`);
  }
  return filled(length, `${bootEntryTitle}${line === '' ? '' : `APPEND ${line}\n`}`, '#');
}

function seed(length: number, data: TenantData): Buffer {
  const lines = [
    `hostname=${data.hostname}`,
    `instance=${data.instance}`,
    ...data.sshKeys.map((key) => `ssh-key=${key}`),
  ];
  if (lines.some((line) => /[\n\r\0]/.test(line))) throw new Error('a host name or SSH key holds a line break');
  const body = `${lines.join('\n')}\n\n${data.userData ?? ''}`;
  return filled(length, `BITVISOR-SEED ${Buffer.byteLength(body)}\n${body}`, '\0');
}

function filled(length: number, text: string, filler: string): Buffer {
  const size = Buffer.byteLength(text);
  if (size > length) throw new Error(`${size} bytes do not fit into the ${length} bytes that the image keeps for them`);
  const bytes = Buffer.alloc(length, filler);
  bytes.write(text);
  return bytes;
}

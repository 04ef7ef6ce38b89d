/**
 * The digest tree of an image: a Merkle tree over its blocks, so that each block can be verified by itself.
 *
 * The format is that of fs-verity (Linux, `fsverity digest`), SHA-256 and no salt: a descriptor of 256 bytes that names size, block size
 * and root, and a tree whose blocks are as large as the image's. docs/images.md describes it byte by byte.
 *
 * Invariants:
 * 1. A tree is made from bytes alone: same image and block size, same tree, same digest.
 * 2. The digest of a tree is the SHA-256 of its descriptor. The descriptor fixes the number of levels, so no block of the tree can
 *    be taken for a block of the image.
 * 3. What `decodeDescriptor` and `DigestTree.from` accept is bounded and of one form: a reserved byte that is not zero is refused.
 */
import { createHash, timingSafeEqual } from 'node:crypto';

export const descriptorBytes = 256;
const hashBytes = 32;
/** 64 KiB: half a millisecond at 1 Gbit/s, qcow2's cluster size, and a tree of 0.05 % of the image. */
export const defaultBlockBytes = 65_536;
const leastBlockBytes = 4096;
const mostBlockBytes = 1_048_576;
/** What a disk is made of. No whole image is therefore as long as a descriptor. */
export const sectorBytes = 512;
/** fs-verity's numbers: FS_VERITY version and FS_VERITY_HASH_ALG_SHA256. */
const version = 1;
const sha256Algorithm = 1;

const at = { version: 0, algorithm: 1, logBlock: 2, saltBytes: 3, size: 8, root: 16, rest: 48 } as const;

/** A tree that is not one, or is of another image; the message is a sentence for people. */
export class TreeError extends Error {
  override readonly name = 'TreeError';
}

export interface TreeDescriptor {
  /** Of the image, in bytes. */
  readonly sizeBytes: number;
  /** Of each block of image and tree: a power of two from 4 KiB to 1 MiB. */
  readonly blockBytes: number;
  readonly root: Buffer;
}

export function sha256(...parts: readonly Uint8Array[]): Buffer {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
}

/** @throws TreeError */
function checkSizes({ sizeBytes, blockBytes }: Omit<TreeDescriptor, 'root'>): void {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < sectorBytes || sizeBytes % sectorBytes !== 0) {
    throw new TreeError(
      `an image of ${sizeBytes} bytes is no disk: its size must be a multiple of ${sectorBytes} (truncate -s %${sectorBytes} FILE)`,
    );
  }
  const isPower = Number.isInteger(Math.log2(blockBytes));
  if (!isPower || blockBytes < leastBlockBytes || blockBytes > mostBlockBytes) {
    throw new TreeError(
      `blocks of ${blockBytes} bytes: a power of two from ${leastBlockBytes} to ${mostBlockBytes} is needed`,
    );
  }
}

export function encodeDescriptor(descriptor: TreeDescriptor): Buffer {
  checkSizes(descriptor);
  const bytes = Buffer.alloc(descriptorBytes);
  bytes.writeUInt8(version, at.version);
  bytes.writeUInt8(sha256Algorithm, at.algorithm);
  bytes.writeUInt8(Math.log2(descriptor.blockBytes), at.logBlock);
  bytes.writeBigUInt64LE(BigInt(descriptor.sizeBytes), at.size);
  descriptor.root.copy(bytes, at.root, 0, hashBytes);
  return bytes;
}

/** @throws TreeError when the bytes are no descriptor that this program can use */
export function decodeDescriptor(bytes: Buffer): TreeDescriptor {
  if (bytes.length !== descriptorBytes) throw new TreeError(`a descriptor has ${descriptorBytes} bytes`);
  if (bytes.readUInt8(at.version) !== version) throw new TreeError('this is no digest tree of version 1');
  if (bytes.readUInt8(at.algorithm) !== sha256Algorithm) throw new TreeError('the tree is not made with SHA-256');
  if (bytes.readUInt8(at.saltBytes) !== 0) throw new TreeError('the tree is made with a salt: make it without');
  const sizeBytes = Number(bytes.readBigUInt64LE(at.size));
  const blockBytes = 2 ** bytes.readUInt8(at.logBlock);
  checkSizes({ sizeBytes, blockBytes });
  const reserved = [...bytes.subarray(at.saltBytes, at.size), ...bytes.subarray(at.rest)];
  if (reserved.some((byte) => byte !== 0)) throw new TreeError('reserved bytes of the descriptor are not zero');
  return { sizeBytes, blockBytes, root: Buffer.from(bytes.subarray(at.root, at.rest)) };
}

/** The digest that names a tree, and so an image: 64 lower-case hexadecimal digits. */
export function digestOf(descriptor: Uint8Array): string {
  return sha256(descriptor).toString('hex');
}

interface Level {
  /** First block of the level, counted from the start of the tree. */
  readonly start: number;
  readonly blocks: number;
}

/** Where in a tree what stands; levels are stored from the root's down, as fs-verity does. */
export class TreeLayout {
  readonly sizeBytes: number;
  readonly blockBytes: number;
  /** Blocks of the image; the last may be short and is hashed as if filled up with zeros. */
  readonly dataBlocks: number;
  /** Hashes in a block of the tree. */
  readonly arity: number;
  /** `levels[0]` holds the hashes of the image's blocks; empty when the image is one block. */
  readonly levels: readonly Level[];
  readonly treeBytes: number;

  /** @throws TreeError */
  constructor(sizes: Omit<TreeDescriptor, 'root'>) {
    checkSizes(sizes);
    this.sizeBytes = sizes.sizeBytes;
    this.blockBytes = sizes.blockBytes;
    this.arity = sizes.blockBytes / hashBytes;
    this.dataBlocks = Math.ceil(sizes.sizeBytes / sizes.blockBytes);
    const counts: number[] = [];
    for (let blocks = this.dataBlocks; blocks > 1; ) {
      blocks = Math.ceil(blocks / this.arity);
      counts.push(blocks);
    }
    let start = counts.reduce((sum, blocks) => sum + blocks, 0);
    this.treeBytes = start * sizes.blockBytes;
    this.levels = counts.map((blocks) => {
      start -= blocks;
      return { start, blocks };
    });
  }

  /** Bytes of block `index` of the image; only the last may be short. */
  lengthOf(index: number): number {
    return Math.min(this.blockBytes, this.sizeBytes - index * this.blockBytes);
  }
}

export interface TreeBlock {
  /** Counted from the start of the tree. */
  readonly index: number;
  readonly bytes: Buffer;
}

/** Makes a tree from the hashes of the image's blocks, in their order; holds one block a level. */
export class TreeBuilder {
  readonly #layout: TreeLayout;
  readonly #open: { bytes: Buffer; hashes: number; done: number }[];
  #root: Buffer | undefined;

  constructor(layout: TreeLayout) {
    this.#layout = layout;
    this.#open = layout.levels.map(() => ({ bytes: Buffer.alloc(layout.blockBytes), hashes: 0, done: 0 }));
  }

  /** @returns blocks of the tree that are finished by it */
  push(leaf: Buffer): TreeBlock[] {
    const finished: TreeBlock[] = [];
    this.#add(0, leaf, finished);
    return finished;
  }

  /** @returns the root and the blocks that were still open */
  finish(): { root: Buffer; blocks: TreeBlock[] } {
    const finished: TreeBlock[] = [];
    for (const [level, open] of this.#open.entries()) if (open.hashes > 0) this.#close(level, finished);
    if (this.#root === undefined) throw new Error('a tree of no blocks has no root');
    return { root: this.#root, blocks: finished };
  }

  #add(level: number, hash: Buffer, finished: TreeBlock[]): void {
    const open = this.#open[level];
    if (open === undefined) {
      this.#root = hash;
      return;
    }
    hash.copy(open.bytes, open.hashes * hashBytes);
    open.hashes++;
    if (open.hashes === this.#layout.arity) this.#close(level, finished);
  }

  #close(level: number, finished: TreeBlock[]): void {
    const open = this.#open[level];
    const start = this.#layout.levels[level]?.start;
    if (open === undefined || start === undefined) throw new Error(`no level ${level}`);
    finished.push({ index: start + open.done, bytes: open.bytes });
    const hash = sha256(open.bytes);
    this.#open[level] = { bytes: Buffer.alloc(this.#layout.blockBytes), hashes: 0, done: open.done + 1 };
    this.#add(level + 1, hash, finished);
  }
}

const zeroHashes = new Map<number, Buffer>();

/** The hash of a block of zeros. */
export function zeroHash(blockBytes: number): Buffer {
  const known = zeroHashes.get(blockBytes);
  if (known !== undefined) return known;
  const hash = sha256(Buffer.alloc(blockBytes));
  zeroHashes.set(blockBytes, hash);
  return hash;
}

/** The hash of a block of the image, filled up with zeros where it is short. */
export function hashBlock(block: Buffer, blockBytes: number): Buffer {
  return block.length === blockBytes ? sha256(block) : sha256(block, Buffer.alloc(blockBytes - block.length));
}

/** A tree that was verified against its descriptor; holds the hashes of the image's blocks. */
export class DigestTree {
  readonly descriptor: TreeDescriptor;
  readonly layout: TreeLayout;
  readonly #leaves: Buffer;
  readonly #zero: Buffer;

  private constructor(descriptor: TreeDescriptor, layout: TreeLayout, leaves: Buffer) {
    this.descriptor = descriptor;
    this.layout = layout;
    this.#leaves = leaves;
    this.#zero = zeroHash(layout.blockBytes);
  }

  /**
   * @param tree all blocks of the tree, as stored; kept, not copied
   * @throws TreeError when it is not the tree of the descriptor
   */
  static from(descriptor: TreeDescriptor, tree: Buffer): DigestTree {
    const layout = new TreeLayout(descriptor);
    if (tree.length !== layout.treeBytes) {
      throw new TreeError(`the tree has ${tree.length} bytes, and ${layout.treeBytes} are needed for its image`);
    }
    let expected = descriptor.root;
    for (const { start, blocks } of layout.levels.toReversed()) {
      const level = tree.subarray(start * layout.blockBytes, (start + blocks) * layout.blockBytes);
      for (let block = 0; block < blocks; block++) {
        const found = sha256(level.subarray(block * layout.blockBytes, (block + 1) * layout.blockBytes));
        if (!timingSafeEqual(found, expected.subarray(block * hashBytes, (block + 1) * hashBytes))) {
          throw new TreeError(`block ${start + block} of the tree is not the one that its root names`);
        }
      }
      expected = level;
    }
    return new DigestTree(descriptor, layout, expected);
  }

  /** Bytes of memory that the hashes take. */
  get heldBytes(): number {
    return this.#leaves.length;
  }

  #hashOf(index: number): Buffer {
    if (index < 0 || index >= this.layout.dataBlocks) throw new RangeError(`the image has no block ${index}`);
    return this.#leaves.subarray(index * hashBytes, (index + 1) * hashBytes);
  }

  /** Whether the block holds zeros alone: it need not be fetched. */
  isZero(index: number): boolean {
    return this.#hashOf(index).equals(this.#zero);
  }

  /** @param block as long as `layout.lengthOf(index)` */
  verifies(index: number, block: Buffer): boolean {
    return (
      block.length === this.layout.lengthOf(index) &&
      this.#hashOf(index).equals(hashBlock(block, this.layout.blockBytes))
    );
  }
}

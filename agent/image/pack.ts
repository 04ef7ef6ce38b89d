/**
 * Makes the digest tree of an image, and says what a tree and an image are.
 *
 * Invariants:
 * 1. Memory does not grow with the image beyond one block for each level of its tree.
 * 2. A tree file is whole or not there; a file that changed while it was read gets none.
 * 3. A tree of another digest is not replaced unasked: environments may name it.
 */
import { createHash } from 'node:crypto';
import { type FileHandle, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { blocksOf, parseTreeFile, treeSuffix } from './acquire.ts';
import { FileOrigin, type Origin } from './origin.ts';
import {
  type DigestTree,
  defaultBlockBytes,
  descriptorBytes,
  digestOf,
  encodeDescriptor,
  hashBlock,
  type TreeBlock,
  TreeBuilder,
  TreeError,
  TreeLayout,
  zeroHash,
} from './tree.ts';

export interface Packed {
  /** For `spec.image.sha256`: names the tree, and so the image. */
  readonly digest: string;
  /** SHA-256 of the whole file, which names the image as well. */
  readonly wholeDigest: string;
  readonly layout: TreeLayout;
  readonly zeroBlocks: number;
  readonly treePath: string;
}

export interface PackOptions {
  readonly blockBytes?: number;
  /** Replaces a tree of another digest. */
  readonly force?: boolean;
  readonly signal: AbortSignal;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

const qcow2Magic = Buffer.from([0x51, 0x46, 0x49, 0xfb]);
/** Large enough for every tree that a rack takes (4 TiB in blocks of 64 KiB). */
const mostTreeFileBytes = 2_147_483_648;

async function refuseQcow2(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    const { buffer } = await handle.read(Buffer.alloc(4), 0, 4, 0);
    if (!buffer.equals(qcow2Magic)) return;
    throw new TreeError(`${path} is a qcow2 file: qemu-img convert -O raw ${path} IMAGE.raw makes a raw one`);
  } finally {
    await handle.close();
  }
}

async function digestAt(treePath: string): Promise<string | undefined> {
  const file = await readFile(treePath).catch(() => undefined);
  return file === undefined ? undefined : digestOf(file.subarray(0, descriptorBytes));
}

/** Writes `path.fsverity`. @throws TreeError, OriginError or an error of the file system */
export async function packImage(path: string, options: PackOptions): Promise<Packed> {
  const { blockBytes = defaultBlockBytes, force = false, signal } = options;
  await refuseQcow2(path);
  const before = await stat(path);
  const layout = new TreeLayout({ sizeBytes: before.size, blockBytes });
  const treePath = path + treeSuffix;
  const beside = `${treePath}.new`;
  const handle = await open(beside, 'w');
  try {
    const made = await writeTree(handle, new FileOrigin(path), layout, options);
    const after = await stat(path);
    if (after.size !== before.size || after.mtimeMs !== before.mtimeMs) {
      throw new TreeError(`${path} changed while it was read: pack it when nobody writes to it`);
    }
    const known = await digestAt(treePath);
    if (known !== undefined && known !== made.digest && !force) {
      throw new TreeError(
        `${treePath} is of another image (${known}), which environments may name: give the new image a name of its own, or use --force`,
      );
    }
    await handle.sync();
    signal.throwIfAborted();
    await rename(beside, treePath);
    return { ...made, layout, treePath };
  } catch (error) {
    await rm(beside, { force: true });
    throw error;
  } finally {
    await handle.close();
  }
}

async function writeTree(
  handle: FileHandle,
  origin: Origin,
  layout: TreeLayout,
  { signal, onProgress }: PackOptions,
): Promise<Pick<Packed, 'digest' | 'wholeDigest' | 'zeroBlocks'>> {
  const { blockBytes, sizeBytes } = layout;
  const builder = new TreeBuilder(layout);
  const whole = createHash('sha256');
  const zero = zeroHash(blockBytes);
  const put = async ({ index, bytes }: TreeBlock): Promise<void> =>
    void (await handle.write(bytes, 0, bytes.length, descriptorBytes + index * blockBytes));
  let zeroBlocks = 0;
  let done = 0;
  for await (const block of blocksOf(origin.read(0, sizeBytes, signal), layout, 0)) {
    whole.update(block);
    const hash = hashBlock(block, blockBytes);
    if (hash.equals(zero)) zeroBlocks++;
    for (const finished of builder.push(hash)) await put(finished);
    done += block.length;
    onProgress?.(done, sizeBytes);
  }
  const { root, blocks } = builder.finish();
  for (const finished of blocks) await put(finished);
  const descriptor = encodeDescriptor({ sizeBytes, blockBytes, root });
  await handle.write(descriptor, 0, descriptorBytes, 0);
  return { digest: digestOf(descriptor), wholeDigest: whole.digest('hex'), zeroBlocks };
}

export interface TreeFacts {
  readonly tree: DigestTree;
  readonly digest: string;
}

/** Reads a tree file and verifies it against its own descriptor. @throws TreeError, OriginError */
export async function readTree(origin: Origin, signal: AbortSignal): Promise<TreeFacts> {
  const { sizeBytes } = await origin.probe(signal);
  if (sizeBytes < descriptorBytes || sizeBytes > mostTreeFileBytes) {
    throw new TreeError(`${origin.address} has ${sizeBytes} bytes, which no tree file has`);
  }
  const parts: Buffer[] = [];
  for await (const part of origin.read(0, sizeBytes, signal)) parts.push(part);
  const file = Buffer.concat(parts);
  return { tree: parseTreeFile(file), digest: digestOf(file.subarray(0, descriptorBytes)) };
}

export interface VerifyOptions {
  readonly signal: AbortSignal;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  /** Called for each block that is not what the tree names. */
  readonly onBadBlock?: (block: number) => void;
}

/** Compares every block with the tree. @returns the number of those that differ; @throws TreeError when the size differs, OriginError */
export async function verifyByTree(origin: Origin, tree: DigestTree, options: VerifyOptions): Promise<number> {
  const { layout } = tree;
  const { sizeBytes } = await origin.probe(options.signal);
  if (sizeBytes !== layout.sizeBytes) {
    throw new TreeError(`${origin.address} has ${sizeBytes} bytes, and its tree is of ${layout.sizeBytes}`);
  }
  let bad = 0;
  let block = 0;
  let done = 0;
  for await (const bytes of blocksOf(origin.read(0, sizeBytes, options.signal), layout, 0)) {
    if (!tree.verifies(block, bytes)) {
      bad++;
      options.onBadBlock?.(block);
    }
    block++;
    done += bytes.length;
    options.onProgress?.(done, sizeBytes);
  }
  return bad;
}

/** The SHA-256 of the whole file. @throws OriginError */
export async function hashWhole(origin: Origin, { signal, onProgress }: VerifyOptions): Promise<string> {
  const { sizeBytes } = await origin.probe(signal);
  const whole = createHash('sha256');
  let done = 0;
  if (sizeBytes > 0) {
    for await (const bytes of origin.read(0, sizeBytes, signal)) {
      whole.update(bytes);
      done += bytes.length;
      onProgress?.(done, sizeBytes);
    }
  }
  return whole.digest('hex');
}

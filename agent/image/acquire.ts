/**
 * Finds out what an image is: fetches its digest tree, or reads the image whole and makes one.
 *
 * A digest names a tree (it is the SHA-256 of the tree's descriptor) or a file (it is the SHA-256 of all its bytes). Which of the two is not guessed:
 * a descriptor has 256 bytes and a disk a multiple of 512, so at most one of them has the digest, and both are tried.
 *
 * Invariants:
 * 1. A tree is used only if the digest names it, or if this process made it from bytes whose digest it is.
 * 2. What is fetched is bounded by the image's size as its environment states it, before it is fetched.
 * 3. An origin that is away is waited for, up to the given patience; every other fault ends the attempt with a sentence for people.
 */
import { createHash } from 'node:crypto';
import { backoffDelayMs } from '../../controller/runtime/backoff.ts';
import { sleep } from '../../controller/runtime/clock.ts';
import { readAtPace } from './at-pace.ts';
import type { BlockStore } from './block-store.ts';
import type { Shared } from './cached-image.ts';
import { type Origin, OriginError, type OriginFacts } from './origin.ts';
import {
  DigestTree,
  decodeDescriptor,
  defaultBlockBytes,
  descriptorBytes,
  digestOf,
  encodeDescriptor,
  hashBlock,
  sectorBytes,
  TreeBuilder,
  TreeError,
  TreeLayout,
  zeroHash,
} from './tree.ts';

/** Of the file beside an image that holds its tree: the descriptor, then the tree. */
export const treeSuffix = '.fsverity';

export type ImageFault = 'Unavailable' | 'DigestMismatch' | 'TooLarge';

/** An image that cannot be opened; the message is a sentence for people. */
export class ImageError extends Error {
  override readonly name = 'ImageError';
  readonly fault: ImageFault;
  /** With DigestMismatch: the SHA-256 of what was found. */
  readonly found: string | undefined;

  constructor(fault: ImageFault, message: string, options: ErrorOptions & { readonly found?: string } = {}) {
    super(message, options);
    this.fault = fault;
    this.found = options.found;
  }
}

/** What an environment says of its image. */
export interface ImageSpec {
  readonly url: string;
  readonly sha256: string;
  /** Of the disk that the guest sees: the image may be smaller, never larger. */
  readonly sizeBytes: number;
  readonly format: string;
}

export interface Seeking {
  readonly spec: ImageSpec;
  readonly origin: Origin;
  readonly shared: Shared;
  readonly signal: AbortSignal;
  /** How long an origin that is away is waited for. */
  readonly patienceMs: number;
  /** The largest tree that there is memory for. */
  readonly mostTreeBytes: number;
}

/** Where an image's blocks are put; made once its shape is known. */
export type StoreFor = (layout: TreeLayout) => Promise<BlockStore>;

export interface Acquired {
  readonly tree: DigestTree;
  readonly store: BlockStore;
  /** Descriptor and tree as they are kept. */
  readonly treeFile: Buffer;
}

/** Repeats what fails because the origin is away. @param progress whose growth shows that an attempt was not in vain */
async function patiently<T>(
  { shared, signal, patienceMs, spec }: Seeking,
  attempt: () => Promise<T>,
  progress = (): number => 0,
): Promise<T> {
  const { clock, random, originBackoff } = shared;
  let giveUpAt = clock.monotonic() + patienceMs;
  let reached = progress();
  for (let failures = 1; ; failures++) {
    try {
      return await attempt();
    } catch (error) {
      if (progress() > reached) {
        reached = progress();
        failures = 1;
        giveUpAt = clock.monotonic() + patienceMs;
      }
      if (!(error instanceof OriginError) || error.fault !== 'Away' || clock.monotonic() >= giveUpAt) throw error;
      shared.counters.originFaults++;
      shared.onFault(spec.sha256, error);
      await sleep(clock, backoffDelayMs(originBackoff, failures, random.next()), signal);
    }
  }
}

async function readRange(seeking: Seeking, origin: Origin, offset: number, length: number): Promise<Buffer> {
  return patiently(seeking, async () => {
    const parts: Buffer[] = [];
    for await (const part of readAtPace(origin, { offset, length }, seeking.shared.clock, seeking.signal)) {
      seeking.shared.counters.originBytes += part.length;
      parts.push(part);
    }
    return Buffer.concat(parts);
  });
}

/** The tree beside the image, if there is one and the digest names it. */
async function namedTree(seeking: Seeking): Promise<Buffer | undefined> {
  const beside = seeking.origin.beside(treeSuffix);
  let facts: OriginFacts;
  try {
    facts = await patiently(seeking, () => beside.probe(seeking.signal));
  } catch (error) {
    if (error instanceof OriginError && error.fault === 'Refused') return undefined;
    throw error;
  }
  const { sizeBytes, ranges } = facts;
  if (sizeBytes < descriptorBytes || (!ranges && sizeBytes > seeking.mostTreeBytes + descriptorBytes)) return undefined;
  const start = await readRange(seeking, beside, 0, ranges ? descriptorBytes : sizeBytes);
  if (digestOf(start.subarray(0, descriptorBytes)) !== seeking.spec.sha256) return undefined;
  const { treeBytes } = new TreeLayout(decodeDescriptor(start.subarray(0, descriptorBytes)));
  checkMemory(treeBytes, seeking.mostTreeBytes);
  if (sizeBytes !== descriptorBytes + treeBytes) {
    throw new TreeError(`${beside.address} has ${sizeBytes} bytes, and ${descriptorBytes + treeBytes} are needed`);
  }
  return start.length === sizeBytes ? start : readRange(seeking, beside, 0, sizeBytes);
}

function checkMemory(treeBytes: number, mostTreeBytes: number): void {
  if (treeBytes <= mostTreeBytes) return;
  throw new ImageError(
    'Unavailable',
    `the image's tree has ${treeBytes} bytes and this rack holds ${mostTreeBytes}: give the cache more memory, or pack with larger blocks`,
  );
}

/** Reads a file of descriptor and tree. @throws TreeError */
export function parseTreeFile(file: Buffer): DigestTree {
  return DigestTree.from(
    decodeDescriptor(file.subarray(0, descriptorBytes)),
    file.subarray(Math.min(descriptorBytes, file.length)),
  );
}

function checkSize({ spec, origin }: Seeking, { sizeBytes }: OriginFacts): void {
  if (sizeBytes > spec.sizeBytes) {
    throw new ImageError(
      'TooLarge',
      `${origin.address} has ${sizeBytes} bytes, and the environment states a size of ${spec.sizeBytes}`,
    );
  }
  if (sizeBytes === 0 || sizeBytes % sectorBytes !== 0) {
    throw new ImageError(
      'Unavailable',
      `${origin.address} has ${sizeBytes} bytes, which is no disk: truncate -s %${sectorBytes} makes it one`,
    );
  }
}

/** @throws ImageError, OriginError, TreeError, or the signal's reason */
export async function acquire(seeking: Seeking, storeFor: StoreFor): Promise<Acquired> {
  const { origin, signal, spec } = seeking;
  const facts = await patiently(seeking, () => origin.probe(signal));
  checkSize(seeking, facts);
  const file = await namedTree(seeking);
  if (file === undefined) return readWhole(seeking, facts, storeFor);
  const tree = parseTreeFile(file);
  // Another file under the same address: reading it whole says which.
  if (tree.layout.sizeBytes !== facts.sizeBytes) return readWhole(seeking, facts, storeFor);
  const store = await storeFor(tree.layout);
  if (facts.ranges && !(await spotCheck(seeking, tree, store))) return readWhole(seeking, facts, storeFor);
  if (!facts.ranges) {
    await ingest(seeking, facts, store, tree.layout, (block, bytes) => {
      if (tree.verifies(block, bytes)) return;
      throw new ImageError('DigestMismatch', `block ${block} of ${origin.address} is not what ${spec.sha256} names`);
    });
  }
  return { tree, store, treeFile: file };
}

/** Whether the first and the last block verify: where partitions are described, they differ between two images of one size. */
async function spotCheck(seeking: Seeking, tree: DigestTree, store: BlockStore): Promise<boolean> {
  const { layout } = tree;
  for (const block of new Set([0, layout.dataBlocks - 1])) {
    if (tree.isZero(block)) continue;
    const read = (): Promise<Buffer> =>
      readRange(seeking, seeking.origin, block * layout.blockBytes, layout.lengthOf(block));
    let bytes = await read();
    // Once more: it may have been corrupted on the way.
    if (!tree.verifies(block, bytes)) bytes = await read();
    if (!tree.verifies(block, bytes)) return false;
    await store.write(block, [bytes]);
  }
  return true;
}

async function readWhole(seeking: Seeking, facts: OriginFacts, storeFor: StoreFor): Promise<Acquired> {
  const { spec, origin } = seeking;
  const layout = new TreeLayout({ sizeBytes: facts.sizeBytes, blockBytes: defaultBlockBytes });
  checkMemory(layout.treeBytes, seeking.mostTreeBytes);
  const store = await storeFor(layout);
  const file = Buffer.alloc(descriptorBytes + layout.treeBytes);
  const put = ({ index, bytes }: { index: number; bytes: Buffer }): void =>
    void bytes.copy(file, descriptorBytes + index * layout.blockBytes);
  const builder = new TreeBuilder(layout);
  const whole = createHash('sha256');
  await ingest(seeking, facts, store, layout, (_block, bytes, hash) => {
    whole.update(bytes);
    for (const block of builder.push(hash)) put(block);
  });
  const found = whole.digest('hex');
  if (found !== spec.sha256) {
    await store.remove();
    throw new ImageError(
      'DigestMismatch',
      `${origin.address} has the SHA-256 ${found}, ${spec.sha256} was asked for, and no tree of that digest is at ${origin.address}${treeSuffix}`,
      { found },
    );
  }
  const { root, blocks } = builder.finish();
  for (const block of blocks) put(block);
  encodeDescriptor({ ...layout, root }).copy(file);
  return { tree: parseTreeFile(file), store, treeFile: file };
}

/** Reads the image from its start to its end into the store. */
async function ingest(
  seeking: Seeking,
  { sizeBytes, ranges }: OriginFacts,
  store: BlockStore,
  layout: TreeLayout,
  take: (block: number, bytes: Buffer, hash: Buffer) => void,
): Promise<void> {
  const { shared, origin, signal } = seeking;
  if (!ranges) store.isPinned = true;
  const zero = zeroHash(layout.blockBytes);
  let block = 0;
  const attempt = async (): Promise<void> => {
    if (!ranges && block > 0) {
      throw new OriginError(
        'Refused',
        `${origin.address}: the answer broke off, and the server takes no ranges to go on`,
      );
    }
    const offset = block * layout.blockBytes;
    const pieces = readAtPace(origin, { offset, length: sizeBytes - offset }, shared.clock, signal);
    for await (const bytes of blocksOf(pieces, layout, block)) {
      shared.counters.originBytes += bytes.length;
      const hash = hashBlock(bytes, layout.blockBytes);
      take(block, bytes, hash);
      const isKept = hash.equals(zero) || store.has(block) || (await store.write(block, [bytes])) === 1;
      if (!isKept && !ranges) {
        throw new OriginError(
          'Refused',
          `${origin.address}: the server takes no ranges, and the rack's disk has no room to keep the whole image`,
        );
      }
      block++;
    }
  };
  await patiently(seeking, attempt, () => block);
}

/** Pieces of any size as blocks, the last as short as the image's. */
export async function* blocksOf(
  pieces: AsyncIterable<Buffer>,
  layout: TreeLayout,
  first: number,
): AsyncIterable<Buffer> {
  let block = first;
  let filled = 0;
  let bytes = Buffer.allocUnsafeSlow(layout.lengthOf(block));
  for await (const piece of pieces) {
    for (let used = 0; used < piece.length; ) {
      const copied = piece.copy(bytes, filled, used);
      used += copied;
      filled += copied;
      if (filled < bytes.length) continue;
      yield bytes;
      filled = 0;
      if (++block < layout.dataBlocks) bytes = Buffer.allocUnsafeSlow(layout.lengthOf(block));
    }
  }
}

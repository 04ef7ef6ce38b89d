/**
 * One image of the rack's cache, open for reading: each block comes from memory, from the disk, or once from the origin.
 *
 * Invariants:
 * 1. Nobody sees a block that was not verified against the digest tree after it was last read from disk or network.
 * 2. However many ask, a block is under way once; a block that the tree says is zeros is neither fetched nor stored.
 * 3. A read waits while the origin is away, answers nonsense or another file, and ends only with the data or with the image's close. How
 *    many may wait is bounded.
 */
import type { BackoffPolicy } from '../../controller/runtime/backoff.ts';
import { backoffDelayMs } from '../../controller/runtime/backoff.ts';
import { type Clock, sleep } from '../../controller/runtime/clock.ts';
import type { Random } from '../../controller/runtime/random.ts';
import { readAtPace } from './at-pace.ts';
import type { BlockStore } from './block-store.ts';
import { Counters } from './counters.ts';
import { Gate } from './gate.ts';
import type { MemoryBlocks } from './memory-blocks.ts';
import type { Origin } from './origin.ts';
import type { DigestTree } from './tree.ts';

/** A part of what was read; without data it is zeros. */
export interface Piece {
  readonly bytes: number;
  readonly data?: Buffer;
}

export interface Extent {
  readonly bytes: number;
  readonly isZero: boolean;
}

/** Asks of a random reader, in bytes: a boot reads in small steps all over the disk, and each step should be answered soon. */
const leapBytes = 262_144;
/** Asks of a sequential reader, large enough to keep a gigabit busy at 20 ms, a few of them under way at once. */
const strideBytes = 2_097_152;
const aheadBytes = 6_291_456;
const mostFetches = 8;
/** Prefetching leaves places free for readers that leap. */
const mostPrefetches = 4;
/** Of blocks that are written to the disk, or read from it, by one call. */
const mostAtOnce = 16;

/** What the image shares with the others of its rack. */
export interface Shared {
  readonly memory: MemoryBlocks;
  readonly clock: Clock;
  readonly random: Random;
  readonly counters: Counters;
  /** Bytes that were verified and wait for the disk. */
  readonly toDisk: Gate;
  readonly originBackoff: BackoffPolicy;
  /** Reads of one image that may wait for blocks. */
  readonly mostWaiting: number;
  /** Faults that a person should see: an origin that is away, contents that do not verify, a disk that fails. */
  readonly onFault: (digest: string, error: unknown) => void;
}

export interface ImageParts {
  readonly id: number;
  readonly digest: string;
  readonly tree: DigestTree;
  readonly store: BlockStore;
}

interface Pending {
  readonly promise: Promise<Buffer>;
  readonly resolve: (block: Buffer) => void;
  readonly reject: (error: unknown) => void;
}

/** A read that cannot be answered: the image was closed, or too many wait already. */
class ImageReadError extends Error {
  override readonly name = 'ImageReadError';
}

export class CachedImage {
  readonly digest: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly #parts: ImageParts;
  readonly #shared: Shared;
  readonly #pending = new Map<number, Pending>();
  /** Verified blocks on their way to the disk, in the order in which they came. */
  readonly #writing = new Map<number, Buffer>();
  /** What lets the next ones through once they are written. */
  readonly #leaves = new Map<number, () => void>();
  #isWriting = false;
  readonly #abort = new AbortController();
  readonly #fetches = new Gate(mostFetches);
  readonly #own = new Counters();
  /** The one that is asked next comes first. */
  #origins: { readonly origin: Origin; users: number }[] = [];
  #waiting = 0;

  constructor(parts: ImageParts, shared: Shared) {
    this.#parts = parts;
    this.#shared = shared;
    this.digest = parts.digest;
    this.sizeBytes = parts.tree.layout.sizeBytes;
    this.blockBytes = parts.tree.layout.blockBytes;
  }

  /** Bytes of this image that its origins sent since it was opened. */
  get originBytes(): number {
    return this.#own.originBytes;
  }

  /**
   * Another place where the same bytes may be, for as long as who named it has the image open: tenants share an image, and none of them can
   * push out the place that another one named, or come before it.
   * @returns what takes it away again
   */
  addOrigin(origin: Origin): () => void {
    const known = this.#origins.find((other) => other.origin.id === origin.id);
    const entry = known ?? { origin, users: 0 };
    if (known === undefined) this.#origins.push(entry);
    entry.users++;
    return () => {
      if (--entry.users === 0) this.#origins = this.#origins.filter((other) => other !== entry);
    };
  }

  /**
   * Resolves once every byte is there; see invariant 3.
   * @throws RangeError for bytes that the image does not have; ImageReadError
   */
  async read(offset: number, length: number): Promise<Buffer> {
    const pieces = await this.pieces(offset, length);
    const [only] = pieces;
    if (pieces.length === 1 && only?.data !== undefined) return only.data;
    return Buffer.concat(pieces.map(({ data, bytes }) => data ?? Buffer.alloc(bytes)));
  }

  /** As `read`, without copying: parts of blocks that others see too, and must not be changed. */
  async pieces(offset: number, length: number): Promise<Piece[]> {
    this.#checkRange(offset, length);
    const first = Math.floor(offset / this.blockBytes);
    const last = Math.floor((offset + length - 1) / this.blockBytes);
    const blocks: (Buffer | Promise<Buffer> | undefined)[] = [];
    for (let block = first; block <= last; block++) blocks.push(this.#block(block, last));
    this.#readAhead(first, last);
    const ready = blocks.some((block) => block instanceof Promise)
      ? await this.#wait(blocks)
      : (blocks as (Buffer | undefined)[]);
    this.#shared.counters.servedBytes += length;
    return ready.map((data, index) => {
      const start = (first + index) * this.blockBytes;
      const from = Math.max(0, offset - start);
      const to = Math.min(this.blockBytes, offset + length - start);
      return data === undefined ? { bytes: to - from } : { bytes: to - from, data: data.subarray(from, to) };
    });
  }

  /** Which parts are zeros for certain, from the tree alone. @throws RangeError */
  extents(offset: number, length: number): Extent[] {
    this.#checkRange(offset, length);
    const found: { bytes: number; isZero: boolean }[] = [];
    for (let at = offset; at < offset + length; ) {
      const block = Math.floor(at / this.blockBytes);
      const end = Math.min((block + 1) * this.blockBytes, offset + length);
      const isZero = this.#parts.tree.isZero(block);
      const before = found.at(-1);
      if (before?.isZero === isZero) before.bytes += end - at;
      else found.push({ bytes: end - at, isZero });
      at = end;
    }
    return found;
  }

  /** Waiting reads fail; what is on its way to the disk is written. */
  async close(): Promise<void> {
    this.#abort.abort(new ImageReadError(`image ${this.digest} was closed`));
    for (const { reject } of this.#pending.values()) reject(this.#abort.signal.reason);
    this.#pending.clear();
    await this.#fetches.idle();
    while (this.#writing.size > 0) await this.#shared.toDisk.change();
    this.#shared.memory.drop(this.#parts.id);
  }

  #checkRange(offset: number, length: number): void {
    const isRange = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length > 0;
    if (isRange && offset + length <= this.sizeBytes) return;
    throw new RangeError(`bytes ${offset} to ${offset + length} are not in an image of ${this.sizeBytes} bytes`);
  }

  async #wait(blocks: readonly (Buffer | Promise<Buffer> | undefined)[]): Promise<(Buffer | undefined)[]> {
    if (this.#waiting >= this.#shared.mostWaiting) {
      throw new ImageReadError(`${this.#waiting} reads of image ${this.digest} wait already`);
    }
    this.#waiting++;
    try {
      return await Promise.all(blocks);
    } finally {
      this.#waiting--;
    }
  }

  /** `undefined` for zeros. @param last the last block that the same reader wants */
  #block(block: number, last: number): Buffer | Promise<Buffer> | undefined {
    const { tree, id, store } = this.#parts;
    const { memory, counters } = this.#shared;
    if (tree.isZero(block)) return undefined;
    const held = memory.get(id, block) ?? this.#writing.get(block);
    if (held !== undefined) {
      counters.memoryHits++;
      return held;
    }
    const pending = this.#pending.get(block);
    if (pending !== undefined) {
      counters.sharedWaits++;
      return pending.promise;
    }
    if (this.#abort.signal.aborted) return Promise.reject(this.#abort.signal.reason);
    if (store.has(block)) return this.#fromDisk(block, last);
    const isSequential = block > 0 && this.#isHere(block - 1);
    const run = this.#claim(block, isSequential ? strideBytes : leapBytes);
    void this.#fetch(block, run);
    return this.#pendingOf(block).promise;
  }

  #isHere(block: number): boolean {
    const { tree, id, store } = this.#parts;
    if (this.#pending.has(block) || this.#writing.has(block)) return true;
    return this.#shared.memory.has(id, block) || store.has(block) || tree.isZero(block);
  }

  #readAhead(first: number, last: number): void {
    if (first === 0 || !this.#isHere(first - 1) || this.#abort.signal.aborted) return;
    const end = Math.min(this.#parts.tree.layout.dataBlocks, last + 1 + aheadBytes / this.blockBytes);
    for (let block = last + 1; block < end && this.#fetches.used < mostPrefetches; ) {
      if (this.#isHere(block)) {
        block++;
        continue;
      }
      const run = this.#claim(block, strideBytes);
      void this.#fetch(block, run);
      block += run;
    }
  }

  /** Marks the blocks from `first` on that must be fetched as under way. @returns their number */
  #claim(first: number, mostBytes: number): number {
    const most = Math.max(1, mostBytes / this.blockBytes);
    const end = Math.min(this.#parts.tree.layout.dataBlocks, first + most);
    let block = first;
    do this.#addPending(block++);
    while (block < end && !this.#isHere(block));
    return block - first;
  }

  #addPending(block: number): Pending {
    const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
    // Nobody may be waiting for a block that is read ahead.
    promise.catch(() => {});
    const pending = { promise, resolve, reject };
    this.#pending.set(block, pending);
    return pending;
  }

  #pendingOf(block: number): Pending {
    const pending = this.#pending.get(block);
    if (pending === undefined) throw new Error(`block ${block} is not under way`);
    return pending;
  }

  #deliver(block: number, bytes: Buffer): void {
    this.#shared.memory.put(this.#parts.id, block, bytes);
    this.#pending.get(block)?.resolve(bytes);
    this.#pending.delete(block);
  }

  /** The block, and what follows on the disk of what the reader wants. */
  #fromDisk(first: number, last: number): Promise<Buffer> {
    const { id, store, tree } = this.#parts;
    const most = store.reach(first, Math.min(mostAtOnce, last - first + 1));
    const lengths: number[] = [];
    for (let block = first; block < first + most; block++) {
      const isHeld = this.#pending.has(block) || this.#shared.memory.has(id, block);
      if (!store.has(block) || isHeld) break;
      this.#addPending(block);
      lengths.push(tree.layout.lengthOf(block));
    }
    const { promise } = this.#pendingOf(first);
    void this.#readDisk(first, lengths);
    return promise;
  }

  async #readDisk(first: number, lengths: readonly number[]): Promise<void> {
    const { tree, store } = this.#parts;
    const { counters, onFault } = this.#shared;
    const read = await store.read(first, lengths);
    // A store that is being closed gives nothing back, and that says nothing about its disk.
    if (this.#abort.signal.aborted) return;
    for (const [index, bytes] of read.entries()) {
      const block = first + index;
      if (bytes !== undefined && tree.verifies(block, bytes)) {
        counters.diskHits++;
        this.#deliver(block, bytes);
        continue;
      }
      counters.corruptOnDisk++;
      const what = bytes === undefined ? 'cannot be read' : 'is corrupt';
      onFault(this.digest, new Error(`block ${block} on the rack's disk ${what}: fetched again`));
      store.distrust(block);
      void this.#fetch(block, 1);
    }
  }

  /** Fetches blocks that are marked as under way, until all are there or the image is closed. Never throws. */
  async #fetch(first: number, count: number): Promise<void> {
    const { clock, random, originBackoff, counters } = this.#shared;
    const { signal } = this.#abort;
    const leave = await this.#fetches.enter();
    try {
      let next = first;
      for (let failures = 0; next < first + count && !signal.aborted; ) {
        const before = next;
        const asked = this.#origins[0];
        try {
          for await (const block of this.#arriving(asked?.origin, next, first + count)) {
            await this.#keep(next, block);
            next++;
          }
          failures = 0;
        } catch (error) {
          if (signal.aborted) return;
          failures = next > before ? 1 : failures + 1;
          counters.originFaults++;
          this.#shared.onFault(this.digest, error);
          this.#askNextOf(asked);
          // Once all have failed it is time to wait.
          if (failures >= this.#origins.length)
            await sleep(clock, backoffDelayMs(originBackoff, failures, random.next()), signal).catch(() => {});
        }
      }
    } finally {
      leave();
    }
  }

  /** Fetches that fail at once turn to the next origin once, not each of them by one more. */
  #askNextOf(failed: { readonly origin: Origin } | undefined): void {
    if (failed !== undefined && this.#origins[0] === failed) this.#origins.push(...this.#origins.splice(0, 1));
  }

  /** Verified blocks in their order; throws at the first that does not verify. */
  async *#arriving(origin: Origin | undefined, first: number, end: number): AsyncIterable<Buffer> {
    const { layout } = this.#parts.tree;
    const { counters, clock } = this.#shared;
    if (origin === undefined) throw new Error(`image ${this.digest} has no origin`);
    const offset = first * this.blockBytes;
    const length = Math.min(end * this.blockBytes, this.sizeBytes) - offset;
    let block = first;
    let filled = 0;
    let bytes = Buffer.allocUnsafeSlow(layout.lengthOf(block));
    for await (const chunk of readAtPace(origin, { offset, length }, clock, this.#abort.signal)) {
      counters.originBytes += chunk.length;
      this.#own.originBytes += chunk.length;
      for (let used = 0; used < chunk.length; ) {
        const copied = chunk.copy(bytes, filled, used);
        used += copied;
        filled += copied;
        if (filled < bytes.length) continue;
        if (!this.#parts.tree.verifies(block, bytes)) {
          counters.corruptFromOrigin++;
          throw new Error(`block ${block} from ${origin.address} is not what the digest names: asked for again`);
        }
        yield bytes;
        filled = 0;
        if (++block < end) bytes = Buffer.allocUnsafeSlow(layout.lengthOf(block));
      }
    }
  }

  /** Hands a verified block to who waits, and to the disk. */
  async #keep(block: number, bytes: Buffer): Promise<void> {
    const leave = await this.#shared.toDisk.enter(bytes.length);
    this.#writing.set(block, bytes);
    this.#leaves.set(block, leave);
    this.#deliver(block, bytes);
    void this.#write();
  }

  /** Writes what is there, as many neighbours at once as came meanwhile. Never throws. */
  async #write(): Promise<void> {
    if (this.#isWriting) return;
    this.#isWriting = true;
    const { counters, onFault } = this.#shared;
    for (const [first] of this.#writing) {
      const blocks: Buffer[] = [];
      const most = this.#parts.store.reach(first, mostAtOnce);
      for (let bytes = this.#writing.get(first); bytes !== undefined && blocks.length < most; ) {
        blocks.push(bytes);
        bytes = this.#writing.get(first + blocks.length);
      }
      try {
        counters.notStored += blocks.length - (await this.#parts.store.write(first, blocks));
      } catch (error) {
        counters.notStored += blocks.length;
        onFault(this.digest, error);
      }
      for (let block = first; block < first + blocks.length; block++) {
        this.#writing.delete(block);
        this.#leaves.get(block)?.();
        this.#leaves.delete(block);
      }
    }
    this.#isWriting = false;
  }
}

/**
 * Blocks of one image on the rack's disk, in segments: files that can be given up one by one.
 *
 * Invariants:
 * 1. A block counts as present after a restart only if its bytes were flushed before the map that names it (`present`) was.
 *    What is read is verified by the caller all the same: a disk may have torn or rotted what it was given.
 * 2. A segment is given up as a whole, never while it is read or written, and its blocks are no longer present before its file is gone.
 * 3. What all stores of a budget hold never exceeds the budget: a block that finds no room is not written, and the caller is told.
 */
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { sha256 } from './tree.ts';

/** Large enough for few files, small enough to make room without giving up much. */
const defaultSegmentBytes = 67_108_864;
const mapMagic = Buffer.from('bvblocks');
const mapHashBytes = 32;

interface Segment {
  readonly index: number;
  readonly store: BlockStore;
  handle: Promise<FileHandle> | undefined;
  /** Reads and writes under way. */
  busy: number;
  blocks: number;
  isDirty: boolean;
  lastUse: number;
}

/** The disk space that all images of a rack share. */
export class DiskBudget {
  readonly limitBytes: number;
  readonly #segments = new Set<Segment>();
  #usedBytes = 0;
  #uses = 0;

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  touch(segment: Segment): void {
    segment.lastUse = ++this.#uses;
  }

  /** Makes room for a block of `segment`; false where there is none to make. */
  take(segment: Segment, bytes: number): boolean {
    while (this.#usedBytes + bytes > this.limitBytes) {
      const victim = this.#victim(segment);
      if (victim === undefined) return false;
      victim.store.giveUp(victim);
    }
    this.#segments.add(segment);
    this.#usedBytes += bytes;
    return true;
  }

  release(bytes: number): void {
    this.#usedBytes -= bytes;
  }

  /** Space that is taken in any case, or given back: what goes with an image besides its blocks. */
  charge(bytes: number): void {
    this.#usedBytes += bytes;
  }

  /** The segment holds nothing that could be given up. */
  forget(segment: Segment): void {
    this.#segments.delete(segment);
  }

  /** The least recently used one, of images that nobody has open if there is any. */
  #victim(keep: Segment): Segment | undefined {
    let best: Segment | undefined;
    for (const segment of this.#segments) {
      if (segment === keep || segment.busy > 0 || (segment.store.isPinned && segment.store.isOpen)) continue;
      const isBetter =
        best === undefined ||
        (best.store.isOpen && !segment.store.isOpen) ||
        (best.store.isOpen === segment.store.isOpen && segment.lastUse < best.lastUse);
      if (isBetter) best = segment;
    }
    return best;
  }
}

export interface BlockStoreOptions {
  readonly directory: string;
  readonly blocks: number;
  readonly blockBytes: number;
  readonly budget: DiskBudget;
  /** Of its files; another size for the same directory loses what is there. 64 MiB when absent. */
  readonly segmentBytes?: number;
}

export class BlockStore {
  /** Somebody reads this image: segments of others are given up first. */
  isOpen = false;
  /** It cannot be fetched again part by part: nothing of it is given up while it is open. */
  isPinned = false;
  readonly #options: BlockStoreOptions;
  readonly #present: Buffer;
  readonly #segments = new Map<number, Segment>();
  readonly #removals = new Map<number, Promise<void>>();
  readonly #blocksASegment: number;
  #mapIsStale = false;
  #flushing: Promise<void> = Promise.resolve();

  private constructor(options: BlockStoreOptions, present: Buffer) {
    this.#options = options;
    this.#present = present;
    this.#blocksASegment = Math.max(1, Math.floor((options.segmentBytes ?? defaultSegmentBytes) / options.blockBytes));
  }

  /** Continues from what the directory holds, or starts empty. */
  static async open(options: BlockStoreOptions): Promise<BlockStore> {
    await mkdir(options.directory, { recursive: true, mode: 0o700 });
    const bytes = Math.ceil(options.blocks / 8);
    const present = (await readMap(join(options.directory, 'present'), bytes)) ?? Buffer.alloc(bytes);
    const store = new BlockStore(options, present);
    await store.#adopt();
    return store;
  }

  get blockBytes(): number {
    return this.#options.blockBytes;
  }

  has(block: number): boolean {
    return ((this.#present[block >> 3] ?? 0) & (1 << (block & 7))) !== 0;
  }

  /** How many blocks from `first` on lie behind each other in one segment, at most `most`. */
  reach(first: number, most: number): number {
    return Math.min(most, this.#blocksASegment - (first % this.#blocksASegment));
  }

  /**
   * Reads present blocks that lie behind each other (see `reach`) at once.
   * @returns for each its bytes, or `undefined` when its disk does not give it back
   */
  async read(first: number, lengths: readonly number[]): Promise<(Buffer | undefined)[]> {
    const segment = this.#segment(first);
    this.#options.budget.touch(segment);
    segment.busy++;
    try {
      const handle = await this.#handleOf(segment);
      const buffers = lengths.map((length) => Buffer.allocUnsafeSlow(length));
      const { bytesRead } = await handle.readv(buffers, this.#offset(first));
      let left = bytesRead;
      return buffers.map((buffer) => {
        left -= buffer.length;
        return left >= 0 ? buffer : undefined;
      });
    } catch {
      return lengths.map(() => undefined);
    } finally {
      segment.busy--;
    }
  }

  /**
   * Writes blocks that are not present and lie behind each other (see `reach`) at once.
   * @returns for how many there was room; @throws when the disk fails: then none is present
   */
  async write(first: number, blocks: readonly Buffer[]): Promise<number> {
    const { budget, blockBytes } = this.#options;
    const segment = this.#segment(first);
    segment.busy++;
    budget.touch(segment);
    let taken = 0;
    try {
      while (taken < blocks.length && budget.take(segment, blockBytes)) taken++;
      if (taken === 0) return 0;
      const handle = await this.#handleOf(segment);
      const kept = blocks.slice(0, taken);
      const { bytesWritten } = await handle.writev(kept, this.#offset(first));
      if (bytesWritten !== kept.reduce((sum, { length }) => sum + length, 0))
        throw new Error('the disk took a part only');
      segment.blocks += taken;
      segment.isDirty = true;
      for (let block = first; block < first + taken; block++) this.#mark(block, true);
      return taken;
    } catch (error) {
      budget.release(taken * blockBytes);
      throw error;
    } finally {
      segment.busy--;
    }
  }

  /** A block's bytes are not what they should be: it is no longer present. */
  distrust(block: number): void {
    if (!this.has(block)) return;
    this.#mark(block, false);
    const segment = this.#segment(block);
    segment.blocks--;
    this.#options.budget.release(this.#options.blockBytes);
  }

  /** Called by the budget; see invariant 2. */
  giveUp(segment: Segment): void {
    const { index } = segment;
    const first = index * this.#blocksASegment;
    const held = segment.blocks;
    for (let block = first; block < Math.min(first + this.#blocksASegment, this.#options.blocks); block++) {
      if (this.has(block)) this.#mark(block, false);
    }
    segment.blocks = 0;
    this.#options.budget.release(held * this.#options.blockBytes);
    this.#options.budget.forget(segment);
    this.#segments.delete(index);
    const removal = (async () => {
      await (await segment.handle?.catch(() => undefined))?.close().catch(() => {});
      await rm(this.#pathOf(index), { force: true }).catch(() => {});
      this.#removals.delete(index);
    })();
    this.#removals.set(index, removal);
  }

  /** What was written before the call is durable when it resolves. @throws when the disk fails */
  flush(): Promise<void> {
    this.#flushing = this.#flushing.catch(() => {}).then(() => this.#flushNow());
    return this.#flushing;
  }

  /** Closes its files without a flush. */
  async close(): Promise<void> {
    await this.#flushing.catch(() => {});
    const handles = [...this.#segments.values()].map((segment) => {
      const { handle } = segment;
      segment.handle = undefined;
      return handle;
    });
    await Promise.all(handles.map(async (handle) => (await handle?.catch(() => undefined))?.close().catch(() => {})));
    await Promise.all(this.#removals.values());
  }

  /** Gives everything back to the budget and removes the directory. */
  async remove(): Promise<void> {
    for (const segment of [...this.#segments.values()]) this.giveUp(segment);
    await this.close();
    await rm(this.#options.directory, { recursive: true, force: true });
  }

  async #flushNow(): Promise<void> {
    if (!this.#mapIsStale) return;
    // Taken before the flush: a block that is written meanwhile is named by the next map.
    this.#mapIsStale = false;
    const map = Buffer.from(this.#present);
    try {
      for (const segment of [...this.#segments.values()].filter(({ isDirty }) => isDirty)) {
        segment.isDirty = false;
        segment.busy++;
        try {
          await (await this.#handleOf(segment)).datasync();
        } catch (error) {
          segment.isDirty = true;
          throw error;
        } finally {
          segment.busy--;
        }
      }
      await writeDurably(join(this.#options.directory, 'present'), Buffer.concat([mapMagic, map, sha256(map)]));
    } catch (error) {
      this.#mapIsStale = true;
      throw error;
    }
  }

  /** Takes up the segments whose files are there; a block whose file is gone is not present. */
  async #adopt(): Promise<void> {
    const { directory, budget, blockBytes, blocks } = this.#options;
    const files = new Set(await readdir(directory));
    for (let block = 0; block < blocks; block++) {
      if (!this.has(block)) continue;
      const segment = this.#segment(block);
      const isThere = files.has(segmentName(segment.index)) && budget.take(segment, blockBytes);
      if (isThere) segment.blocks++;
      else this.#mark(block, false);
    }
    for (const file of files) {
      const index = /^segment-(\d+)$/.exec(file)?.[1];
      if (index === undefined || (this.#segments.get(Number(index))?.blocks ?? 0) > 0) continue;
      await rm(join(directory, file), { force: true });
    }
  }

  #segment(block: number): Segment {
    const index = Math.floor(block / this.#blocksASegment);
    const known = this.#segments.get(index);
    if (known !== undefined) return known;
    const segment: Segment = {
      index,
      store: this,
      handle: undefined,
      busy: 0,
      blocks: 0,
      isDirty: false,
      lastUse: 0,
    };
    this.#segments.set(index, segment);
    return segment;
  }

  #handleOf(segment: Segment): Promise<FileHandle> {
    segment.handle ??= (async () => {
      await this.#removals.get(segment.index);
      const path = this.#pathOf(segment.index);
      try {
        return await open(path, 'r+', 0o600);
      } catch {
        return await open(path, 'w+', 0o600);
      }
    })();
    segment.handle.catch(() => {
      segment.handle = undefined;
    });
    return segment.handle;
  }

  #offset(block: number): number {
    return (block % this.#blocksASegment) * this.#options.blockBytes;
  }

  #mark(block: number, isPresent: boolean): void {
    const byte = this.#present[block >> 3] ?? 0;
    this.#present[block >> 3] = isPresent ? byte | (1 << (block & 7)) : byte & ~(1 << (block & 7));
    this.#mapIsStale = true;
  }

  #pathOf(index: number): string {
    return join(this.#options.directory, segmentName(index));
  }
}

const segmentName = (index: number): string => `segment-${index}`;

async function readMap(path: string, bytes: number): Promise<Buffer | undefined> {
  const file = await readFile(path).catch(() => undefined);
  if (file === undefined || file.length !== mapMagic.length + bytes + mapHashBytes) return undefined;
  const map = file.subarray(mapMagic.length, mapMagic.length + bytes);
  const isWhole =
    file.subarray(0, mapMagic.length).equals(mapMagic) && sha256(map).equals(file.subarray(-mapHashBytes));
  return isWhole ? Buffer.from(map) : undefined;
}

/** Replaces a file so that after a crash it holds the old or the new bytes. */
export async function writeDurably(path: string, bytes: Buffer): Promise<void> {
  const beside = `${path}.new`;
  const handle = await open(beside, 'w', 0o600);
  try {
    await handle.writeFile(bytes);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(beside, path);
  const directory = await open(join(path, '..'), 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/**
 * The cache of a rack: whatever its nodes read of an image, the origin sends each block of it once.
 *
 * Invariants:
 * 1. An image is known by its digest, whatever the address: two environments with one digest share one image.
 * 2. Memory and disk are bounded. Segments of images that nobody has open are given up first, then the least recently used of open ones:
 *    those are fetched again when they are read. An image that cannot be fetched in parts stays while it is open.
 * 3. A restart keeps what is verified: an image whose tree is on the disk opens without its origin.
 * 4. One process uses a directory at a time; two do no harm beyond fetching more, for what is read is verified.
 */
import { mkdir, open, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Agent } from 'undici';
import type { BackoffPolicy } from '../../controller/runtime/backoff.ts';
import type { Clock } from '../../controller/runtime/clock.ts';
import type { Random } from '../../controller/runtime/random.ts';
import { type Acquired, acquire, ImageError, type ImageSpec, parseTreeFile } from './acquire.ts';
import { BlockStore, DiskBudget, writeDurably } from './block-store.ts';
import { CachedImage, type Shared } from './cached-image.ts';
import { Counters } from './counters.ts';
import { Gate } from './gate.ts';
import { MemoryBlocks } from './memory-blocks.ts';
import { type Origin, OriginError } from './origin.ts';
import { type HttpOptions, httpDispatcher } from './origin-http.ts';
import { type OriginPolicy, originOf } from './origins.ts';
import { decodeDescriptor, descriptorBytes, digestOf, TreeError, TreeLayout } from './tree.ts';
import { unlessAborted } from './unless-aborted.ts';

const metaFormat = 1;
/** What a crash may cost is fetched again: seconds of it. */
const flushIntervalMs = 2000;
/** Half a minute: an agent's operation waits longer, and a person should see what it waits for. */
const defaultPatienceMs = 300_000;
const defaultBackoff: BackoffPolicy = { initialMs: 200, factor: 2, capMs: 5000, jitter: 0.5 };
/** Four times what a rack of 102 nodes reads with 16 requests each. */
const mostWaiting = 8192;

export interface RackCacheOptions {
  /** Of this cache alone; made when it is not there. */
  readonly directory: string;
  /** For blocks, trees and what is on its way to the disk. At least 16 MiB. */
  readonly memoryBytes: number;
  readonly diskBytes: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly policy: OriginPolicy;
  readonly http?: HttpOptions;
  /** Between attempts at an origin. */
  readonly originBackoff?: BackoffPolicy;
  /** What is given up at a time when the disk is full; 64 MiB when absent. */
  readonly segmentBytes?: number;
  /** How long `open` waits for an origin that is away; 5 minutes when absent. */
  readonly patienceMs?: number;
  /** Called for every fault, also for those that end by themselves. */
  readonly onFault?: (digest: string, error: unknown) => void;
}

/** One use of an image; the image stays open until every use is closed. */
export interface ImageHandle {
  readonly image: CachedImage;
  close(): Promise<void>;
}

interface Entry {
  /** `id` of the origin that it is opened from. */
  readonly origin: string;
  readonly abort: AbortController;
  readonly opened: Promise<{ image: CachedImage; tree: number }>;
  users: number;
}

/** An image on the disk; open or not. */
interface Resting {
  readonly store: BlockStore;
  readonly treeBytes: number;
  /** Digest of the descriptor that `tree` must begin with. */
  readonly descriptor: string;
}

interface Remembered {
  readonly layout: TreeLayout;
  readonly descriptor: string;
  readonly pinned: boolean;
}

export class RackCache {
  readonly counters = new Counters();
  readonly #options: RackCacheOptions;
  readonly #shared: Shared;
  readonly #budget: DiskBudget;
  readonly #dispatcher: Agent;
  readonly #entries = new Map<string, Entry>();
  /** In the order in which they were last used. */
  readonly #resting = new Map<string, Resting>();
  readonly #closing = new Map<string, Promise<void>>();
  readonly #treeLimitBytes: number;
  #treeBytes = 0;
  #images = 0;
  #cancelFlush: (() => void) | undefined;
  readonly #stores = new Set<BlockStore>();
  #isClosed = false;

  private constructor(options: RackCacheOptions) {
    const { memoryBytes, diskBytes, clock, random, onFault, originBackoff = defaultBackoff } = options;
    this.#options = options;
    this.#budget = new DiskBudget(diskBytes);
    this.#dispatcher = httpDispatcher(options.http);
    // A quarter for trees, an eighth for what waits for the disk, the rest for blocks.
    this.#treeLimitBytes = memoryBytes / 4;
    this.#shared = {
      memory: new MemoryBlocks((memoryBytes * 5) / 8),
      clock,
      random,
      counters: this.counters,
      toDisk: new Gate(memoryBytes / 8),
      originBackoff,
      mostWaiting,
      onFault: (digest, error) => onFault?.(digest, error),
    };
  }

  /** Takes up what the directory holds. @throws when the directory cannot be used */
  static async start(options: RackCacheOptions): Promise<RackCache> {
    if (options.memoryBytes < 16_777_216) throw new Error('a cache needs at least 16 MiB of memory');
    await mkdir(options.directory, { recursive: true, mode: 0o700 });
    const cache = new RackCache(options);
    for (const name of (await readdir(options.directory)).sort()) {
      if (!/^[0-9a-f]{64}$/.test(name)) continue;
      const path = join(options.directory, name);
      const known = await readMeta(path);
      if (known === undefined) await rm(path, { recursive: true, force: true });
      else await cache.#adopt(name, known);
    }
    cache.#scheduleFlush();
    return cache;
  }

  /** Bytes of blocks and trees on the disk, as the bound counts them. */
  get diskBytes(): number {
    return this.#budget.usedBytes;
  }

  get memoryBytes(): number {
    return this.#shared.memory.heldBytes + this.#treeBytes;
  }

  /**
   * Resolves once the digest is known to be that of the image: at once when its tree is on the disk, after a few requests when a tree lies
   * beside it, after reading it whole otherwise.
   * @param signal gives it up
   * @throws ImageError, or the signal's reason
   */
  async open(spec: ImageSpec, signal?: AbortSignal): Promise<ImageHandle> {
    if (this.#isClosed) throw new ImageError('Unavailable', 'the cache is closed');
    const origin = this.#originOf(spec);
    const known = this.#entries.get(spec.sha256);
    const entry = known ?? this.#enter(spec, origin);
    entry.users++;
    try {
      const { image } = await unlessAborted(entry.opened, signal);
      if (image.sizeBytes > spec.sizeBytes) {
        throw new ImageError(
          'TooLarge',
          `the image has ${image.sizeBytes} bytes, and a size of ${spec.sizeBytes} is stated`,
        );
      }
      const forget = image.addOrigin(origin);
      let isOpen = true;
      const close = async (): Promise<void> => {
        if (!isOpen) return;
        isOpen = false;
        forget();
        await this.#leave(spec.sha256, entry);
      };
      return { image, close };
    } catch (error) {
      await this.#leave(spec.sha256, entry);
      if (signal?.aborted === true) throw signal.reason;
      // Who came first named another place, which says nothing about this one.
      const isOfAnother = known !== undefined && known.origin !== origin.id && this.#entries.get(spec.sha256) !== known;
      if (isOfAnother) return this.open(spec, signal);
      throw imageError(error);
    }
  }

  /** Closes every image; what was written is durable when it resolves. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#cancelFlush?.();
    for (const [digest, entry] of [...this.#entries]) {
      entry.users = 1;
      await this.#leave(digest, entry);
    }
    await Promise.all(this.#closing.values());
    await Promise.all([...this.#stores].map((store) => store.close()));
    await this.#dispatcher.destroy();
  }

  #originOf({ url, format }: ImageSpec): Origin {
    if (format !== 'Raw')
      throw new ImageError('Unavailable', `this rack serves images of the format Raw, not ${format}`);
    try {
      return originOf(url, this.#options.policy, this.#dispatcher);
    } catch (error) {
      throw imageError(error);
    }
  }

  #enter(spec: ImageSpec, origin: Origin): Entry {
    const abort = new AbortController();
    const opened = (async () => {
      await this.#closing.get(spec.sha256);
      const { tree, store } = (await this.#known(spec.sha256)) ?? (await this.#acquire(spec, origin, abort.signal));
      abort.signal.throwIfAborted();
      store.isOpen = true;
      this.#treeBytes += tree.heldBytes;
      const image = new CachedImage({ id: ++this.#images, digest: spec.sha256, tree, store }, this.#shared);
      return { image, tree: tree.heldBytes };
    })();
    const entry: Entry = { origin: origin.id, abort, opened, users: 0 };
    this.#entries.set(spec.sha256, entry);
    // Who asks from now on tries again; who waited for it leaves it.
    opened.catch(() => this.#drop(spec.sha256, entry));
    return entry;
  }

  #drop(digest: string, entry: Entry): void {
    if (this.#entries.get(digest) === entry) this.#entries.delete(digest);
  }

  async #leave(digest: string, entry: Entry): Promise<void> {
    // Below zero: the cache was closed before its users were.
    if (--entry.users !== 0) return;
    entry.abort.abort(new ImageError('Unavailable', 'the image was closed while it was opened'));
    this.#drop(digest, entry);
    const closing = (async () => {
      const opened = await entry.opened.catch(() => undefined);
      if (opened === undefined) return;
      await opened.image.close();
      this.#treeBytes -= opened.tree;
      const resting = this.#resting.get(digest);
      if (resting === undefined) return;
      resting.store.isOpen = false;
      await this.#flush(resting.store);
      await this.#trim();
    })();
    this.#closing.set(digest, closing);
    // Another opening of the image may have ended meanwhile.
    await closing.finally(() => {
      if (this.#closing.get(digest) === closing) this.#closing.delete(digest);
    });
  }

  /** The image from the disk alone; `undefined` when it is not there or not whole. */
  async #known(digest: string): Promise<{ tree: Acquired['tree']; store: BlockStore } | undefined> {
    const resting = this.#resting.get(digest);
    if (resting === undefined) return undefined;
    try {
      const file = await readFile(join(this.#directory(digest), 'tree'));
      const isNamed = digestOf(file.subarray(0, descriptorBytes)) === resting.descriptor;
      if (!isNamed) throw new TreeError('the tree on the disk is another one');
      const tree = parseTreeFile(file);
      if (resting.store.isPinned && !isComplete(tree, resting.store))
        throw new TreeError('parts of the image are gone');
      if (this.#treeBytes + tree.heldBytes > this.#treeLimitBytes) throw new TreeError('no memory for the tree');
      this.#resting.delete(digest);
      this.#resting.set(digest, resting);
      return { tree, store: resting.store };
    } catch (error) {
      this.counters.corruptOnDisk++;
      this.#shared.onFault(digest, error);
      await this.#forget(digest, resting);
      return undefined;
    }
  }

  async #acquire(spec: ImageSpec, origin: Origin, signal: AbortSignal): Promise<Acquired> {
    const { patienceMs = defaultPatienceMs } = this.#options;
    const mostTreeBytes = Math.max(0, this.#treeLimitBytes - this.#treeBytes);
    let store: BlockStore | undefined;
    try {
      const acquired = await acquire(
        { spec, origin, shared: this.#shared, signal, patienceMs, mostTreeBytes },
        async (layout) => {
          if (store !== undefined) await this.#discard(store);
          await rm(this.#directory(spec.sha256), { recursive: true, force: true });
          store = await this.#openStore(spec.sha256, layout);
          store.isOpen = true;
          return store;
        },
      );
      await this.#remember(spec.sha256, acquired);
      return acquired;
    } catch (error) {
      if (store !== undefined) await this.#discard(store);
      throw error;
    }
  }

  /** The blocks first, then the tree, then the file that says that both are what the digest names. */
  async #remember(digest: string, { tree, store, treeFile }: Acquired): Promise<void> {
    const directory = this.#directory(digest);
    await store.flush();
    await writeDurably(join(directory, 'tree'), treeFile);
    const descriptor = digestOf(treeFile.subarray(0, descriptorBytes));
    const meta = { format: metaFormat, descriptor, pinned: store.isPinned };
    await writeDurably(join(directory, 'meta.json'), Buffer.from(JSON.stringify(meta)));
    await this.#rest(digest, { store, treeBytes: tree.layout.treeBytes, descriptor });
  }

  async #openStore(digest: string, { dataBlocks, blockBytes }: TreeLayout): Promise<BlockStore> {
    const directory = this.#directory(digest);
    const { segmentBytes } = this.#options;
    const store = await BlockStore.open({
      ...{ directory, blocks: dataBlocks, blockBytes, budget: this.#budget },
      ...(segmentBytes === undefined ? {} : { segmentBytes }),
    });
    this.#stores.add(store);
    return store;
  }

  async #adopt(digest: string, { layout, descriptor, pinned }: Remembered): Promise<void> {
    const store = await this.#openStore(digest, layout);
    store.isPinned = pinned;
    await this.#rest(digest, { store, treeBytes: layout.treeBytes, descriptor });
  }

  async #rest(digest: string, resting: Resting): Promise<void> {
    this.#resting.set(digest, resting);
    this.#budget.charge(resting.treeBytes);
    await this.#trim();
  }

  /** Trees of images that nobody has open go, with all of their images, when the disk is over its bound. */
  async #trim(): Promise<void> {
    for (const [digest, resting] of this.#resting) {
      if (this.#budget.usedBytes <= this.#options.diskBytes) return;
      if (!resting.store.isOpen && !this.#entries.has(digest)) await this.#forget(digest, resting);
    }
  }

  async #forget(digest: string, { store, treeBytes }: Resting): Promise<void> {
    this.#resting.delete(digest);
    this.#budget.charge(-treeBytes);
    await this.#discard(store);
  }

  async #discard(store: BlockStore): Promise<void> {
    this.#stores.delete(store);
    await store.remove();
  }

  #directory(digest: string): string {
    return join(this.#options.directory, digest);
  }

  #scheduleFlush(): void {
    this.#cancelFlush = this.#options.clock.setTimer(flushIntervalMs, () => {
      void Promise.all([...this.#stores].map((store) => this.#flush(store))).then(() => {
        if (!this.#isClosed) this.#scheduleFlush();
      });
    });
  }

  async #flush(store: BlockStore): Promise<void> {
    try {
      await store.flush();
    } catch (error) {
      this.#shared.onFault('', error);
    }
  }
}

function imageError(error: unknown): ImageError {
  if (error instanceof ImageError) return error;
  const isKnown = error instanceof OriginError || error instanceof TreeError;
  const message = isKnown
    ? error.message
    : `the image cannot be opened: ${error instanceof Error ? error.message : error}`;
  return new ImageError('Unavailable', message, { cause: error });
}

function isComplete(tree: Acquired['tree'], store: BlockStore): boolean {
  for (let block = 0; block < tree.layout.dataBlocks; block++)
    if (!tree.isZero(block) && !store.has(block)) return false;
  return true;
}

/** What is written of an image on the disk; its tree is verified when it is opened. */
async function readMeta(directory: string): Promise<Remembered | undefined> {
  try {
    const meta: unknown = JSON.parse(await readFile(join(directory, 'meta.json'), 'utf8'));
    if (typeof meta !== 'object' || meta === null || !('format' in meta) || meta.format !== metaFormat)
      return undefined;
    const handle = await open(join(directory, 'tree'), 'r');
    try {
      const { buffer, bytesRead } = await handle.read(Buffer.alloc(descriptorBytes), 0, descriptorBytes, 0);
      const descriptor = digestOf(buffer.subarray(0, bytesRead));
      if (!('descriptor' in meta) || meta.descriptor !== descriptor) return undefined;
      const pinned = 'pinned' in meta && meta.pinned === true;
      return { layout: new TreeLayout(decodeDescriptor(buffer)), descriptor, pinned };
    } finally {
      await handle.close();
    }
  } catch {
    return undefined;
  }
}

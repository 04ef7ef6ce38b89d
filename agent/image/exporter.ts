/**
 * The rack's cache and an NBD server over it: what an image driver is made of.
 *
 * Invariants:
 * 1. An export exists only once the digest is known to be that of the image.
 * 2. An image stays open in the cache for as long as one of its exports does: no machine reads from an image that is going away.
 * 3. When `close` resolves, nobody reads the export any more, also if it was still being opened.
 */
import { ImageError, type ImageSpec } from './acquire.ts';
import { type ImageHandle, RackCache, type RackCacheOptions } from './cache.ts';
import { type NbdServer, startNbdServer } from './nbd-server.ts';

export interface RackExporterOptions extends RackCacheOptions {
  readonly socketPath: string;
  /** Bytes a second for all machines together; unbounded when absent. */
  readonly rateBytes?: number;
  /** Of errors inside the process. */
  readonly onError: (error: unknown) => void;
}

/** What was found at the image's address. */
export interface Found {
  /** The digest that was asked for, or the SHA-256 of another file that is there: then nothing is exported. */
  readonly digest: string;
  readonly sizeBytes: number;
}

interface Opened {
  readonly found: Promise<Found>;
  handle?: ImageHandle;
  isClosed: boolean;
}

export class RackExporter {
  readonly socketPath: string;
  readonly cache: RackCache;
  readonly #nbd: NbdServer;
  readonly #opened = new Map<string, Opened>();

  private constructor(socketPath: string, cache: RackCache, nbd: NbdServer) {
    this.socketPath = socketPath;
    this.cache = cache;
    this.#nbd = nbd;
  }

  /** @throws when the directory cannot be used, or the socket is served by another process */
  static async start(options: RackExporterOptions): Promise<RackExporter> {
    const { socketPath, clock, rateBytes, onError } = options;
    const cache = await RackCache.start(options);
    const rate = rateBytes === undefined ? {} : { rateBytes };
    try {
      return new RackExporter(
        socketPath,
        cache,
        await startNbdServer({ listen: { socketPath }, clock, onError, ...rate }),
      );
    } catch (error) {
      await cache.close();
      throw error;
    }
  }

  /**
   * Exports the image under the name, to whoever knows it. Asked again for an open name it answers as before.
   * @throws ImageError
   */
  open(name: string, image: ImageSpec): Promise<Found> {
    const known = this.#opened.get(name);
    if (known !== undefined) return known.found;
    const { promise, resolve, reject } = Promise.withResolvers<Found>();
    const opened: Opened = { found: promise, isClosed: false };
    this.#opened.set(name, opened);
    this.#export(name, image, opened).then(resolve, (error: unknown) => {
      if (this.#opened.get(name) === opened) this.#opened.delete(name);
      reject(error);
    });
    return promise;
  }

  /** Resolves also where there was no export of this name. */
  async close(name: string): Promise<void> {
    const opened = this.#opened.get(name);
    if (opened === undefined) return;
    opened.isClosed = true;
    await opened.found.catch(() => {});
    await this.#nbd.remove(name);
    await opened.handle?.close();
    if (this.#opened.get(name) === opened) this.#opened.delete(name);
  }

  /** Of an image that is exported. @throws when none is under this name, or the range is not in it */
  async read(name: string, offset: number, length: number): Promise<Buffer> {
    const image = this.#opened.get(name)?.handle?.image;
    if (image === undefined) throw new Error('the image is not exported');
    return image.read(offset, length);
  }

  /** Clients that are connected to an export: 0 where there is none. */
  clients(name: string): number {
    return this.#nbd.state(name)?.clients ?? 0;
  }

  servedBytes(): number {
    return this.#nbd.servedBytes;
  }

  /** Machines that read an image wait from now on. */
  async stop(): Promise<void> {
    await this.#nbd.close();
    await this.cache.close();
  }

  async #export(name: string, image: ImageSpec, opened: Opened): Promise<Found> {
    try {
      const handle = await this.cache.open(image);
      opened.handle = handle;
      // Who closes it meanwhile gives the handle back.
      if (!opened.isClosed) this.#nbd.add(name, { image: handle.image });
      return { digest: handle.image.digest, sizeBytes: handle.image.sizeBytes };
    } catch (error) {
      // Another image is an answer, which the agent refuses.
      if (error instanceof ImageError && error.found !== undefined) return { digest: error.found, sizeBytes: 0 };
      throw error;
    }
  }
}

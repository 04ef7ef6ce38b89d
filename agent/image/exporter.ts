/**
 * Images of the rack's cache, exported over NBD: what an image driver is made of.
 *
 * Invariants:
 * 1. An export exists only once the digest is known to be that of the image.
 * 2. An image stays open in the cache for as long as one of its exports does.
 * 3. When `close` resolves, nobody reads the export any more, also if it was still being opened.
 */
import { ImageError, type ImageSpec } from './acquire.ts';
import type { ImageHandle, RackCache } from './cache.ts';
import type { NbdServer } from './nbd-server.ts';

export interface ExporterOptions {
  readonly cache: RackCache;
  readonly nbd: NbdServer;
  /** Where the server listens, for who connects. */
  readonly socketPath: string;
}

/** What was found at the image's address. */
export interface Found {
  /** The digest that was asked for, or the SHA-256 of another file that is there: then nothing is exported. */
  readonly digest: string;
  readonly sizeBytes: number;
}

export interface Bounds {
  /** The only address that may read it, over TCP. */
  readonly from?: string;
  /** Bytes a second. */
  readonly rateBytes?: number;
}

interface Opened {
  readonly found: Promise<Found>;
  handle?: ImageHandle;
  isClosed: boolean;
}

export class ImageExporter {
  readonly socketPath: string;
  readonly #cache: RackCache;
  readonly #nbd: NbdServer;
  readonly #opened = new Map<string, Opened>();

  constructor({ cache, nbd, socketPath }: ExporterOptions) {
    this.#cache = cache;
    this.#nbd = nbd;
    this.socketPath = socketPath;
  }

  /**
   * Exports the image under the name, to whoever knows it. Asked again for an open name it answers as before.
   * @throws ImageError
   */
  open(name: string, image: ImageSpec, bounds: Bounds = {}): Promise<Found> {
    const known = this.#opened.get(name);
    if (known !== undefined) return known.found;
    const { promise, resolve, reject } = Promise.withResolvers<Found>();
    const opened: Opened = { found: promise, isClosed: false };
    this.#opened.set(name, opened);
    this.#export(name, image, bounds, opened).then(resolve, (error: unknown) => {
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

  /** Clients that are connected to an export: 0 where there is none. */
  clients(name: string): number {
    return this.#nbd.state(name)?.clients ?? 0;
  }

  servedBytes(): number {
    return this.#nbd.servedBytes;
  }

  async #export(name: string, image: ImageSpec, bounds: Bounds, opened: Opened): Promise<Found> {
    try {
      const handle = await this.#cache.open(image);
      opened.handle = handle;
      // Who closes it meanwhile gives the handle back.
      if (!opened.isClosed) this.#nbd.add(name, { image: handle.image, ...bounds });
      return { digest: handle.image.digest, sizeBytes: handle.image.sizeBytes };
    } catch (error) {
      if (error instanceof ImageError && error.found !== undefined) return { digest: error.found, sizeBytes: 0 };
      throw error;
    }
  }
}

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
import { type NbdServer, type NbdServerOptions, startNbdServer } from './nbd-server.ts';

export interface RackExporterOptions extends RackCacheOptions {
  /** A socket of the file system, or a host and a port. */
  readonly listen: NbdServerOptions['listen'];
  /** Over TCP: the only address that may read what is exported to this node. */
  readonly addressOf?: (node: string) => string | undefined;
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
  readonly abort: AbortController;
  handle?: ImageHandle;
  isClosed: boolean;
}

export class RackExporter {
  /** Of the socket; empty over TCP. */
  readonly socketPath: string;
  readonly cache: RackCache;
  readonly #nbd: NbdServer;
  readonly #addressOf: (node: string) => string | undefined;
  readonly #opened = new Map<string, Opened>();

  private constructor({ listen, addressOf }: RackExporterOptions, cache: RackCache, nbd: NbdServer) {
    this.#addressOf = addressOf ?? (() => undefined);
    this.socketPath = 'socketPath' in listen ? listen.socketPath : '';
    this.cache = cache;
    this.#nbd = nbd;
  }

  /** Of TCP; 0 over a socket of the file system. */
  get port(): number {
    return this.#nbd.port;
  }

  /** @throws when the directory cannot be used, or the socket is served by another process */
  static async start(options: RackExporterOptions): Promise<RackExporter> {
    const { listen, clock, rateBytes, onError } = options;
    const cache = await RackCache.start(options);
    const rate = rateBytes === undefined ? {} : { rateBytes };
    try {
      return new RackExporter(options, cache, await startNbdServer({ listen, clock, onError, ...rate }));
    } catch (error) {
      await cache.close();
      throw error;
    }
  }

  /**
   * Exports the image under the name, to whoever knows it and, over TCP, has the node's address. Asked again for an open name it answers as before.
   * @throws ImageError
   */
  open(name: string, image: ImageSpec, node?: string): Promise<Found> {
    const known = this.#opened.get(name);
    if (known !== undefined) return known.found;
    const { promise, resolve, reject } = Promise.withResolvers<Found>();
    const opened: Opened = { found: promise, abort: new AbortController(), isClosed: false };
    this.#opened.set(name, opened);
    const from = node === undefined ? undefined : this.#addressOf(node);
    this.#export(name, image, opened, from).then(resolve, (error: unknown) => {
      if (this.#opened.get(name) === opened) this.#opened.delete(name);
      reject(error);
    });
    return promise;
  }

  /** Resolves also where there was no export of this name. One that is still being opened is given up. */
  async close(name: string): Promise<void> {
    const opened = this.#opened.get(name);
    if (opened === undefined) return;
    opened.isClosed = true;
    opened.abort.abort(new ImageError('Unavailable', 'the export was closed while it was opened'));
    await opened.found.catch(() => {});
    await this.#nbd.remove(name);
    await opened.handle?.close();
    if (this.#opened.get(name) === opened) this.#opened.delete(name);
  }

  /** Of an image that is exported. @throws when none is under this name, or the range is not in it */
  async read(name: string, offset: number, length: number): Promise<Buffer> {
    return this.image(name).read(offset, length);
  }

  /** Clients that are connected to an export: 0 where there is none. */
  clients(name: string): number {
    return this.#nbd.state(name)?.clients ?? 0;
  }

  /** Of an image that is exported. @throws when none is under this name */
  image(name: string): ImageHandle['image'] {
    const image = this.#opened.get(name)?.handle?.image;
    if (image === undefined) throw new Error('the image is not exported');
    return image;
  }

  servedBytes(): number {
    return this.#nbd.servedBytes;
  }

  /** Machines that read an image wait from now on. */
  async stop(): Promise<void> {
    await this.#nbd.close();
    await this.cache.close();
  }

  async #export(name: string, image: ImageSpec, opened: Opened, from: string | undefined): Promise<Found> {
    try {
      const handle = await this.cache.open(image, opened.abort.signal);
      opened.handle = handle;
      // Who closes it meanwhile gives the handle back.
      if (!opened.isClosed) this.#nbd.add(name, { image: handle.image, ...(from === undefined ? {} : { from }) });
      return { digest: handle.image.digest, sizeBytes: handle.image.sizeBytes };
    } catch (error) {
      // Another image is an answer, which the agent refuses.
      if (error instanceof ImageError && error.found !== undefined) return { digest: error.found, sizeBytes: 0 };
      throw error;
    }
  }
}

/**
 * Exports images of the rack's cache over NBD at a socket of the file system.
 *
 * Invariant: an export ends before its image is closed, so no machine ever reads from an image that is going away.
 */
import { ImageError } from '../../image/acquire.ts';
import { type ImageHandle, RackCache, type RackCacheOptions } from '../../image/cache.ts';
import { type NbdServer, startNbdServer } from '../../image/nbd-server.ts';
import type { Exporter, ImageSpec } from './images.ts';

export interface RackExporterOptions extends RackCacheOptions {
  readonly socketPath: string;
  /** Bytes a second for all machines together; unbounded when absent. */
  readonly rateBytes?: number;
  readonly onError: (error: unknown) => void;
}

export class RackExporter implements Exporter {
  readonly socketPath: string;
  readonly cache: RackCache;
  readonly #server: NbdServer;
  readonly #handles = new Map<string, ImageHandle>();

  private constructor(socketPath: string, cache: RackCache, server: NbdServer) {
    this.socketPath = socketPath;
    this.cache = cache;
    this.#server = server;
  }

  static async start(options: RackExporterOptions): Promise<RackExporter> {
    const { socketPath, clock, rateBytes, onError } = options;
    const cache = await RackCache.start(options);
    const rate = rateBytes === undefined ? {} : { rateBytes };
    const server = await startNbdServer({ listen: { socketPath }, clock, onError, ...rate });
    return new RackExporter(socketPath, cache, server);
  }

  async open(name: string, image: ImageSpec): Promise<{ readonly digest: string; readonly sizeBytes: number }> {
    let handle: ImageHandle;
    try {
      handle = await this.cache.open(image);
    } catch (error) {
      // Another image is an answer, which the agent refuses; nothing of it is exported.
      if (error instanceof ImageError && error.fault === 'DigestMismatch') {
        return { digest: error.found ?? 'unknown', sizeBytes: 0 };
      }
      throw error;
    }
    this.#handles.set(name, handle);
    this.#server.add(name, { image: handle.image });
    return { digest: handle.image.digest, sizeBytes: handle.image.sizeBytes };
  }

  async close(name: string): Promise<void> {
    await this.#server.remove(name);
    const handle = this.#handles.get(name);
    this.#handles.delete(name);
    await handle?.close();
  }

  async read(name: string, offset: number, length: number): Promise<Buffer> {
    const image = this.#handles.get(name)?.image;
    if (image === undefined) throw new Error('the image is not exported');
    return image.read(offset, length);
  }

  servedBytes(): number {
    return this.#server.servedBytes;
  }

  async stop(): Promise<void> {
    await this.#server.close();
    await this.cache.close();
  }
}

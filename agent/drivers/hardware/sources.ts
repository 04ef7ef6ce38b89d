/**
 * Where the hypervisors of a rack read their images: by NBD from the rack's cache, or by AoE from a file that is made of it.
 *
 * Invariants:
 * 1. An export is for one node alone, and its name or its target's config string says which image it is.
 * 2. Files for AoE are whole and verified before they are exported, go with their last export, and are bounded in sum.
 */
import { createHash } from 'node:crypto';
import { rmSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type AoeExport, type AoeExportOptions, startAoeExport } from '../../image/aoe.ts';
import { assembleImage } from '../../image/assemble.ts';
import type { Found, RackExporter } from '../../image/exporter.ts';
import type { Exporter, ImageSpec } from '../boot/images.ts';
import type { Source } from '../vmm-channel/messages.ts';

export interface ImageSource extends Exporter {
  /** For the plan of a VMM; undefined: nothing is exported under this name. */
  place(name: string, node: string): Source | undefined;
  stop(): Promise<void>;
}

/** @param agentOf the agent's address as this node reaches it */
export function nbdSource(exporter: RackExporter, agentOf: (node: string) => string): ImageSource {
  return {
    open: (name, image, node) => exporter.open(name, image, node),
    close: (name) => exporter.close(name),
    read: (name, offset, length) => exporter.read(name, offset, length),
    place: (name, node) => ({ transport: 'Nbd', address: `${agentOf(node)}:${exporter.port}`, name }),
    servedBytes: () => exporter.servedBytes(),
    stop: () => exporter.stop(),
  };
}

export interface AoeSettings {
  /** The bridge that the control ports are on. */
  readonly bridge: string;
  readonly netns?: string;
  /** Of all targets of this rack; a slot is a node's place in the rack. */
  readonly shelf: number;
  /** Of all files together. */
  readonly diskBytes: number;
}

interface AoeOptions extends AoeSettings {
  readonly exporter: RackExporter;
  /** Made when it is not there; of this source alone. */
  readonly directory: string;
  /** By node: its slot and the MAC addresses that may read. */
  readonly nodes: ReadonlyMap<string, { readonly slot: number; readonly macs: readonly string[] }>;
  readonly onError: (error: unknown) => void;
  /** In place of vblade, for tests. */
  readonly start?: (options: AoeExportOptions) => Promise<AoeExport>;
}

interface ImageFile {
  readonly path: string;
  readonly sizeBytes: number;
  readonly whole: Promise<void>;
  readonly abort: AbortController;
  users: number;
}

/** The same for an export that is opened again after a restart, another one for the next. */
const generationOf = (name: string): number =>
  Number.parseInt(createHash('sha256').update(name).digest('hex').slice(0, 8), 16);

class AoeSource implements ImageSource {
  readonly #options: AoeOptions;
  readonly #files = new Map<string, ImageFile>();
  readonly #exports = new Map<
    string,
    { readonly target: AoeExport; readonly address: string; readonly file: string }
  >();

  constructor(options: AoeOptions) {
    this.#options = options;
  }

  async open(name: string, image: ImageSpec, node: string): Promise<Found> {
    const { exporter, nodes, shelf, bridge, netns, start = startAoeExport, onError } = this.#options;
    const place = nodes.get(node);
    if (place === undefined) throw new Error(`${node} has no AoE target in this rack`);
    // Opened as for NBD, under a name that nobody is told: it is what keeps the image in the cache.
    const found = await exporter.open(name, image, node);
    if (found.digest !== image.sha256) return found;
    let isKept = false;
    try {
      const path = await this.#use(name, found);
      isKept = true;
      const target = await start({
        ...{ file: path, shelf, slot: place.slot, bridge, macs: place.macs, ...found },
        ...(netns === undefined ? {} : { netns }),
        generation: generationOf(name),
        onEnd: (why) => onError(new Error(`the AoE target of ${node} ended: ${why}`)),
      });
      this.#exports.set(name, { target, address: `${shelf}.${place.slot}`, file: found.digest });
      return found;
    } catch (error) {
      if (isKept) this.#release(found.digest);
      await exporter.close(name);
      throw error;
    }
  }

  async #use(name: string, { digest, sizeBytes }: Found): Promise<string> {
    const { exporter, directory, diskBytes } = this.#options;
    let file = this.#files.get(digest);
    if (file === undefined) {
      const used = [...this.#files.values()].reduce((sum, other) => sum + other.sizeBytes, 0);
      if (used + sizeBytes > diskBytes)
        throw new Error(`the image has ${sizeBytes} bytes, and of ${diskBytes} for AoE ${used} are in use`);
      const path = join(directory, `${digest}.raw`);
      const abort = new AbortController();
      const image = exporter.image(name);
      const whole = mkdir(directory, { recursive: true, mode: 0o700 }).then(() =>
        assembleImage(image, path, abort.signal),
      );
      file = { path, sizeBytes, whole, abort, users: 0 };
      this.#files.set(digest, file);
    }
    file.users++;
    try {
      await file.whole;
    } catch (error) {
      this.#release(digest);
      throw error;
    }
    return file.path;
  }

  #release(digest: string): void {
    const file = this.#files.get(digest);
    if (file === undefined || --file.users > 0) return;
    this.#files.delete(digest);
    file.abort.abort(new Error('nobody needs the image any more'));
    rmSync(file.path, { force: true });
  }

  async close(name: string): Promise<void> {
    const open = this.#exports.get(name);
    if (open !== undefined) {
      await open.target.close();
      this.#exports.delete(name);
      this.#release(open.file);
    }
    await this.#options.exporter.close(name);
  }

  read(name: string, offset: number, length: number): Promise<Buffer> {
    return this.#options.exporter.read(name, offset, length);
  }

  place(name: string): Source | undefined {
    const open = this.#exports.get(name);
    return open === undefined ? undefined : { transport: 'Aoe', address: open.address, name: open.target.config };
  }

  /** vblade counts nothing. */
  servedBytes(): number {
    return 0;
  }

  async stop(): Promise<void> {
    for (const name of [...this.#exports.keys()]) await this.close(name);
    await this.#options.exporter.stop();
  }
}

export function aoeSource(options: AoeOptions): ImageSource {
  return new AoeSource(options);
}

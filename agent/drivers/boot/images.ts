/**
 * The image driver of a rack: what is exported to each node, and what the boot server answers it.
 *
 * Invariants:
 * 1. An image is exported to one node alone, under a name that cannot be guessed; closing it ends the node's connections.
 * 2. What was exported and served is stored: an agent that starts again exports the same under the same name, so that machines whose
 *    reads wait go on.
 * 3. A change of the export ends in bounded time, whatever the image's server does: its address is a tenant's, and a node that has one under way
 *    is not fenced.
 */
import { join } from 'node:path';
import type { Environment } from '../../../controller/api/protocol.generated.ts';
import { type Clock, sleep } from '../../../controller/runtime/clock.ts';
import type { Random } from '../../../controller/runtime/random.ts';
import type { Change, ImageReading, Images, Serving } from '../port.ts';
import { Turns } from '../turns.ts';
import { readJsonFile, writeJsonFile } from './files.ts';

export type ImageSpec = Environment['image'];

/** Serves images of the rack's cache to machines. */
export interface Exporter {
  /**
   * Exports the image under the name, to this node, once it is known what it is.
   * @throws with a sentence for people when it cannot be had
   */
  open(name: string, image: ImageSpec, node: string): Promise<{ readonly digest: string; readonly sizeBytes: number }>;
  /** Nothing of it is read any more when this resolves; an `open` of it that is under way fails. */
  close(name: string): Promise<void>;
  /** Of an image that is exported. */
  read(name: string, offset: number, length: number): Promise<Buffer>;
  servedBytes(): number;
}

export interface RackImagesOptions {
  readonly nodes: ReadonlyMap<string, { readonly directory: string }>;
  readonly exporter: Exporter;
  readonly clock: Clock;
  readonly random: Random;
  readonly changed: (node: string) => void;
  readonly onError: (error: unknown) => void;
}

interface Kept {
  readonly serving: Serving;
  readonly export?: { readonly name: string; readonly image: ImageSpec };
}

interface NodeState {
  readonly path: string;
  kept: Kept;
  exported: ImageReading['exported'];
  found?: { readonly digest: string; readonly sizeBytes: number };
  exportChange?: Change;
  servingChange?: Change;
  /** Name of an export that is being opened. */
  opening?: string;
  readonly turns: Turns;
}

const retryMs = 1_000;
/** For an image that is read whole to know it: 150 GB at 1 Gbit/s. */
const openLimitMs = 20 * 60_000;

export class RackImages implements Images {
  readonly #options: RackImagesOptions;
  readonly #nodes = new Map<string, NodeState>();
  #isClosed = false;

  constructor(options: RackImagesOptions) {
    this.#options = options;
    for (const [node, { directory }] of options.nodes) {
      const path = join(directory, 'images.json');
      const kept = readJsonFile<Kept>(path) ?? { serving: 'Nothing' };
      const exported = kept.export === undefined ? 'Closed' : 'Unknown';
      this.#nodes.set(node, { path, kept, exported, turns: new Turns() });
      if (kept.export !== undefined) void this.#reopen(node);
    }
  }

  #state(node: string): NodeState {
    const state = this.#nodes.get(node);
    if (state === undefined) throw new Error(`no node ${node} in this rack`);
    return state;
  }

  #keep(state: NodeState, kept: Kept): void {
    writeJsonFile(state.path, kept);
    state.kept = kept;
  }

  #tell(node: string): void {
    if (!this.#isClosed) this.#options.clock.setTimer(0, () => this.#options.changed(node));
  }

  /** @throws with a sentence for people */
  async #openExport(node: string, state: NodeState, name: string, image: ImageSpec): Promise<void> {
    const { exporter, clock } = this.#options;
    let isLate = false;
    state.opening = name;
    const cancel = clock.setTimer(openLimitMs, () => {
      isLate = true;
      this.#giveUp(name);
    });
    const late = new Error(`the image could not be opened within ${openLimitMs / 60_000} minutes`);
    try {
      const found = await exporter.open(name, image, node);
      if (isLate) throw late;
      state.found = found;
      state.exported = 'Open';
    } catch (error) {
      throw isLate ? late : error;
    } finally {
      cancel();
      delete state.opening;
    }
  }

  #giveUp(name: string): void {
    const { exporter, onError } = this.#options;
    exporter.close(name).catch(onError);
  }

  /** Until it succeeds or is closed: a guest waits for it. */
  async #reopen(node: string): Promise<void> {
    const state = this.#state(node);
    const { clock, onError } = this.#options;
    for (;;) {
      try {
        await state.turns.take(async () => {
          const kept = state.kept.export;
          if (kept === undefined || this.#isClosed || state.exported === 'Open') return;
          await this.#openExport(node, state, kept.name, kept.image);
          this.#tell(node);
        });
        return;
      } catch (error) {
        if (this.#isClosed) return;
        onError(error);
        await sleep(clock, retryMs);
      }
    }
  }

  /** Under what name the node's VMM reads the image of this digest; undefined while another one is exported, or none. */
  exportName(node: string, digest: string): string | undefined {
    const { kept, exported, found } = this.#state(node);
    return exported === 'Open' && found?.digest === digest ? kept.export?.name : undefined;
  }

  /** Of the image that is exported to the node. @throws when none is */
  async readImage(node: string, offset: number, length: number): Promise<Buffer> {
    const { kept } = this.#state(node);
    if (kept.export === undefined) throw new Error('no image is exported to this machine');
    return this.#options.exporter.read(kept.export.name, offset, length);
  }

  serving(node: string): Serving {
    return this.#state(node).kept.serving;
  }

  read(node: string): ImageReading {
    const { kept, exported, found, exportChange, servingChange } = this.#state(node);
    return {
      exported,
      serving: kept.serving,
      ...(found === undefined ? {} : found),
      ...(exportChange === undefined ? {} : { exportChange }),
      ...(servingChange === undefined ? {} : { servingChange }),
    };
  }

  open(node: string, image: ImageSpec, token: string): void {
    this.#changeExport(node, token, async (state) => {
      const { random } = this.#options;
      await this.#shut(state);
      const name = random.uuid();
      this.#keep(state, { ...state.kept, export: { name, image } });
      try {
        await this.#openExport(node, state, name, image);
      } catch (error) {
        await this.#shut(state);
        throw error;
      }
    });
  }

  close(node: string, token: string): void {
    this.#changeExport(node, token, (state) => this.#shut(state));
  }

  async #shut(state: NodeState): Promise<void> {
    const { export: before, ...rest } = state.kept;
    if (before !== undefined) await this.#options.exporter.close(before.name);
    // While it is stored as exported, a restart exports it again.
    if (before !== undefined) state.exported = 'Unknown';
    this.#keep(state, rest);
    state.exported = 'Closed';
    delete state.found;
  }

  #changeExport(node: string, token: string, work: (state: NodeState) => Promise<void>): void {
    const state = this.#state(node);
    state.exportChange = { token, status: 'Pending' };
    if (state.opening !== undefined) this.#giveUp(state.opening);
    state.turns
      .take(() => work(state))
      .then(
        () => {
          state.exportChange = { token, status: 'Done' };
        },
        (error: unknown) => {
          state.exportChange = { token, status: 'Error', error: (error as Error).message };
        },
      )
      .finally(() => this.#tell(node));
  }

  serve(node: string, what: Serving, token: string): void {
    const state = this.#state(node);
    try {
      this.#keep(state, { ...state.kept, serving: what });
      state.servingChange = { token, status: 'Done' };
    } catch (error) {
      state.servingChange = { token, status: 'Error', error: (error as Error).message };
    }
    this.#tell(node);
  }

  servedBytes(): number {
    return this.#options.exporter.servedBytes();
  }

  /** Machines that read an image wait from now on. */
  shutdown(): void {
    this.#isClosed = true;
  }
}

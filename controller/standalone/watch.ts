/**
 * Watches: the history of a resource, told to a client from a version on.
 *
 * Invariants:
 * 1. A client gets every change it selected, once, in order, or is cut off with 410; never a gap.
 * 2. Nothing is queued for a client beyond its socket's buffer: a watch is a position in the shared history. Who is so slow that the
 *    history passes it is cut off.
 * 3. A bookmark names a version up to which the client has been told everything.
 */
import type { ServerResponse } from 'node:http';
import type { Clock } from '../runtime/clock.ts';
import type { LoggedChange, ResourceLog } from './history.ts';
import type { Filter } from './lists.ts';
import { metaOf } from './meta.ts';
import { apiVersionOf, type ResourceDefinition } from './resources.ts';
import type { JsonObject } from './schema/types.ts';
import { expired } from './status.ts';
import { type IncludeObject, partialMetadata, type TablePrinter } from './table.ts';

/** How often an idle client that asked for bookmarks gets one. */
const bookmarkEveryMs = 60_000;
/** How long a client that is cut off has to take the reason. */
const newsPatienceMs = 5000;
/** Lines are joined into writes of about this size. */
const writeBytes = 64 * 1024;
/** Changes looked at in one go, so that a selective watch far behind does not hold everybody up. */
const changesPerTurn = 1000;

export type WatchForm =
  | { readonly kind: 'json' }
  | { readonly kind: 'metadata' }
  | { readonly kind: 'table'; readonly printer: TablePrinter; readonly include: IncludeObject };

export interface WatchRequest {
  readonly definition: ResourceDefinition;
  readonly namespace: string | undefined;
  readonly filter: Filter;
  readonly form: WatchForm;
  readonly bookmarks: boolean;
  readonly timeoutMs: number;
}

type EventType = 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK';

export class Watch {
  readonly #request: WatchRequest;
  readonly #response: ServerResponse;
  readonly #log: ResourceLog;
  readonly #clock: Clock;
  readonly #committedVersion: () => number;
  readonly #cleanups: (() => void)[] = [];
  #position: number;
  #scheduled = false;
  #ended = false;
  #sentHeader = false;

  /** @param position where in the log to begin; call `run` once headers are sent. */
  constructor(
    request: WatchRequest,
    response: ServerResponse,
    log: ResourceLog,
    position: number,
    clock: Clock,
    committedVersion: () => number,
  ) {
    this.#request = request;
    this.#response = response;
    this.#log = log;
    this.#position = position;
    this.#clock = clock;
    this.#committedVersion = committedVersion;
  }

  /** Follows the log until the client leaves, falls behind, or its time is over. */
  run(): void {
    const response = this.#response;
    const wake = (): void => this.#schedule();
    this.#cleanups.push(this.#log.subscribe(wake));
    response.on('drain', wake);
    response.on('close', () => this.end());
    response.on('error', () => this.end());
    this.#cleanups.push(this.#clock.setTimer(this.#request.timeoutMs, () => this.#finish()));
    if (this.#request.bookmarks) this.#scheduleBookmark();
    this.#schedule();
  }

  #scheduleBookmark(): void {
    let cancel = (): void => {};
    const arm = (): void => {
      cancel = this.#clock.setTimer(bookmarkEveryMs, () => {
        this.#bookmark();
        if (!this.#ended) arm();
      });
    };
    arm();
    this.#cleanups.push(() => cancel());
  }

  #bookmark(): void {
    if (this.#ended || this.#response.writableNeedDrain || this.#position !== this.#log.end) return;
    const { definition } = this.#request;
    const object = {
      kind: definition.kind,
      apiVersion: apiVersionOf(definition),
      metadata: { resourceVersion: String(this.#committedVersion()), creationTimestamp: null },
    };
    this.#response.write(this.#render('BOOKMARK', object));
  }

  /** The ordinary end: the client asks again from its last version. */
  #finish(): void {
    if (this.#ended) return;
    if (this.#request.bookmarks) this.#bookmark();
    this.end();
    this.#response.end();
  }

  /** Stops following; the response is the caller's. */
  end(): void {
    this.#ended = true;
    for (const cleanup of this.#cleanups.splice(0)) cleanup();
  }

  #schedule(): void {
    if (this.#scheduled || this.#ended) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#pump();
    });
  }

  #cutOff(): void {
    const status = expired(
      `too old resource version: the watch fell behind what is kept (${this.#log.floor})`,
    ).toStatus();
    this.end();
    this.#response.end(`${JSON.stringify({ type: 'ERROR', object: status })}\n`);
    // The client may not be reading at all; it has a moment to take the news.
    const cancel = this.#clock.setTimer(newsPatienceMs, () => this.#response.destroy());
    this.#response.on('close', cancel);
  }

  #pump(): void {
    if (this.#ended) return;
    let batch: Buffer[] = [];
    let bytes = 0;
    const flush = (): void => {
      if (bytes > 0)
        this.#response.write(batch.length === 1 && batch[0] !== undefined ? batch[0] : Buffer.concat(batch));
      batch = [];
      bytes = 0;
    };
    for (let looked = 0; ; looked++) {
      if (this.#log.isEvicted(this.#position)) {
        this.#cutOff();
        return;
      }
      if (this.#response.writableNeedDrain) return;
      const change = this.#log.at(this.#position);
      if (change === undefined || looked >= changesPerTurn) break;
      this.#position++;
      const line = this.#lineFor(change);
      if (line === undefined) continue;
      batch.push(line);
      bytes += line.length;
      if (bytes >= writeBytes) flush();
    }
    flush();
    if (this.#position !== this.#log.end) this.#schedule();
  }

  #lineFor(change: LoggedChange): Buffer | undefined {
    const { namespace, filter, form } = this.#request;
    if (namespace !== undefined && change.namespace !== namespace) return undefined;
    if (filter === undefined && form.kind === 'json') {
      change.line ??= Buffer.from(`{"type":"${change.type}","object":${change.body}}\n`);
      return change.line;
    }
    const object = JSON.parse(change.body) as JsonObject;
    if (filter === undefined) return this.#render(change.type, object);
    const before = change.previous === undefined ? undefined : (JSON.parse(change.previous) as JsonObject);
    const matched = before !== undefined && filter(before);
    if (change.type === 'DELETED') return matched ? this.#render('DELETED', object) : undefined;
    const matches = filter(object);
    if (matches) return this.#render(matched ? 'MODIFIED' : 'ADDED', object);
    if (!matched || before === undefined) return undefined;
    // It left the selection: for this client it is gone, as of this change.
    metaOf(before).resourceVersion = String(change.version);
    return this.#render('DELETED', before);
  }

  #render(type: EventType, object: JsonObject): Buffer {
    return Buffer.from(`${JSON.stringify({ type, object: this.#transform(type, object) })}\n`);
  }

  #transform(type: EventType, object: JsonObject): JsonObject {
    const { form } = this.#request;
    if (form.kind === 'json') return object;
    if (form.kind === 'metadata') return partialMetadata(object);
    const withHeader = !this.#sentHeader;
    this.#sentHeader = true;
    const metadata: JsonObject = { resourceVersion: metaOf(object).resourceVersion };
    const rows = type === 'BOOKMARK' ? [] : [form.printer.row(object, form.include, this.#clock.now())];
    return form.printer.table(rows, metadata, withHeader);
  }

  /** Tells of an object that was there before the watch began. Resolves when the client can take more. */
  async tellExisting(body: string): Promise<void> {
    if (this.#ended) return;
    const { form } = this.#request;
    const line =
      form.kind === 'json'
        ? Buffer.from(`{"type":"ADDED","object":${body}}\n`)
        : this.#render('ADDED', JSON.parse(body) as JsonObject);
    if (this.#response.write(line)) return;
    await new Promise<void>((resolve) => {
      const go = (): void => {
        this.#response.off('drain', go);
        this.#response.off('close', go);
        resolve();
      };
      this.#response.on('drain', go);
      this.#response.on('close', go);
    });
  }
}

/**
 * get, list and watch.
 */
import type { ServerResponse } from 'node:http';
import type { Clock } from '../runtime/clock.ts';
import type { Random } from '../runtime/random.ts';
import type { History } from './history.ts';
import { send, sendJson } from './http.ts';
import { decodeContinue, encodeContinue, type Lists, type Page, type Selection, selectionOf } from './lists.ts';
import { metaOf } from './meta.ts';
import type { Objects } from './objects.ts';
import { type AnswerForm, countParameter, isTrue } from './request.ts';
import { apiVersionOf, type ResourceDefinition, storageKey } from './resources.ts';
import { fieldError } from './schema/errors.ts';
import type { JsonObject } from './schema/types.ts';
import { badRequest, expired, invalid } from './status.ts';
import type { Storage } from './storage.ts';
import { type IncludeObject, includeObjectOf, partialMetadata, TablePrinter } from './table.ts';
import { Watch, type WatchForm } from './watch.ts';

/** A watch without timeoutSeconds ends after this long plus up to as much again, as at kube-apiserver. */
const shortestDefaultWatchMs = 30 * 60_000;

export class Reader {
  readonly #storage: Storage;
  readonly #history: History;
  readonly #objects: Objects;
  readonly #lists: Lists;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #printers = new Map<ResourceDefinition, TablePrinter>();
  readonly #watches = new Set<ServerResponse>();

  constructor(parts: {
    storage: Storage;
    history: History;
    objects: Objects;
    lists: Lists;
    clock: Clock;
    random: Random;
  }) {
    this.#storage = parts.storage;
    this.#history = parts.history;
    this.#objects = parts.objects;
    this.#lists = parts.lists;
    this.#clock = parts.clock;
    this.#random = parts.random;
  }

  /** Ends all watches, so that the server can stop. */
  close(): void {
    for (const response of this.#watches) response.end();
    this.#watches.clear();
  }

  #printer(definition: ResourceDefinition): TablePrinter {
    let printer = this.#printers.get(definition);
    if (printer === undefined) {
      printer = new TablePrinter(definition);
      this.#printers.set(definition, printer);
    }
    return printer;
  }

  /** Sends one object in the form that was asked for. */
  sendObject(
    response: ServerResponse,
    definition: ResourceDefinition,
    body: string,
    form: AnswerForm,
    query: URLSearchParams,
    code = 200,
  ): void {
    if (form === 'json' || form === 'yaml') {
      sendJson(response, code, body, form === 'yaml');
      return;
    }
    const object = JSON.parse(body) as JsonObject;
    if (form === 'metadata') {
      sendJson(response, code, JSON.stringify(partialMetadata(object)));
      return;
    }
    const printer = this.#printer(definition);
    const row = printer.row(object, includeObjectOf(query.get('includeObject')), this.#clock.now());
    const metadata = { resourceVersion: metaOf(object).resourceVersion };
    sendJson(response, code, JSON.stringify(printer.table([row], metadata)));
  }

  get(
    response: ServerResponse,
    definition: ResourceDefinition,
    namespace: string,
    name: string,
    form: AnswerForm,
    query: URLSearchParams,
  ): void {
    this.#storage.settle();
    const body = this.#objects.bodyOf(definition, this.#objects.read(definition, namespace, name));
    this.sendObject(response, definition, body, form, query);
  }

  async list(
    response: ServerResponse,
    definition: ResourceDefinition,
    namespace: string | undefined,
    form: AnswerForm,
    query: URLSearchParams,
  ): Promise<void> {
    const selection = selectionOf(definition, query, namespace);
    const token = query.get('continue') ?? '';
    const limit = countParameter(query, 'limit') ?? 0;
    const from = token === '' ? undefined : decodeContinue(token);
    if (from !== undefined && (query.get('resourceVersion') ?? '') !== '') {
      throw badRequest('resourceVersion: Forbidden: specifying resource version is not allowed when using continue');
    }
    const version = from?.version ?? this.#lists.versionFor(query);
    const pages = this.#lists.pages(definition, selection, from?.after ?? ['', ''], version, limit || undefined);
    if (limit === 0 && form === 'json') return this.#streamList(response, definition, pages, version);
    const bodies: string[] = [];
    let next: readonly [string, string] | undefined;
    for await (const page of pages) {
      for (const item of page.items) bodies.push(item.body);
      next = page.next;
    }
    const metadata: JsonObject = { resourceVersion: String(version) };
    if (next !== undefined) metadata.continue = encodeContinue({ version, after: next });
    this.#sendList(response, definition, bodies, metadata, form, query);
  }

  #sendList(
    response: ServerResponse,
    definition: ResourceDefinition,
    bodies: readonly string[],
    metadata: JsonObject,
    form: AnswerForm,
    query: URLSearchParams,
  ): void {
    sendJson(response, 200, this.#listText(definition, bodies, metadata, form, query), form === 'yaml');
  }

  #listText(
    definition: ResourceDefinition,
    bodies: readonly string[],
    metadata: JsonObject,
    form: AnswerForm,
    query: URLSearchParams,
  ): string {
    if (form === 'table') {
      const printer = this.#printer(definition);
      const include = includeObjectOf(query.get('includeObject'));
      const now = this.#clock.now();
      const rows = bodies.map((body) => printer.row(JSON.parse(body) as JsonObject, include, now));
      return JSON.stringify(printer.table(rows, metadata));
    }
    if (form === 'metadata') {
      const items = bodies.map((body) => partialMetadata(JSON.parse(body) as JsonObject));
      return JSON.stringify({ kind: 'PartialObjectMetadataList', apiVersion: 'meta.k8s.io/v1', metadata, items });
    }
    const { head, tail } = this.#frame(definition, metadata);
    return head + bodies.join(',') + tail;
  }

  #frame(definition: ResourceDefinition, metadata: JsonObject): { head: string; tail: string } {
    const list = { kind: definition.listKind, apiVersion: apiVersionOf(definition), metadata };
    return { head: `${JSON.stringify(list).slice(0, -1)},"items":[`, tail: ']}\n' };
  }

  /** A whole list goes out page by page: it never stands in memory at once. */
  async #streamList(
    response: ServerResponse,
    definition: ResourceDefinition,
    pages: AsyncGenerator<Page>,
    version: number,
  ): Promise<void> {
    const { head, tail } = this.#frame(definition, { resourceVersion: String(version) });
    const first = await pages.next();
    const firstText = first.done ? '' : first.value.items.map((item) => item.body).join(',');
    if (first.done || first.value.next === undefined)
      return send(response, 200, 'application/json', head + firstText + tail);
    response.writeHead(200, { 'content-type': 'application/json', 'cache-control': 'no-cache, private' });
    response.write(head + firstText);
    let separator = firstText === '' ? '' : ',';
    for await (const page of pages) {
      if (page.items.length === 0) continue;
      const more = response.write(separator + page.items.map((item) => item.body).join(','));
      separator = ',';
      if (!more && !(await drained(response))) return;
    }
    response.end(tail);
  }

  #watchForm(definition: ResourceDefinition, form: AnswerForm, query: URLSearchParams): WatchForm {
    if (form === 'table') {
      const include: IncludeObject = includeObjectOf(query.get('includeObject'));
      return { kind: 'table', printer: this.#printer(definition), include };
    }
    if (form === 'yaml') throw badRequest('watches are served as JSON only');
    return { kind: form };
  }

  /** Where a watch begins. @throws ApiError 410 for a version that is forgotten or that this server never gave. */
  #startOf(definition: ResourceDefinition, asked: string, current: number): number {
    const log = this.#history.log(storageKey(definition));
    if (asked === '' || asked === '0') return log.after(current) ?? log.end;
    if (!/^\d{1,15}$/.test(asked)) throw badRequest(`resourceVersion: Invalid value: ${JSON.stringify(asked)}`);
    const version = Number(asked);
    if (version > current) throw expired(`resource version ${version} is not known here; the newest is ${current}`);
    const position = log.after(version);
    if (position === undefined) throw expired(`too old resource version: ${version} (${log.floor})`);
    return position;
  }

  async watch(
    response: ServerResponse,
    definition: ResourceDefinition,
    namespace: string | undefined,
    form: AnswerForm,
    query: URLSearchParams,
  ): Promise<void> {
    if (query.has('sendInitialEvents')) {
      const detail = 'sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled';
      throw invalid('meta.k8s.io', 'ListOptions', '', [
        fieldError('FieldValueForbidden', ['sendInitialEvents'], detail),
      ]);
    }
    const selection = selectionOf(definition, query, namespace);
    const seconds = countParameter(query, 'timeoutSeconds') ?? 0;
    const current = this.#lists.currentVersion();
    const asked = query.get('resourceVersion') ?? '';
    const position = this.#startOf(definition, asked, current);
    const request = {
      definition,
      namespace: selection.namespace,
      filter: selection.filter,
      form: this.#watchForm(definition, form, query),
      bookmarks: isTrue(query.get('allowWatchBookmarks')),
      timeoutMs: seconds > 0 ? seconds * 1000 : shortestDefaultWatchMs * (1 + this.#random.next()),
    };
    const log = this.#history.log(storageKey(definition));
    const watch = new Watch(request, response, log, position, this.#clock, () => this.#storage.version);
    this.#watches.add(response);
    response.on('close', () => this.#watches.delete(response));
    response.writeHead(200, { 'content-type': 'application/json', 'cache-control': 'no-cache, private' });
    response.flushHeaders();
    if (asked === '' || asked === '0') await this.#tellExisting(watch, definition, selection, current);
    if (!response.destroyed) watch.run();
  }

  async #tellExisting(
    watch: Watch,
    definition: ResourceDefinition,
    selection: Selection,
    version: number,
  ): Promise<void> {
    for await (const page of this.#lists.pages(definition, selection, ['', ''], version)) {
      for (const item of page.items) await watch.tellExisting(item.body);
    }
  }
}

/** Resolves with true when the client takes more, with false when it left. */
function drained(response: ServerResponse): Promise<boolean> {
  if (response.destroyed) return Promise.resolve(false);
  return new Promise((resolve) => {
    const finish = (more: boolean) => (): void => {
      response.off('drain', onDrain);
      response.off('close', onClose);
      resolve(more);
    };
    const onDrain = finish(true);
    const onClose = finish(false);
    response.on('drain', onDrain);
    response.on('close', onClose);
  });
}

/**
 * Pages of objects as they were at one version.
 *
 * Invariant: all pages of one list show the state of one version: changes since then are undone from the history, and when that
 * no longer reaches back, the caller is told to start again (410), never given a mixture.
 */

import { KubeError, type KubeObject } from '../kube/port.ts';
import { fieldPredicate, labelPredicate } from '../kube/selector.ts';
import type { History } from './history.ts';
import type { Objects } from './objects.ts';
import { type ResourceDefinition, storageKey } from './resources.ts';
import { isObject, type JsonObject } from './schema/types.ts';
import { ApiError, badRequest, expired } from './status.ts';
import type { Storage } from './storage.ts';

/** Objects read at once; between such steps other requests have their turn. */
const pageSize = 500;

export interface Listed {
  readonly namespace: string;
  readonly name: string;
  readonly body: string;
}

export interface Page {
  readonly items: Listed[];
  /** Where the next page starts after; absent on the last. */
  readonly next: readonly [string, string] | undefined;
}

/** Tells whether an object is wanted; undefined wants all of them. */
export type Filter = ((object: JsonObject) => boolean) | undefined;

export interface Selection {
  readonly filter: Filter;
  /** Set when only the object of this name can match. */
  readonly name: string | undefined;
  readonly namespace: string | undefined;
}

/** Reads the selectors of a request. @throws ApiError 400 for selectors that do not parse or name unknown fields. */
export function selectionOf(
  definition: ResourceDefinition,
  query: URLSearchParams,
  namespace: string | undefined,
): Selection {
  const labels = query.get('labelSelector') ?? '';
  const fields = query.get('fieldSelector') ?? '';
  const wantedName = /(?:^|,)metadata\.name==?([^,]+)(?:,|$)/.exec(fields)?.[1];
  const wantedNamespace = definition.namespaced
    ? /(?:^|,)metadata\.namespace==?([^,]+)(?:,|$)/.exec(fields)?.[1]
    : undefined;
  if (labels === '' && fields === '') return { filter: undefined, name: undefined, namespace };
  try {
    const byLabel = labelPredicate(labels);
    const byField = fieldPredicate(fields, definition.selectableFields);
    const filter = (object: JsonObject): boolean => {
      const kubeObject = object as unknown as KubeObject;
      return byLabel(kubeObject) && byField(kubeObject);
    };
    return { filter, name: wantedName, namespace: namespace ?? wantedNamespace };
  } catch (error) {
    if (error instanceof KubeError) throw badRequest(error.message);
    throw error;
  }
}

interface ContinueToken {
  readonly version: number;
  readonly after: readonly [string, string];
}

export function encodeContinue(token: ContinueToken): string {
  return Buffer.from(JSON.stringify({ v: 1, rv: token.version, after: token.after })).toString('base64url');
}

export function decodeContinue(text: string): ContinueToken {
  try {
    const value: unknown = JSON.parse(Buffer.from(text, 'base64url').toString('utf8'));
    if (isObject(value) && value.v === 1 && typeof value.rv === 'number' && Array.isArray(value.after)) {
      const [namespace, name] = value.after;
      if (typeof namespace === 'string' && typeof name === 'string')
        return { version: value.rv, after: [namespace, name] };
    }
  } catch {
    // Answered below.
  }
  throw badRequest('continue key is not valid: the token was not made by this server');
}

const isAfter = (item: { namespace: string; name: string }, key: readonly [string, string]): boolean =>
  item.namespace > key[0] || (item.namespace === key[0] && item.name > key[1]);

export class Lists {
  readonly #storage: Storage;
  readonly #history: History;
  readonly #objects: Objects;

  constructor(storage: Storage, history: History, objects: Objects) {
    this.#storage = storage;
    this.#history = history;
    this.#objects = objects;
  }

  /** The version that a new list shows. */
  currentVersion(): number {
    this.#storage.settle();
    return this.#storage.version;
  }

  /** One page, unfiltered. @throws ApiError 410 when the version is too long ago. */
  page(
    definition: ResourceDefinition,
    namespace: string | undefined,
    after: readonly [string, string],
    limit: number,
    version: number,
  ): Page {
    this.#storage.settle();
    const resource = storageKey(definition);
    const stored = this.#storage.page(resource, namespace, after, limit + 1);
    const more = stored.length > limit;
    const rows = more ? stored.slice(0, limit) : stored;
    const last = rows.at(-1);
    const current = rows.map((row) => ({
      namespace: row.namespace,
      name: row.name,
      body: this.#objects.bodyOf(definition, row),
    }));
    const lastKey: [string, string] | undefined = more && last !== undefined ? [last.namespace, last.name] : undefined;
    if (this.#storage.version === version) return { items: current, next: lastKey };
    return this.#asOf(definition, resource, namespace, after, limit, version, current, lastKey);
  }

  #asOf(
    definition: ResourceDefinition,
    resource: string,
    namespace: string | undefined,
    after: readonly [string, string],
    limit: number,
    version: number,
    current: Listed[],
    lastKey: readonly [string, string] | undefined,
  ): Page {
    const changed = this.#history.log(resource).since(version);
    if (changed === undefined) {
      throw expired(
        'The provided continue parameter is too old to display a consistent list result. You can start a new list without ' +
          'the continue parameter, or use the continue token in this response to retrieve the remainder of the results. ' +
          'Continuing with the provided token results in an inconsistent list - objects that were created, modified, or ' +
          'deleted between the time the first chunk was returned and now may show up in the list.',
        encodeContinue({ version: this.#storage.version, after }),
      );
    }
    if (changed.size === 0) return { items: current, next: lastKey };
    const items = current.filter((row) => !changed.has(`${row.namespace}\u0000${row.name}`));
    for (const state of changed.values()) {
      if (state.body === null || (namespace !== undefined && state.namespace !== namespace)) continue;
      if (!isAfter(state, after) || (lastKey !== undefined && isAfter(state, lastKey))) continue;
      const { body } = state;
      items.push({ namespace: state.namespace, name: state.name, body: this.#objects.bodyOf(definition, { body }) });
    }
    items.sort((a, b) => (isAfter(a, [b.namespace, b.name]) ? 1 : -1));
    if (items.length <= limit) return { items, next: lastKey };
    const kept = items.slice(0, limit);
    const last = kept.at(-1);
    return { items: kept, next: last === undefined ? lastKey : [last.namespace, last.name] };
  }

  /**
   * Pages of the objects that a selection wants, as of one version.
   * @param limit most objects over all pages; the last page tells in `next` where to go on.
   */
  async *pages(
    definition: ResourceDefinition,
    selection: Selection,
    start: readonly [string, string],
    version: number,
    limit = Number.POSITIVE_INFINITY,
  ): AsyncGenerator<Page> {
    let after = start;
    let left = limit;
    const single = this.#single(definition, selection, version);
    if (single !== undefined) {
      yield { items: single, next: undefined };
      return;
    }
    for (;;) {
      const size = selection.filter === undefined ? Math.min(left, pageSize) : pageSize;
      const page = this.page(definition, selection.namespace, after, size, version);
      const { filter } = selection;
      let items =
        filter === undefined ? page.items : page.items.filter((item) => filter(JSON.parse(item.body) as JsonObject));
      let { next } = page;
      if (items.length > left) {
        items = items.slice(0, left);
        const last = items.at(-1);
        if (last !== undefined) next = [last.namespace, last.name];
      }
      left -= items.length;
      yield { items, next };
      if (next === undefined || left <= 0) return;
      after = next;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** A list of one object by name needs no scan. */
  #single(definition: ResourceDefinition, selection: Selection, version: number): Listed[] | undefined {
    const { name, filter } = selection;
    const namespace = definition.namespaced ? selection.namespace : '';
    if (name === undefined || namespace === undefined || version !== this.#storage.version) return undefined;
    const stored = this.#storage.get(storageKey(definition), namespace, name);
    if (stored === undefined) return [];
    const body = this.#objects.bodyOf(definition, stored);
    return filter === undefined || filter(JSON.parse(body) as JsonObject) ? [{ namespace, name, body }] : [];
  }

  /** The version that a list shows, from `resourceVersion` and `resourceVersionMatch`. */
  versionFor(query: URLSearchParams): number {
    const current = this.currentVersion();
    const asked = query.get('resourceVersion') ?? '';
    const match = query.get('resourceVersionMatch') ?? '';
    if (match !== '' && match !== 'Exact' && match !== 'NotOlderThan') {
      throw badRequest(`resourceVersionMatch: Unsupported value: ${JSON.stringify(match)}`);
    }
    if (asked === '' || asked === '0') return current;
    if (!/^\d{1,15}$/.test(asked)) throw badRequest(`resourceVersion: Invalid value: ${JSON.stringify(asked)}`);
    const version = Number(asked);
    if (version > current) {
      throw new ApiError(504, 'Timeout', `Too large resource version: ${version}, current: ${current}`, {
        details: {
          causes: [{ reason: 'ResourceVersionTooLarge', message: 'Too large resource version' }],
          retryAfterSeconds: 1,
        },
      });
    }
    return match === 'Exact' ? version : current;
  }
}

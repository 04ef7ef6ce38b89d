/**
 * The API-server port inside the process: what a Kubernetes API server would answer, without one. Reconciler tests and the
 * simulation run on it, under the same contract suite as the network adapter.
 *
 * Invariants:
 * 1. One sequence of resourceVersions over all kinds; a write that changes nothing takes no number and makes no event.
 * 2. Whatever comes out is frozen and is the stored object itself; whatever comes in is copied.
 * 3. Given the same Clock, Random and calls, everything is the same again; there is no timer but the Clock's.
 * 4. A watch delivers every event after its version in order, or ends with 410 when they are no longer kept.
 */
import { type Clock, toMetaTime } from '../runtime/clock.ts';
import type { Random } from '../runtime/random.ts';
import { resourceName } from './gvk.ts';
import { frozenCopy } from './json.ts';
import {
  type AnyObject,
  checkPreconditions,
  created,
  deleting,
  type KindTraits,
  notFound,
  patched,
  updated,
  withVersion,
} from './memory-objects.ts';
import { type HistoryEvent, type KindHistory, watchHistory } from './memory-watch.ts';
import {
  type GroupVersionKind,
  type KubeClient,
  KubeError,
  type KubeObject,
  type ListOptions,
  type ListPage,
  type ObjectKey,
  type PatchOptions,
  type Preconditions,
  type WatchEvent,
  type WatchOptions,
  type WriteOptions,
} from './port.ts';
import { fieldPredicate, labelPredicate } from './selector.ts';

export interface MemoryKubeOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** Whether a kind has a status subresource. Default: every kind of the group bitvisor.io. */
  readonly statusSubresource?: (gvk: GroupVersionKind) => boolean;
  /** Called before an object is stored; throws KubeError('Invalid') or another to refuse it. */
  readonly validate?: (gvk: GroupVersionKind, object: KubeObject, old?: KubeObject) => void;
  /** Called after every write, in the order of versions; must not write itself. */
  readonly onWrite?: (
    gvk: GroupVersionKind,
    type: HistoryEvent['type'],
    object: KubeObject,
    old: KubeObject | undefined,
  ) => void;
  /** Events kept per kind for watches; an older watch gets 410. Default 10,000. */
  readonly historyLimit?: number;
  /** Time between bookmarks of an idle watch. Default 60 s, about what kube-apiserver does. */
  readonly bookmarkMs?: number;
}

/** Everything that is stored, as a backup of etcd holds it. */
export type MemorySnapshot = ReadonlyMap<string, ReadonlyMap<string, AnyObject>>;

export interface MemoryKube extends KubeClient {
  /** A further client of the same store, with a `close` of its own. */
  connect(): KubeClient;
  /** Forgets every event and every list under way, as etcd's compaction does: older watches and pages get 410. */
  compact(): void;
  snapshot(): MemorySnapshot;
  /**
   * Puts the stored objects back to a snapshot, as a restore of etcd with a bumped revision does: versions go on growing, every
   * watch and list under way gets 410.
   */
  restore(snapshot: MemorySnapshot): void;
  /** Every stored object of a kind, ordered by namespace and name. */
  objects<T extends KubeObject>(gvk: GroupVersionKind): T[];
  /** The newest resourceVersion given out. */
  readonly resourceVersion: string;
}

/** Lists under way that are remembered; an older one's next page is 410. */
const openListsKept = 16;

/** Names end in five of these after `generateName`, as in Kubernetes: no vowels, no digits easily misread. */
const suffixAlphabet = 'bcdfghjklmnpqrstvwxz2456789';

/** Groups whose kinds carry no generation. */
const groupsWithoutGeneration: ReadonlySet<string> = new Set(['', 'coordination.k8s.io', 'events.k8s.io']);

/** What events.k8s.io and v1 Events may be selected by, besides name and namespace. */
const eventFields = ['involvedObject.kind', 'involvedObject.name', 'involvedObject.namespace', 'involvedObject.uid'];
const selectableFields: Readonly<Record<string, readonly string[]>> = { Event: [...eventFields, 'reason', 'type'] };

interface KindState extends KindHistory {
  readonly gvk: GroupVersionKind;
  readonly traits: KindTraits;
  /** By `namespace/name`. */
  readonly objects: Map<string, AnyObject>;
}

interface OpenList {
  readonly items: readonly AnyObject[];
  readonly resourceVersion: string;
}

const keyOf = (key: ObjectKey): string => `${key.namespace ?? ''}/${key.name}`;

class Store {
  readonly options: MemoryKubeOptions;
  /** A server never gives out version 0: a watch from there means «from what there is now». */
  version = 1;
  readonly #kinds = new Map<string, KindState>();
  /** The same, without a name to be put together for every call. */
  readonly #kindsByGvk = new WeakMap<GroupVersionKind, KindState>();
  readonly #openLists = new Map<string, OpenList>();
  #listsOpened = 0;

  constructor(options: MemoryKubeOptions) {
    this.options = options;
  }

  kind(gvk: GroupVersionKind): KindState {
    const known = this.#kindsByGvk.get(gvk);
    if (known !== undefined) return known;
    const id = resourceName(gvk);
    let state = this.#kinds.get(id);
    if (state === undefined) {
      const statusSubresource = this.options.statusSubresource?.(gvk) ?? gvk.group === 'bitvisor.io';
      const traits = { statusSubresource, generation: !groupsWithoutGeneration.has(gvk.group) };
      state = { gvk, traits, objects: new Map(), events: [], firstIndex: 0, forgottenVersion: 0, wakers: new Set() };
      this.#kinds.set(id, state);
    }
    this.#kindsByGvk.set(gvk, state);
    return state;
  }

  find(state: KindState, key: ObjectKey): AnyObject {
    const object = state.objects.get(keyOf(key));
    if (object === undefined) throw notFound(state.gvk, key.name);
    return object;
  }

  /** Stores `object` (or removes it, when nothing holds it any longer) under the next version, and tells the watches. */
  write(state: KindState, type: 'ADDED' | 'MODIFIED' | 'DELETED', object: AnyObject): AnyObject {
    const key = keyOf(object.metadata);
    const old = state.objects.get(key);
    this.version += 1;
    const stored = withVersion(object, String(this.version));
    if (type === 'DELETED') state.objects.delete(key);
    else state.objects.set(key, stored);
    state.events.push({ version: this.version, type, object: stored, old });
    const limit = this.options.historyLimit ?? 10_000;
    // Twice the limit before trimming, so that trimming costs O(1) per event.
    if (state.events.length > 2 * limit) this.#forget(state, state.events.length - limit);
    for (const wake of [...state.wakers]) wake();
    this.options.onWrite?.(state.gvk, type, stored, old);
    return stored;
  }

  #forget(state: KindState, count: number): void {
    const forgotten = state.events.splice(0, count);
    state.firstIndex += forgotten.length;
    state.forgottenVersion = forgotten.at(-1)?.version ?? state.forgottenVersion;
  }

  compact(): void {
    for (const state of this.#kinds.values()) {
      this.#forget(state, state.events.length);
      state.forgottenVersion = this.version;
    }
    this.#openLists.clear();
  }

  snapshot(): MemorySnapshot {
    return new Map([...this.#kinds].map(([id, { objects }]) => [id, new Map(objects)]));
  }

  restore(snapshot: MemorySnapshot): void {
    this.version += 1;
    this.compact();
    for (const [id, state] of this.#kinds) {
      state.objects.clear();
      for (const [key, object] of snapshot.get(id) ?? []) state.objects.set(key, object);
      // Also a watch that had seen every event has not seen this.
      state.firstIndex += 1;
      for (const wake of [...state.wakers]) wake();
    }
  }

  sorted(state: KindState): AnyObject[] {
    return [...state.objects.keys()]
      .sort()
      .map((key) => state.objects.get(key))
      .filter((object) => object !== undefined);
  }

  list(gvk: GroupVersionKind, options: ListOptions): ListPage<AnyObject> {
    const limit = options.limit ?? Number.POSITIVE_INFINITY;
    if (options.continue !== undefined && options.continue !== '') return this.#nextPage(options.continue, limit);
    const inLabels = labelPredicate(options.labelSelector);
    const inFields = fieldPredicate(options.fieldSelector, selectableFields[gvk.kind]);
    const items = this.sorted(this.kind(gvk)).filter(
      (object) =>
        (options.namespace === undefined || object.metadata.namespace === options.namespace) &&
        inLabels(object) &&
        inFields(object),
    );
    return this.#page({ items, resourceVersion: String(this.version) }, `list-${++this.#listsOpened}`, 0, limit);
  }

  #nextPage(token: string, limit: number): ListPage<AnyObject> {
    const [id = '', offset = ''] = token.split(':');
    const open = this.#openLists.get(id);
    if (open === undefined) {
      throw new KubeError('Gone', 'The provided continue parameter is too old; list again from the start', {
        status: 410,
      });
    }
    return this.#page(open, id, Number(offset), limit);
  }

  #page(open: OpenList, id: string, offset: number, limit: number): ListPage<AnyObject> {
    const { items, resourceVersion } = open;
    const end = Math.min(items.length, offset + limit);
    const page: ListPage<AnyObject> = { items: items.slice(offset, end), resourceVersion };
    this.#openLists.delete(id);
    if (end < items.length) {
      this.#openLists.set(id, open);
      for (const oldest of this.#openLists.keys()) {
        if (this.#openLists.size <= openListsKept) break;
        this.#openLists.delete(oldest);
      }
      page.continue = `${id}:${end}`;
    }
    return page;
  }

  create(gvk: GroupVersionKind, input: KubeObject, options: WriteOptions): AnyObject {
    const state = this.kind(gvk);
    const { clock, random } = this.options;
    const name = input.metadata.name || `${input.metadata.generateName ?? ''}${this.#suffix(random)}`;
    const id = { name, uid: random.uuid(), creationTimestamp: toMetaTime(clock.now()) };
    const object = created(gvk, state.traits, input, id);
    this.options.validate?.(gvk, object);
    if (state.objects.has(keyOf(object.metadata))) {
      throw new KubeError('AlreadyExists', `${resourceName(gvk)} "${name}" already exists`, { status: 409 });
    }
    return options.dryRun === true ? frozenCopy(object) : this.write(state, 'ADDED', object);
  }

  #suffix(random: Random): string {
    return Array.from({ length: 5 }, () => suffixAlphabet[Math.floor(random.next() * suffixAlphabet.length)]).join('');
  }

  patch(gvk: GroupVersionKind, key: ObjectKey, patch: unknown, options: PatchOptions): AnyObject {
    const state = this.kind(gvk);
    const stored = this.find(state, key);
    checkPreconditions(gvk, stored, options);
    if (options.subresource === 'status' && !state.traits.statusSubresource) {
      throw new KubeError('NotFound', 'the server could not find the requested resource', { status: 404 });
    }
    if (options.subresource === 'scale') return this.#scale(state, stored, patch, options);
    const wanted = patched(gvk, stored, patch, options.type);
    return this.#update(state, stored, wanted, options.subresource, options.dryRun === true);
  }

  #update(
    state: KindState,
    stored: AnyObject,
    wanted: AnyObject,
    subresource: 'status' | undefined,
    dryRun: boolean,
  ): AnyObject {
    const next = updated(state.gvk, state.traits, stored, wanted, subresource);
    if (next === stored) return stored;
    this.options.validate?.(state.gvk, next, stored);
    if (dryRun) return frozenCopy(next);
    const { deletionTimestamp, finalizers } = next.metadata;
    const released = deletionTimestamp !== undefined && (finalizers ?? []).length === 0;
    return this.write(state, released ? 'DELETED' : 'MODIFIED', next);
  }

  #scale(state: KindState, stored: AnyObject, patch: unknown, options: PatchOptions): AnyObject {
    const scale = (object: AnyObject): AnyObject => ({
      apiVersion: 'autoscaling/v1',
      kind: 'Scale',
      metadata: object.metadata,
      spec: { replicas: replicasOf(object.spec) },
      status: { replicas: replicasOf(object.status) ?? 0 },
    });
    const wanted = patched(state.gvk, frozenCopy(scale(stored)), patch, options.type);
    const spec = { ...Object(stored.spec), replicas: replicasOf(wanted.spec) };
    const next = { ...stored, spec, metadata: wanted.metadata };
    return frozenCopy(scale(this.#update(state, stored, next, undefined, options.dryRun === true)));
  }

  delete(gvk: GroupVersionKind, key: ObjectKey, options: Preconditions & { dryRun?: boolean }): void {
    const state = this.kind(gvk);
    const stored = this.find(state, key);
    checkPreconditions(gvk, stored, options);
    if (options.dryRun === true) return;
    if ((stored.metadata.finalizers ?? []).length === 0) {
      this.write(state, 'DELETED', stored);
      return;
    }
    const next = deleting(state.traits, stored, toMetaTime(this.options.clock.now()));
    if (next !== stored) this.write(state, 'MODIFIED', next);
  }
}

function replicasOf(part: unknown): unknown {
  return typeof part === 'object' && part !== null && 'replicas' in part ? part.replicas : undefined;
}

function connect(store: Store): KubeClient {
  const closing = new AbortController();
  /** Calls settle in a later microtask, as no answer of a server comes at once. */
  const answer = async <T>(work: () => T): Promise<T> => {
    await undefined;
    if (closing.signal.aborted) throw new KubeError('Unavailable', 'the client is closed');
    return work();
  };
  return {
    get: <T extends KubeObject>(gvk: GroupVersionKind, key: ObjectKey) =>
      answer(() => store.find(store.kind(gvk), key) as KubeObject as T),
    list: <T extends KubeObject>(gvk: GroupVersionKind, options: ListOptions = {}) =>
      answer(() => store.list(gvk, options) as ListPage<KubeObject> as ListPage<T>),
    watch: <T extends KubeObject>(gvk: GroupVersionKind, options: WatchOptions) =>
      watchHistory(store.kind(gvk), options, {
        clock: store.options.clock,
        bookmarkMs: store.options.bookmarkMs ?? 60_000,
        closed: closing.signal,
        version: () => store.version,
        objects: () => store.sorted(store.kind(gvk)),
      }) as AsyncIterable<WatchEvent<KubeObject>> as AsyncIterable<WatchEvent<T>>,
    create: <T extends KubeObject>(gvk: GroupVersionKind, object: T, options: WriteOptions = {}) =>
      answer(() => store.create(gvk, object, options) as KubeObject as T),
    patch: <T extends KubeObject>(gvk: GroupVersionKind, key: ObjectKey, patch: unknown, options: PatchOptions) =>
      answer(() => store.patch(gvk, key, patch, options) as KubeObject as T),
    delete: (gvk, key, options = {}) => answer(() => store.delete(gvk, key, options)),
    close: async () => closing.abort(),
  };
}

export function createMemoryKube(options: MemoryKubeOptions): MemoryKube {
  const store = new Store(options);
  return {
    ...connect(store),
    connect: () => connect(store),
    compact: () => store.compact(),
    snapshot: () => store.snapshot(),
    restore: (snapshot) => store.restore(snapshot),
    objects: <T extends KubeObject>(gvk: GroupVersionKind) => store.sorted(store.kind(gvk)) as KubeObject[] as T[],
    get resourceVersion() {
      return String(store.version);
    },
  };
}

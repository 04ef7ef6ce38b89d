/**
 * The cache of one kind: a reader for reconcilers, a writer for the informer that feeds it.
 *
 * Invariants:
 * 1. A reader never sees an object older than one it saw before, nor older than its own last noted write.
 * 2. What a relist does not contain is removed and told to the listeners, except what was written after the list was taken.
 * 3. Every listener is told every change of the view once, in order; a listener that throws hurts nobody else.
 * 4. Objects are kept as `strip` returned them, and are not to be changed by anybody.
 */
import type { Logger } from '../runtime/log.ts';
import type { KubeObject, ObjectKey } from './port.ts';
import { compareResourceVersions } from './resource-version.ts';

/** `namespace/name`, or `name` alone for cluster-scoped kinds: also what work queues carry. */
export function keyString(key: ObjectKey): string {
  return key.namespace === undefined ? key.name : `${key.namespace}/${key.name}`;
}

export function parseKey(key: string): ObjectKey {
  const slash = key.indexOf('/');
  return slash < 0 ? { name: key } : { namespace: key.slice(0, slash), name: key.slice(slash + 1) };
}

/** `old` is absent for a new object, `current` for one that is gone. */
export type ChangeListener<T> = (key: string, old: T | undefined, current: T | undefined) => void;

/** The values under which an object is found. */
export type Indexer<T> = (object: T) => readonly string[];

export interface Store<T extends KubeObject> {
  get(key: ObjectKey): T | undefined;
  /** By the notation of `keyString`. */
  getByKey(key: string): T | undefined;
  values(): IterableIterator<T>;
  keys(): IterableIterator<string>;
  readonly size: number;
  /** Objects that `indexes[index]` files under `value`, in no order. @throws when there is no such index */
  byIndex(index: string, value: string): T[];
  /** The number of those, without collecting them. */
  countByIndex(index: string, value: string): number;
  /** True from the end of the first complete list on. */
  readonly synced: boolean;
  /** Resolves when synced; rejects with the signal's reason. */
  waitForSync(signal?: AbortSignal): Promise<void>;
  /** @returns a function that ends the subscription */
  onChange(listener: ChangeListener<T>): () => void;
  /** Offers what one of our own writes returned, so that readers see it before the watch brings it. */
  noteWrite(object: T): void;
}

export interface StoreWriter<T extends KubeObject> {
  /** A list begins; `addPage` calls and one `endList` follow, or another `beginList` when it broke off. */
  beginList(): void;
  /** @param resourceVersion the list's own, the same on all its pages */
  addPage(items: readonly T[], resourceVersion: string): void;
  endList(resourceVersion: string): void;
  apply(object: T): void;
  remove(object: T): void;
  /** The watch has delivered everything up to this version. */
  progress(resourceVersion: string): void;
}

export interface StoreOptions<T extends KubeObject> {
  readonly log: Logger;
  /** Keeps only what readers need. */
  readonly strip?: (object: T) => T;
  readonly indexes?: Readonly<Record<string, Indexer<T>>>;
}

class Index<T> {
  readonly #valuesOf: Indexer<T>;
  readonly #keys = new Map<string, Set<string>>();

  constructor(valuesOf: Indexer<T>) {
    this.#valuesOf = valuesOf;
  }

  change(key: string, old: T | undefined, current: T | undefined): void {
    const before = old === undefined ? [] : this.#valuesOf(old);
    const after = current === undefined ? [] : this.#valuesOf(current);
    for (const value of before) {
      if (after.includes(value)) continue;
      const keys = this.#keys.get(value);
      keys?.delete(key);
      if (keys?.size === 0) this.#keys.delete(value);
    }
    for (const value of after) {
      const keys = this.#keys.get(value);
      if (keys === undefined) this.#keys.set(value, new Set([key]));
      else keys.add(key);
    }
  }

  keys(value: string): ReadonlySet<string> {
    return this.#keys.get(value) ?? none;
  }
}

const none: ReadonlySet<string> = new Set();

const versionOf = (object: KubeObject): string => object.metadata.resourceVersion ?? '0';

class ObjectStore<T extends KubeObject> implements Store<T>, StoreWriter<T> {
  readonly #objects = new Map<string, T>();
  readonly #indexes = new Map<string, Index<T>>();
  readonly #listeners = new Set<ChangeListener<T>>();
  readonly #options: StoreOptions<T>;
  /** How far the watch (or the last complete list) has come. */
  #progress = '0';
  /** Keys of the list under way. */
  #listed = new Set<string>();
  /** The list under way is older than what the watch had seen: the server was restored from a backup. */
  #restored = false;
  /** What we removed ourselves and the watch has not shown as deleted yet: nothing up to this version comes back. */
  readonly #buried = new Map<string, string>();
  readonly #synced: PromiseWithResolvers<void> = Promise.withResolvers();
  synced = false;

  constructor(options: StoreOptions<T>) {
    this.#options = options;
    for (const [name, indexer] of Object.entries(options.indexes ?? {})) this.#indexes.set(name, new Index(indexer));
  }

  get size(): number {
    return this.#objects.size;
  }

  get(key: ObjectKey): T | undefined {
    return this.#objects.get(keyString(key));
  }

  getByKey(key: string): T | undefined {
    return this.#objects.get(key);
  }

  values(): IterableIterator<T> {
    return this.#objects.values();
  }

  keys(): IterableIterator<string> {
    return this.#objects.keys();
  }

  byIndex(index: string, value: string): T[] {
    return [...this.#index(index).keys(value)]
      .map((key) => this.#objects.get(key))
      .filter((object) => object !== undefined);
  }

  countByIndex(index: string, value: string): number {
    return this.#index(index).keys(value).size;
  }

  #index(name: string): Index<T> {
    const index = this.#indexes.get(name);
    if (index === undefined) throw new Error(`no index ${name}; there are: ${[...this.#indexes.keys()].join(', ')}`);
    return index;
  }

  waitForSync(signal?: AbortSignal): Promise<void> {
    if (this.synced || signal === undefined) return this.#synced.promise;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    if (signal.aborted) reject(signal.reason);
    const onAbort = (): void => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    void this.#synced.promise.then(resolve);
    return promise.finally(() => signal.removeEventListener('abort', onAbort));
  }

  onChange(listener: ChangeListener<T>): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  noteWrite(object: T): void {
    const key = keyString(object.metadata);
    // Absent although the watch is past this version: it was deleted since, and no event will come to say so again.
    if (!this.#objects.has(key) && compareResourceVersions(versionOf(object), this.#progress) <= 0) return;
    // The last write of an object is the removal of its last finalizer: the answer shows it, the server has no more of it.
    const { deletionTimestamp, finalizers } = object.metadata;
    if (deletionTimestamp === undefined || (finalizers ?? []).length > 0) this.#offer(object);
    else if (this.#retire(key, object)) this.#buried.set(key, versionOf(object));
  }

  beginList(): void {
    this.#listed = new Set();
    this.#restored = false;
  }

  addPage(items: readonly T[], resourceVersion: string): void {
    this.#restored ||= compareResourceVersions(resourceVersion, this.#progress) < 0;
    for (const object of items) {
      this.#listed.add(keyString(object.metadata));
      if (this.#restored || this.#wentBack(object, resourceVersion)) this.#set(keyString(object.metadata), object);
      else this.#offer(object);
    }
  }

  /**
   * The list is of a moment after the version that we hold, and shows an older one: the server was restored from a backup under
   * versions that go on growing (etcd's bumped revision).
   */
  #wentBack(listed: T, resourceVersion: string): boolean {
    const held = this.#objects.get(keyString(listed.metadata));
    if (held === undefined || compareResourceVersions(versionOf(held), versionOf(listed)) <= 0) return false;
    return compareResourceVersions(versionOf(held), resourceVersion) <= 0;
  }

  endList(resourceVersion: string): void {
    if (this.#restored) {
      this.#options.log.warn('the API server went back in time (restored from a backup?); taking its list as it is', {
        listed: resourceVersion,
        seen: this.#progress,
      });
    }
    this.#progress = resourceVersion;
    this.#buried.clear();
    for (const [key, object] of [...this.#objects]) {
      const writtenSince = compareResourceVersions(versionOf(object), resourceVersion) > 0;
      if (!this.#listed.has(key) && (this.#restored || !writtenSince)) this.#set(key, undefined);
    }
    this.#listed = new Set();
    if (!this.synced) {
      this.synced = true;
      this.#synced.resolve();
    }
  }

  apply(object: T): void {
    this.#offer(object);
    this.progress(versionOf(object));
  }

  remove(object: T): void {
    const key = keyString(object.metadata);
    this.#retire(key, object);
    this.#buried.delete(key);
    this.progress(versionOf(object));
  }

  progress(resourceVersion: string): void {
    if (compareResourceVersions(resourceVersion, this.#progress) > 0) this.#progress = resourceVersion;
  }

  /** Takes `object` into the view unless the view has a newer one, or saw its end. */
  #offer(object: T): void {
    const key = keyString(object.metadata);
    const seen = this.#objects.get(key)?.metadata.resourceVersion ?? this.#buried.get(key);
    if (seen === undefined || compareResourceVersions(versionOf(object), seen) > 0) this.#set(key, object);
  }

  /** Removes the view's object if it is not newer than the last state `last`. */
  #retire(key: string, last: T): boolean {
    const current = this.#objects.get(key);
    if (current === undefined || compareResourceVersions(versionOf(current), versionOf(last)) > 0) return false;
    this.#set(key, undefined);
    return true;
  }

  #set(key: string, object: T | undefined): void {
    const old = this.#objects.get(key);
    const current = object === undefined ? undefined : (this.#options.strip?.(object) ?? object);
    if (current === undefined) this.#objects.delete(key);
    else this.#objects.set(key, current);
    for (const index of this.#indexes.values()) index.change(key, old, current);
    for (const listener of [...this.#listeners]) {
      try {
        listener(key, old, current);
      } catch (error) {
        this.#options.log.error('a listener of the cache threw', { key, err: error });
      }
    }
  }
}

export function createStore<T extends KubeObject>(
  options: StoreOptions<T>,
): { readonly reader: Store<T>; readonly writer: StoreWriter<T> } {
  const store = new ObjectStore(options);
  return { reader: store, writer: store };
}

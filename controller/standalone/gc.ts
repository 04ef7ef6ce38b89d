/**
 * The garbage collector and the end of namespaces: what follows from a deletion, done after it was committed.
 *
 * Invariants:
 * 1. A dependent goes when its last owner is gone; while one owner is left, only the references to absent ones go.
 * 2. Foreground deletion of an owner ends when no dependent that blocks it is left; orphaning takes references away and deletes nothing.
 * 3. Work is found from what is stored, so that a restart at any point goes on where it was.
 * 4. Work is done in short turns: requests in between are served.
 */
import type { Logger } from '../runtime/log.ts';
import { finalizersOf, isDeleting, metaOf, metaText, type Owner, ownersOf, setFinalizers } from './meta.ts';
import type { Objects, UpdateOptions } from './objects.ts';
import type { ResourceDefinition, ResourceRegistry } from './resources.ts';
import { isObject, type JsonObject } from './schema/types.ts';
import { ApiError } from './status.ts';
import type { Change, Owned, Storage } from './storage.ts';

const internal: UpdateOptions = { dryRun: false, fieldValidation: 'Ignore', internal: true };
/** Tasks done in one turn of the event loop. */
const tasksPerTurn = 100;

type Task =
  | { readonly kind: 'ownerGone'; readonly uid: string }
  | { readonly kind: 'checkOwners'; readonly key: Owned }
  | { readonly kind: 'goOn'; readonly key: Owned };

const taskName = (task: Task): string =>
  task.kind === 'ownerGone' ? task.uid : `${task.kind} ${task.key.resource} ${task.key.namespace} ${task.key.name}`;

export class GarbageCollector {
  readonly #storage: Storage;
  readonly #objects: Objects;
  readonly #registry: ResourceRegistry;
  readonly #log: Logger | undefined;
  readonly #tasks = new Map<string, Task>();
  #scheduled = false;
  #stopped = false;

  constructor(storage: Storage, objects: Objects, registry: ResourceRegistry, log: Logger | undefined) {
    this.#storage = storage;
    this.#objects = objects;
    this.#registry = registry;
    this.#log = log;
  }

  /** Takes up what an earlier run of the server left undone. */
  start(): void {
    for (const uid of this.#storage.absentOwners()) this.#add({ kind: 'ownerGone', uid });
    for (const key of this.#storage.deleting()) this.#add({ kind: 'goOn', key });
  }

  stop(): void {
    this.#stopped = true;
    this.#tasks.clear();
  }

  /** Looks at a commit for what follows from it. */
  observe(changes: readonly Change[]): void {
    for (const change of changes) {
      const key = { resource: change.resource, namespace: change.namespace, name: change.name };
      if (change.type === 'DELETED') this.#observeDeletion(change);
      // Text search before parsing: almost no change concerns the collector.
      else if (change.body.includes('"ownerReferences"') && !change.previous?.includes('"ownerReferences"')) {
        this.#add({ kind: 'checkOwners', key });
      }
      if (change.type === 'MODIFIED' && change.body.includes('"deletionTimestamp"')) this.#add({ kind: 'goOn', key });
    }
  }

  #observeDeletion(change: Change): void {
    const object = JSON.parse(change.body) as JsonObject;
    this.#add({ kind: 'ownerGone', uid: metaText(object, 'uid') });
    for (const owner of ownersOf(object)) {
      const found = this.#storage.locate(owner.uid);
      if (found !== undefined) this.#add({ kind: 'goOn', key: found });
    }
    if (change.namespace === '') return;
    const namespace = this.#storage.get('/namespaces', '', change.namespace);
    if (namespace?.body.includes('"deletionTimestamp"')) {
      this.#add({ kind: 'goOn', key: { resource: '/namespaces', namespace: '', name: change.namespace } });
    }
  }

  #add(task: Task): void {
    this.#tasks.set(taskName(task), task);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled || this.#stopped || this.#tasks.size === 0) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#turn();
      this.#schedule();
    });
  }

  #turn(): void {
    let left = tasksPerTurn;
    for (const [name, task] of this.#tasks) {
      if (this.#stopped || left-- <= 0) return;
      this.#tasks.delete(name);
      try {
        this.#do(task);
      } catch (error) {
        // Gone meanwhile is what was wanted; anything else must not end the server.
        if (!(error instanceof ApiError && error.code === 404)) {
          this.#log?.error('garbage collection failed', { task: name, err: error });
        }
      }
    }
  }

  #do(task: Task): void {
    if (task.kind === 'ownerGone') {
      const dependents = this.#storage.dependents(task.uid);
      for (const key of dependents) this.#add({ kind: 'checkOwners', key });
      return;
    }
    const definition = this.#registry.byStorageKey(task.key.resource);
    const stored = this.#storage.get(task.key.resource, task.key.namespace, task.key.name);
    if (definition === undefined || stored === undefined) return;
    const object = JSON.parse(stored.body) as JsonObject;
    if (task.kind === 'checkOwners') this.#checkOwners(definition, task.key, object);
    else if (isDeleting(object)) this.#goOn(definition, task.key, object);
  }

  #isThere(owner: Owner, dependent: Owned): boolean {
    const found = this.#storage.locate(owner.uid);
    // An owner in another namespace is no owner.
    return found !== undefined && (found.namespace === '' || found.namespace === dependent.namespace);
  }

  #checkOwners(definition: ResourceDefinition, key: Owned, object: JsonObject): void {
    const owners = ownersOf(object);
    const absent = owners.filter((owner) => !this.#isThere(owner, key));
    if (absent.length === 0) return;
    if (absent.length === owners.length) {
      if (!isDeleting(object)) {
        this.#objects.delete(definition, key.namespace, key.name, {
          dryRun: false,
          uid: metaText(object, 'uid'),
          propagation: 'Background',
        });
      }
      return;
    }
    this.#dropOwners(definition, key, new Set(absent.map((owner) => owner.uid)));
  }

  #dropOwners(definition: ResourceDefinition, key: Owned, uids: ReadonlySet<string>): void {
    const drop = (current: JsonObject): JsonObject => {
      const metadata = metaOf(current);
      const references = Array.isArray(metadata.ownerReferences) ? metadata.ownerReferences : [];
      const kept = references.filter((owner) => !(isObject(owner) && uids.has(String(owner.uid))));
      if (kept.length === 0) delete metadata.ownerReferences;
      else metadata.ownerReferences = kept;
      return current;
    };
    this.#objects.update(definition, key.namespace, key.name, drop, internal);
  }

  #goOn(definition: ResourceDefinition, key: Owned, object: JsonObject): void {
    const finalizers = finalizersOf(object);
    if (finalizers.includes('orphan')) this.#orphan(definition, key, object);
    else if (finalizers.includes('foregroundDeletion')) this.#foreground(definition, key, object);
    if (key.resource === '/namespaces') this.#endNamespace(definition, key);
  }

  #removeFinalizer(definition: ResourceDefinition, key: Owned, finalizer: string): void {
    const remove = (current: JsonObject): JsonObject => {
      setFinalizers(
        current,
        finalizersOf(current).filter((candidate) => candidate !== finalizer),
      );
      return current;
    };
    this.#objects.update(definition, key.namespace, key.name, remove, internal);
  }

  #dependentsOf(owner: JsonObject): { definition: ResourceDefinition; key: Owned; object: JsonObject }[] {
    const found = [];
    for (const key of this.#storage.dependents(metaText(owner, 'uid'))) {
      const definition = this.#registry.byStorageKey(key.resource);
      const stored = this.#storage.get(key.resource, key.namespace, key.name);
      if (definition === undefined || stored === undefined) continue;
      found.push({ definition, key, object: JSON.parse(stored.body) as JsonObject });
    }
    return found;
  }

  #orphan(definition: ResourceDefinition, key: Owned, object: JsonObject): void {
    const uid = metaText(object, 'uid');
    for (const dependent of this.#dependentsOf(object))
      this.#dropOwners(dependent.definition, dependent.key, new Set([uid]));
    this.#removeFinalizer(definition, key, 'orphan');
  }

  #foreground(definition: ResourceDefinition, key: Owned, object: JsonObject): void {
    const uid = metaText(object, 'uid');
    let blocked = false;
    for (const dependent of this.#dependentsOf(object)) {
      const owners = ownersOf(dependent.object);
      const reference = owners.find((owner) => owner.uid === uid);
      const others = owners.filter((owner) => owner.uid !== uid && this.#isThere(owner, dependent.key));
      if (others.length > 0) {
        this.#dropOwners(dependent.definition, dependent.key, new Set([uid]));
        continue;
      }
      const { namespace, name } = dependent.key;
      if (!isDeleting(dependent.object)) {
        this.#objects.delete(dependent.definition, namespace, name, {
          dryRun: false,
          propagation: reference?.blockOwnerDeletion ? 'Foreground' : 'Background',
        });
      }
      const still = this.#storage.get(dependent.key.resource, namespace, name) !== undefined;
      blocked ||= still && reference?.blockOwnerDeletion === true;
    }
    if (!blocked) this.#removeFinalizer(definition, key, 'foregroundDeletion');
  }

  /** Deletes what is in a namespace and, when nothing is left, the namespace. */
  #endNamespace(definition: ResourceDefinition, key: Owned): void {
    let remaining = 0;
    for (const resource of this.#storage.resourcesIn(key.name)) {
      const contained = this.#registry.byStorageKey(resource);
      if (contained === undefined) continue;
      for (let after: [string, string] = ['', '']; ; ) {
        const rows = this.#storage.page(resource, key.name, after, 500);
        const last = rows.at(-1);
        if (last === undefined) break;
        after = [last.namespace, last.name];
        for (const row of rows) {
          if (row.body.includes('"deletionTimestamp"')) remaining++;
          else if (
            !this.#objects.delete(contained, key.name, row.name, { dryRun: false, propagation: 'Background' }).gone
          )
            remaining++;
        }
      }
    }
    const report = (current: JsonObject): JsonObject => {
      const condition = {
        type: 'NamespaceContentRemaining',
        status: 'True',
        reason: 'SomeResourcesRemain',
        message: `Some resources are remaining: ${remaining} objects have finalizers`,
      };
      current.status = { phase: 'Terminating', ...(remaining > 0 ? { conditions: [condition] } : {}) };
      if (remaining === 0) current.spec = { finalizers: [] };
      return current;
    };
    this.#objects.update(definition, '', key.name, report, internal);
  }
}

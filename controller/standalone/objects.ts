/**
 * What a write does to an object: the rules of metadata, generation, status, finalizers and deletion that every kind shares.
 *
 * Invariants:
 * 1. Each operation reads, decides and writes within one turn of the event loop: no other write comes in between.
 * 2. uid, creationTimestamp, generation, deletionTimestamp and deletionGracePeriodSeconds are the server's alone.
 * 3. With a status subresource, a write to the object leaves status alone, and a write to status leaves the rest alone.
 * 4. `generation` grows when, and only when, something besides metadata and status changes, or deletion begins.
 * 5. A write that changes nothing gives no new resourceVersion and wakes no watcher.
 * 6. An object with a deletionTimestamp goes when, and only when, its last finalizer goes.
 */
import { isDeepStrictEqual } from 'node:util';
import type { Clock } from '../runtime/clock.ts';
import { toMetaTime } from '../runtime/clock.ts';
import type { Random } from '../runtime/random.ts';
import {
  checkFinalizers,
  checkIdentity,
  checkNamespace,
  checkTypeMeta,
  decode,
  keepServerFields,
  refuse,
  serverFields,
} from './admission.ts';
import { finalizersOf, isDeleting, metaOf, metaText, ownersOf, setFinalizers } from './meta.ts';
import { type ResourceDefinition, storageKey } from './resources.ts';
import { copyJson } from './schema/shape.ts';
import { isObject, type JsonObject } from './schema/types.ts';
import * as status from './status.ts';
import type { Owned, Storage, StoredObject } from './storage.ts';

export type FieldValidation = 'Strict' | 'Warn' | 'Ignore';
export type Propagation = 'Foreground' | 'Background' | 'Orphan';

export interface WriteOptions {
  readonly dryRun: boolean;
  readonly fieldValidation: FieldValidation;
}

export interface UpdateOptions extends WriteOptions {
  readonly subresource?: 'status';
  /** A PUT of a custom resource must name the version that it replaces. */
  readonly mustNameVersion?: boolean;
  /** Tells a patch from a PUT: wrong fields are then reported against the patch. */
  readonly isPatch?: boolean;
  /** The garbage collector may take finalizers away and set status where a client may not. */
  readonly internal?: boolean;
}

export interface DeleteOptions {
  readonly dryRun: boolean;
  readonly uid?: string;
  readonly resourceVersion?: string;
  readonly propagation?: Propagation;
}

export interface WriteResult {
  /** The object as JSON. */
  readonly body: string;
  readonly warnings: readonly string[];
}

export interface DeleteResult {
  /** False while finalizers keep the object. */
  readonly gone: boolean;
  readonly body: string;
  readonly uid: string;
}

/** Longest prefix of a generated name, and the letters of its suffix (k8s.io/apiserver's names.SimpleNameGenerator). */
const longestNamePrefix = 58;
const suffixLetters = 'bcdfghjklmnpqrstvwxz2456789';
/** Clients take for granted that these are there. */
const keptNamespaces = new Set(['default', 'kube-system']);

export class Objects {
  readonly #storage: Storage;
  readonly #clock: Clock;
  readonly #random: Random;

  constructor(storage: Storage, clock: Clock, random: Random) {
    this.#storage = storage;
    this.#clock = clock;
    this.#random = random;
  }

  /** The text of a stored object under today's schema. */
  bodyOf(definition: ResourceDefinition, stored: { schema?: string; body: string }): string {
    if (stored.schema === undefined || stored.schema === definition.schemaId) return stored.body;
    const object = JSON.parse(stored.body) as JsonObject;
    definition.compiled.normalize(object);
    return JSON.stringify(object);
  }

  read(definition: ResourceDefinition, namespace: string, name: string): StoredObject {
    const stored = this.#storage.get(storageKey(definition), namespace, name);
    if (stored === undefined) throw status.notFound(definition, name);
    return stored;
  }

  #requireNamespace(definition: ResourceDefinition, namespace: string, name: string): void {
    if (!definition.namespaced) return;
    const stored = this.#storage.get('/namespaces', '', namespace);
    if (stored === undefined) throw status.notFound({ plural: 'namespaces', group: '' }, namespace);
    if (!isDeleting(JSON.parse(stored.body) as JsonObject)) return;
    const why = `unable to create new content in namespace ${namespace} because it is being terminated`;
    throw status.forbidden(definition, name, why, [
      {
        reason: 'NamespaceTerminating',
        message: `namespace ${namespace} is being terminated`,
        field: 'metadata.namespace',
      },
    ]);
  }

  #generatedName(prefix: string): string {
    let suffix = '';
    for (let i = 0; i < 5; i++) suffix += suffixLetters[Math.floor(this.#random.next() * suffixLetters.length)];
    return prefix.slice(0, longestNamePrefix) + suffix;
  }

  /** Metadata that goes first in the text, in the order in which people read it. */
  #initMetadata(definition: ResourceDefinition, object: JsonObject): void {
    const given = metaOf(object);
    if (typeof given.resourceVersion === 'string' && given.resourceVersion !== '') {
      throw status.badRequest('resourceVersion should not be set on objects to be created');
    }
    for (const field of [...serverFields, 'resourceVersion', 'managedFields', 'selfLink']) delete given[field];
    for (const field of Object.keys(given)) if (given[field] === null) delete given[field];
    const name =
      metaText(object, 'name') || (given.generateName ? this.#generatedName(String(given.generateName)) : '');
    object.metadata = {
      ...(name === '' ? {} : { name }),
      ...given,
      ...(name === '' ? {} : { name }),
      uid: this.#random.uuid(),
      ...(definition.countsGenerations ? { generation: 1 } : {}),
      creationTimestamp: toMetaTime(this.#clock.now()),
    };
  }

  /** Creates an object. `incoming` becomes the server's. */
  create(definition: ResourceDefinition, namespace: string, incoming: JsonObject, options: WriteOptions): WriteResult {
    checkTypeMeta(definition, incoming);
    const warnings = decode(definition, incoming, options);
    checkNamespace(definition, incoming, namespace);
    this.#initMetadata(definition, incoming);
    definition.prepare?.(incoming, undefined);
    if (definition.hasStatus) delete incoming.status;
    definition.compiled.normalize(incoming);
    const name = metaText(incoming, 'name');
    this.#requireNamespace(definition, namespace, name);
    refuse(definition, name, definition.compiled.checkCreate(incoming));
    const key = { resource: storageKey(definition), namespace, name };
    if (this.#storage.get(key.resource, namespace, name) !== undefined) throw status.alreadyExists(definition, name);
    if (options.dryRun) return { body: JSON.stringify(incoming), warnings };
    const body = this.#serialize(incoming);
    this.#storage.insert(key, body, this.#facts(definition, incoming));
    return { body, warnings };
  }

  #serialize(object: JsonObject): string {
    metaOf(object).resourceVersion = String(this.#storage.nextVersion());
    return JSON.stringify(object);
  }

  #facts(definition: ResourceDefinition, object: JsonObject) {
    return {
      uid: metaText(object, 'uid'),
      schema: definition.schemaId,
      deleting: isDeleting(object),
      ownerUids: ownersOf(object).map((owner) => owner.uid),
    };
  }

  /**
   * Replaces an object by what `change` makes of it.
   * @param change gets a copy that it may change and return, or returns another object.
   */
  update(
    definition: ResourceDefinition,
    namespace: string,
    name: string,
    change: (current: JsonObject) => JsonObject,
    options: UpdateOptions,
  ): WriteResult {
    const stored = this.read(definition, namespace, name);
    const currentBody = this.bodyOf(definition, stored);
    const current = JSON.parse(currentBody) as JsonObject;
    let next = change(copyJson(current));
    checkTypeMeta(definition, next);
    const warnings = decode(definition, next, options);
    checkNamespace(definition, next, namespace);
    checkIdentity(definition, next, current, options);
    const part = options.subresource === 'status' ? 'status' : 'main';
    if (part === 'status') {
      const { status: nextStatus } = next;
      next = copyJson(current);
      if (nextStatus === undefined || nextStatus === null) delete next.status;
      else next.status = nextStatus;
    } else {
      keepServerFields(next, current);
      if (options.internal !== true) definition.prepare?.(next, current);
      if (definition.hasStatus && options.internal !== true) {
        if (current.status === undefined) delete next.status;
        else next.status = copyJson(current.status);
      }
      checkFinalizers(definition, next, current);
    }
    definition.compiled.normalize(next);
    const errors = options.internal ? [] : definition.compiled.checkUpdate(next, current, part);
    refuse(definition, name, errors);
    const key = { resource: storageKey(definition), namespace, name };
    return { body: this.#replace(definition, key, next, current, currentBody, stored, options), warnings };
  }

  #replace(
    definition: ResourceDefinition,
    key: Owned,
    next: JsonObject,
    current: JsonObject,
    currentBody: string,
    stored: StoredObject,
    options: UpdateOptions,
  ): string {
    const text = JSON.stringify(next);
    if (text === currentBody || (text.length === currentBody.length && isDeepStrictEqual(next, current))) {
      return currentBody;
    }
    if (definition.countsGenerations && options.subresource !== 'status' && changesDesire(definition, next, current)) {
      metaOf(next).generation = Number(metaOf(current).generation ?? 0) + 1;
    }
    if (options.dryRun) return JSON.stringify(next);
    const body = this.#serialize(next);
    if (isDeleting(next) && finalizersOf(next).length === 0 && !keptBySpec(next)) {
      this.#storage.remove(key, body, stored.body);
      return body;
    }
    const ownersChanged = !isDeepStrictEqual(metaOf(next).ownerReferences, metaOf(current).ownerReferences);
    this.#storage.update(key, body, this.#facts(definition, next), stored.body, ownersChanged);
    return body;
  }

  /** Deletes an object, or marks it as going when finalizers keep it. */
  delete(definition: ResourceDefinition, namespace: string, name: string, options: DeleteOptions): DeleteResult {
    const stored = this.read(definition, namespace, name);
    if (definition.kind === 'Namespace' && keptNamespaces.has(name)) {
      throw status.forbidden(definition, name, 'this namespace may not be deleted');
    }
    const object = JSON.parse(this.bodyOf(definition, stored)) as JsonObject;
    if (options.uid !== undefined && options.uid !== stored.uid) {
      const why = `the UID in the precondition (${options.uid}) does not match the UID in record (${stored.uid}). The object might have been deleted and then recreated`;
      throw status.conflict(definition, name, why);
    }
    if (options.resourceVersion !== undefined && options.resourceVersion !== String(stored.version)) {
      const why = `the ResourceVersion in the precondition (${options.resourceVersion}) does not match the ResourceVersion in record (${stored.version}). The object might have been modified`;
      throw status.conflict(definition, name, why);
    }
    const key = { resource: storageKey(definition), namespace, name };
    const finalizers = new Set(finalizersOf(object));
    if (options.propagation === 'Foreground') finalizers.add('foregroundDeletion').delete('orphan');
    if (options.propagation === 'Orphan') finalizers.add('orphan').delete('foregroundDeletion');
    const before = stored.body;
    if (finalizers.size === 0 && !keptBySpec(object)) {
      const body = options.dryRun ? before : this.#serialize(object);
      if (!options.dryRun) this.#storage.remove(key, body, before);
      return { gone: true, body, uid: stored.uid };
    }
    const metadata = metaOf(object);
    const wasDeleting = isDeleting(object);
    if (!wasDeleting) {
      metadata.deletionTimestamp = toMetaTime(this.#clock.now());
      if (definition.kind !== 'Namespace') metadata.deletionGracePeriodSeconds = 0;
      if (typeof metadata.generation === 'number') metadata.generation += 1;
    }
    if (definition.kind === 'Namespace')
      object.status = { ...(isObject(object.status) ? object.status : {}), phase: 'Terminating' };
    const unchanged = wasDeleting && finalizers.size === finalizersOf(object).length;
    setFinalizers(object, [...finalizers]);
    if (options.dryRun || unchanged) return { gone: false, body: JSON.stringify(object), uid: stored.uid };
    const body = this.#serialize(object);
    this.#storage.update(key, body, this.#facts(definition, object), before, false);
    return { gone: false, body, uid: stored.uid };
  }
}

/** Whether anything changed that somebody asked for: all but metadata and, with a status subresource, status. */
function changesDesire(definition: ResourceDefinition, next: JsonObject, current: JsonObject): boolean {
  const ignored = new Set(['metadata', 'apiVersion', 'kind', ...(definition.hasStatus ? ['status'] : [])]);
  return [...new Set([...Object.keys(next), ...Object.keys(current)])].some(
    (key) => !ignored.has(key) && !isDeepStrictEqual(next[key], current[key]),
  );
}

/** A namespace stays until its own finalizers in spec are gone, too. */
function keptBySpec(object: JsonObject): boolean {
  if (object.kind !== 'Namespace' || !isObject(object.spec)) return false;
  return Array.isArray(object.spec.finalizers) && object.spec.finalizers.length > 0;
}

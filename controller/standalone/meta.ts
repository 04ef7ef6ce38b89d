/**
 * Reading and writing `metadata` of objects whose shape was checked.
 */
import { isObject, type JsonObject, type JsonValue } from './schema/types.ts';

/** Metadata of an object that has one; an empty one is put where it is missing. */
export function metaOf(object: JsonObject): JsonObject {
  if (isObject(object.metadata)) return object.metadata;
  const metadata: JsonObject = {};
  object.metadata = metadata;
  return metadata;
}

/** A metadata field as text, empty when it is absent. */
export function metaText(object: JsonObject, field: string): string {
  const value = isObject(object.metadata) ? object.metadata[field] : undefined;
  return typeof value === 'string' ? value : '';
}

export function finalizersOf(object: JsonObject): string[] {
  const value = isObject(object.metadata) ? object.metadata.finalizers : undefined;
  return Array.isArray(value) ? value.filter((item): item is string => typeof item === 'string') : [];
}

/** Sets the finalizers; an empty list leaves no field, as the real server's output has none. */
export function setFinalizers(object: JsonObject, finalizers: readonly string[]): void {
  const metadata = metaOf(object);
  if (finalizers.length === 0) delete metadata.finalizers;
  else metadata.finalizers = [...finalizers];
}

export interface Owner {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
  readonly blockOwnerDeletion: boolean;
}

export function ownersOf(object: JsonObject): Owner[] {
  const value = isObject(object.metadata) ? object.metadata.ownerReferences : undefined;
  if (!Array.isArray(value)) return [];
  return value.filter(isObject).map((owner) => ({
    apiVersion: String(owner.apiVersion ?? ''),
    kind: String(owner.kind ?? ''),
    name: String(owner.name ?? ''),
    uid: String(owner.uid ?? ''),
    blockOwnerDeletion: owner.blockOwnerDeletion === true,
  }));
}

export function isDeleting(object: JsonObject): boolean {
  return metaText(object, 'deletionTimestamp') !== '';
}

/** The value at a dotted path such as `.spec.replicas`; undefined where a step is missing. */
export function valueAtPath(object: JsonObject, path: string): JsonValue | undefined {
  let here: JsonValue | undefined = object;
  for (const step of path.split('.').filter((part) => part !== '')) here = isObject(here) ? here[step] : undefined;
  return here;
}

/** Sets the value at a dotted path, making the objects on the way. */
export function setAtPath(object: JsonObject, path: string, value: JsonValue): void {
  const steps = path.split('.').filter((part) => part !== '');
  const last = steps.pop();
  if (last === undefined) return;
  let here = object;
  for (const step of steps) {
    const next = here[step];
    if (isObject(next)) here = next;
    else {
      const made: JsonObject = {};
      here[step] = made;
      here = made;
    }
  }
  here[last] = value;
}

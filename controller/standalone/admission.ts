/**
 * What an incoming object must satisfy before its schema is asked: that it is of the right kind, can be decoded, is the object that
 * the path names, and leaves the server's own fields alone.
 */
import { finalizersOf, isDeleting, metaOf, metaText } from './meta.ts';
import type { UpdateOptions } from './objects.ts';
import { apiVersionOf, type ResourceDefinition } from './resources.ts';
import { fieldError, formatFieldError } from './schema/errors.ts';
import type { FieldError, JsonObject } from './schema/types.ts';
import * as status from './status.ts';

/** Fields of metadata that clients never set. */
export const serverFields = [
  'uid',
  'creationTimestamp',
  'generation',
  'deletionTimestamp',
  'deletionGracePeriodSeconds',
];

export function checkTypeMeta(definition: ResourceDefinition, object: JsonObject): void {
  const apiVersion = apiVersionOf(definition);
  if (definition.custom && (typeof object.kind !== 'string' || typeof object.apiVersion !== 'string')) {
    throw status.badRequest(
      `the object provided is unrecognized (must be of type ${definition.kind}): apiVersion and kind must be given`,
    );
  }
  if (object.apiVersion !== undefined && object.apiVersion !== apiVersion) {
    throw status.badRequest(
      `the API version in the data (${object.apiVersion}) does not match the expected API version (${apiVersion})`,
    );
  }
  if (object.kind !== undefined && object.kind !== definition.kind) {
    throw status.badRequest(
      `the kind in the data (${object.kind}) does not match the expected kind (${definition.kind})`,
    );
  }
  object.apiVersion = apiVersion;
  object.kind = definition.kind;
  if (object.metadata === undefined || object.metadata === null) object.metadata = {};
}

/** Refuses or reports fields that the schema does not know, and refuses what cannot be decoded. */
export function decode(definition: ResourceDefinition, object: JsonObject, options: UpdateOptions): string[] {
  const cannot = cannotHandle(definition);
  const undecodable = definition.compiled.decodingErrors(object);
  if (undecodable.length > 0) throw status.badRequest(`${cannot}: ${undecodable.map(formatFieldError).join(', ')}`);
  if (options.fieldValidation === 'Ignore') return [];
  const unknown = definition.compiled.unknownFields(object);
  if (unknown.length === 0 || options.fieldValidation === 'Warn') return unknown;
  const text = `strict decoding error: ${unknown.join(', ')}`;
  if (options.isPatch !== true) throw status.badRequest(`${cannot}: ${text}`);
  throw status.invalid('', '', '', [fieldError('FieldValueInvalid', ['patch'], text, metaText(object, 'name'))]);
}

/** Built-in kinds have types of their own: a wrong one is a body that cannot be decoded (400), not an invalid object (422). */
export function refuse(definition: ResourceDefinition, name: string, errors: readonly FieldError[]): void {
  if (errors.length === 0) return;
  const mistyped = definition.custom ? [] : errors.filter((error) => error.type === 'FieldValueTypeInvalid');
  if (mistyped.length === 0) throw status.invalid(definition.group, definition.kind, name, errors);
  throw status.badRequest(`${cannotHandle(definition)}: ${mistyped.map(formatFieldError).join(', ')}`);
}

export function checkNamespace(definition: ResourceDefinition, object: JsonObject, namespace: string): void {
  if (!definition.namespaced) return;
  const given = metaText(object, 'namespace');
  if (given !== '' && given !== namespace) {
    throw status.badRequest(`the namespace of the provided object does not match the namespace sent on the request`);
  }
  metaOf(object).namespace = namespace;
}

export function checkIdentity(
  definition: ResourceDefinition,
  next: JsonObject,
  current: JsonObject,
  options: UpdateOptions,
): void {
  const name = metaText(current, 'name');
  const metadata = metaOf(next);
  const given = metaText(next, 'name');
  if (given !== '' && given !== name) {
    throw status.badRequest(`the name of the object (${given}) does not match the name on the URL (${name})`);
  }
  metadata.name = name;
  const version = metaText(next, 'resourceVersion');
  if (version === '' && options.mustNameVersion) {
    const detail = 'must be specified for an update';
    const error = fieldError('FieldValueInvalid', ['metadata', 'resourceVersion'], detail, 0);
    throw status.invalid(definition.group, definition.kind, name, [
      { ...error, message: `Invalid value: 0x0: ${detail}` },
    ]);
  }
  const uid = metaText(next, 'uid');
  const stored = metaText(current, 'uid');
  if (uid !== '' && uid !== stored) {
    if (options.isPatch !== true) {
      const why = `Precondition failed: UID in precondition: ${uid}, UID in object meta: ${stored}`;
      throw status.conflict(definition, name, why);
    }
    const error = fieldError('FieldValueInvalid', ['metadata', 'uid'], 'field is immutable', uid);
    throw status.invalid(definition.group, definition.kind, name, [error]);
  }
  if (version !== '' && version !== metaText(current, 'resourceVersion')) {
    throw status.conflict(definition, name, status.modifiedMeanwhile);
  }
}

export function keepServerFields(next: JsonObject, current: JsonObject): void {
  const metadata = metaOf(next);
  const before = metaOf(current);
  delete metadata.managedFields;
  delete metadata.selfLink;
  for (const field of Object.keys(metadata)) if (metadata[field] === null) delete metadata[field];
  for (const field of serverFields) {
    if (before[field] === undefined) delete metadata[field];
    else metadata[field] = before[field];
  }
  metadata.resourceVersion = before.resourceVersion;
  if (Array.isArray(metadata.finalizers) && metadata.finalizers.length === 0) delete metadata.finalizers;
}

export function checkFinalizers(definition: ResourceDefinition, next: JsonObject, current: JsonObject): void {
  if (!isDeleting(current)) return;
  const before = new Set(finalizersOf(current));
  const added = finalizersOf(next).filter((finalizer) => !before.has(finalizer));
  if (added.length === 0) return;
  const detail = `no new finalizers can be added if the object is being deleted, found new finalizers []string{${added.map((text) => JSON.stringify(text)).join(', ')}}`;
  throw status.invalid(definition.group, definition.kind, metaText(next, 'name'), [
    fieldError('FieldValueForbidden', ['metadata', 'finalizers'], detail),
  ]);
}

function cannotHandle(definition: ResourceDefinition): string {
  return `${definition.kind} in version ${JSON.stringify(definition.version)} cannot be handled as a ${definition.kind}`;
}

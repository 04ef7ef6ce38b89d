/**
 * What an API server does to an object that is created or changed, as pure functions: the in-process adapter's rules.
 *
 * Invariants:
 * 1. uid, creationTimestamp, generation, deletionTimestamp, name and namespace are the server's; a client's values for
 *    them are ignored or refused, never stored.
 * 2. With a status subresource, a write of the object leaves status alone and a write of status leaves everything else alone.
 * 3. `generation` grows by one when, and only when, something outside metadata and status changes, or a deletion begins.
 * 4. A write that changes nothing returns the very object that was stored.
 */
import fastJsonPatch from 'fast-json-patch';
import { apiVersion, resourceName } from './gvk.ts';
import { applyMergePatch, deepEqual, deepFreeze, frozenCopy, isJsonObject } from './json.ts';
import { type GroupVersionKind, KubeError, type KubeObject, type ObjectMeta, type Preconditions } from './port.ts';

export interface KindTraits {
  readonly statusSubresource: boolean;
  /** Whether the server counts generations; it does not for ConfigMap, Secret, Event and Lease. */
  readonly generation: boolean;
}

export type AnyObject = KubeObject & Record<string, unknown>;

export function notFound(gvk: GroupVersionKind, name: string): KubeError {
  return new KubeError('NotFound', `${resourceName(gvk)} "${name}" not found`, { status: 404 });
}

function invalid(gvk: GroupVersionKind, name: string, why: string): KubeError {
  return new KubeError('Invalid', `${gvk.kind} "${name}" is invalid: ${why}`, { status: 422 });
}

function conflict(gvk: GroupVersionKind, name: string, why: string): KubeError {
  const message = `Operation cannot be fulfilled on ${resourceName(gvk)} "${name}": ${why}`;
  return new KubeError('Conflict', message, { status: 409 });
}

export function checkPreconditions(gvk: GroupVersionKind, stored: KubeObject, wanted: Preconditions): void {
  const { name, uid, resourceVersion } = stored.metadata;
  if (wanted.uid !== undefined && wanted.uid !== uid) {
    throw conflict(gvk, name, `Precondition failed: UID in precondition: ${wanted.uid}, UID in object meta: ${uid}`);
  }
  if (wanted.resourceVersion !== undefined && wanted.resourceVersion !== resourceVersion) {
    throw conflict(
      gvk,
      name,
      'the object has been modified; please apply your changes to the latest version and try again',
    );
  }
}

/** RFC 1123 subdomain, as names of our kinds must be. */
const nameForm = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;

export interface Identity {
  readonly uid: string;
  readonly name: string;
  readonly creationTimestamp: string;
}

/** @returns the object to store, without a resourceVersion */
export function created(gvk: GroupVersionKind, traits: KindTraits, input: KubeObject, id: Identity): AnyObject {
  const { metadata, ...rest } = frozenCopy(input) as AnyObject;
  if (gvk.namespaced !== (metadata.namespace !== undefined)) {
    throw invalid(
      gvk,
      id.name,
      gvk.namespaced ? 'metadata.namespace: Required value' : 'metadata.namespace: Forbidden',
    );
  }
  if (!nameForm.test(id.name) || id.name.length > 253) {
    throw invalid(gvk, id.name, 'metadata.name: a lowercase RFC 1123 subdomain is expected');
  }
  if (metadata.resourceVersion !== undefined) {
    throw invalid(gvk, id.name, 'resourceVersion should not be set on objects to be created');
  }
  const { deletionTimestamp: _d, deletionGracePeriodSeconds: _g, generation: _n, ...kept } = metadata;
  if (traits.statusSubresource) delete rest.status;
  return {
    ...rest,
    apiVersion: apiVersion(gvk),
    kind: gvk.kind,
    metadata: {
      ...kept,
      name: id.name,
      uid: id.uid,
      creationTimestamp: id.creationTimestamp,
      ...(traits.generation ? { generation: 1 } : {}),
    },
  };
}

/** Errors of a JSON patch that lie in what is stored, not in the patch. */
const doesNotApply: ReadonlySet<string> = new Set([
  'TEST_OPERATION_FAILED',
  'OPERATION_PATH_UNRESOLVABLE',
  'OPERATION_FROM_UNRESOLVABLE',
  'OPERATION_PATH_CANNOT_ADD',
  'OPERATION_PATH_ILLEGAL_ARRAY_INDEX',
  'OPERATION_VALUE_OUT_OF_BOUNDS',
]);

/** @throws KubeError Conflict when a JSON patch does not apply to what is stored (a failed `test`, a path that is not there) */
export function patched(gvk: GroupVersionKind, stored: AnyObject, patch: unknown, type: 'merge' | 'json'): AnyObject {
  const { name } = stored.metadata;
  if (type === 'merge') {
    if (!isJsonObject(patch)) throw invalid(gvk, name, 'a merge patch must be an object');
    return applyMergePatch(stored, frozenCopy(patch)) as AnyObject;
  }
  if (!Array.isArray(patch)) throw invalid(gvk, name, 'a JSON patch must be an array of operations');
  try {
    return fastJsonPatch.applyPatch(stored, structuredClone(patch), true, false).newDocument;
  } catch (error) {
    if (!(error instanceof fastJsonPatch.JsonPatchError)) throw error;
    if (!doesNotApply.has(error.name)) throw invalid(gvk, name, `${error.name} at operation ${error.index}`);
    throw conflict(gvk, name, `the JSON patch does not apply: ${error.name} at operation ${error.index}`);
  }
}

/** Metadata that only the server writes; everything else in `wanted` is the client's to change. */
function updatedMetadata(gvk: GroupVersionKind, stored: ObjectMeta, wanted: ObjectMeta): ObjectMeta {
  const { uid, creationTimestamp, generation, deletionTimestamp, deletionGracePeriodSeconds } = stored;
  if (wanted.name !== stored.name || wanted.namespace !== stored.namespace) {
    throw new KubeError('Invalid', 'the name of the object does not match the name on the URL', { status: 400 });
  }
  const added = (wanted.finalizers ?? []).filter((finalizer) => !stored.finalizers?.includes(finalizer));
  if (deletionTimestamp !== undefined && added.length > 0) {
    throw invalid(
      gvk,
      stored.name,
      `metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted: ${added}`,
    );
  }
  const { labels, annotations, finalizers, ownerReferences } = wanted;
  return {
    ...(stored.generateName === undefined ? {} : { generateName: stored.generateName }),
    name: stored.name,
    ...(stored.namespace === undefined ? {} : { namespace: stored.namespace }),
    ...(uid === undefined ? {} : { uid }),
    ...(stored.resourceVersion === undefined ? {} : { resourceVersion: stored.resourceVersion }),
    ...(creationTimestamp === undefined ? {} : { creationTimestamp }),
    ...(generation === undefined ? {} : { generation }),
    ...(deletionTimestamp === undefined ? {} : { deletionTimestamp }),
    ...(deletionGracePeriodSeconds === undefined ? {} : { deletionGracePeriodSeconds }),
    ...(isEmpty(labels) ? {} : { labels }),
    ...(isEmpty(annotations) ? {} : { annotations }),
    ...(finalizers === undefined || finalizers.length === 0 ? {} : { finalizers }),
    ...(ownerReferences === undefined || ownerReferences.length === 0 ? {} : { ownerReferences }),
  };
}

function isEmpty(map: Record<string, string> | undefined): map is undefined {
  return map === undefined || Object.keys(map).length === 0;
}

/**
 * What becomes of `stored` when a client wants it to be `wanted`.
 * @param subresource the path the write came through
 * @returns `stored` itself when nothing changes, otherwise the object to store under a new resourceVersion
 */
export function updated(
  gvk: GroupVersionKind,
  traits: KindTraits,
  stored: AnyObject,
  wanted: AnyObject,
  subresource: 'status' | undefined,
): AnyObject {
  if (!isJsonObject(wanted.metadata)) throw invalid(gvk, stored.metadata.name, 'metadata: Required value');
  const { uid, resourceVersion } = wanted.metadata;
  checkPreconditions(gvk, stored, { ...(uid === undefined ? {} : { uid }) });
  checkPreconditions(gvk, stored, { ...(resourceVersion === undefined ? {} : { resourceVersion }) });
  let next: AnyObject;
  if (subresource === 'status') {
    next = { ...stored };
    if (wanted.status === undefined) delete next.status;
    else next.status = wanted.status;
  } else {
    next = { ...wanted, apiVersion: apiVersion(gvk), kind: gvk.kind };
    next.metadata = updatedMetadata(gvk, stored.metadata, wanted.metadata);
    if (traits.statusSubresource) {
      if (stored.status === undefined) delete next.status;
      else next.status = stored.status;
    }
    if (traits.generation && !deepEqual(contentOf(stored, traits), contentOf(next, traits))) {
      next.metadata.generation = (stored.metadata.generation ?? 0) + 1;
    }
  }
  return deepEqual(stored, next) ? stored : next;
}

/** What `generation` counts changes of. */
function contentOf(object: AnyObject, traits: KindTraits): Record<string, unknown> {
  const { metadata: _metadata, apiVersion: _apiVersion, kind: _kind, ...content } = object;
  if (traits.statusSubresource) delete content.status;
  return content;
}

/** The object once its deletion has begun and finalizers keep it; `stored` itself when it had begun before. */
export function deleting(traits: KindTraits, stored: AnyObject, deletionTimestamp: string): AnyObject {
  if (stored.metadata.deletionTimestamp !== undefined) return stored;
  const generation = traits.generation ? { generation: (stored.metadata.generation ?? 0) + 1 } : {};
  return {
    ...stored,
    metadata: { ...stored.metadata, ...generation, deletionTimestamp, deletionGracePeriodSeconds: 0 },
  };
}

export function withVersion(object: AnyObject, resourceVersion: string): AnyObject {
  return deepFreeze({ ...object, metadata: { ...object.metadata, resourceVersion } });
}

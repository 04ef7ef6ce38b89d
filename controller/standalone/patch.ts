/**
 * Patches: RFC 7386 merge, RFC 6902 JSON patch, and the strategic merge of the built-in kinds.
 */
import fastJsonPatch, { type Operation } from 'fast-json-patch';
import { applyMergePatch } from '../kube/json.ts';
import { isObject, type JsonObject, type JsonValue } from './schema/types.ts';
import { ApiError, badRequest, unsupportedMediaType } from './status.ts';

export type PatchType = 'merge' | 'json' | 'strategic';

/** The most operations in one JSON patch (k8s.io/apiserver maxJSONPatchOperations). */
const mostOperations = 10_000;

/** @throws ApiError 415 that says what may be sent instead. */
export function patchTypeOf(contentType: string | undefined, custom: boolean): PatchType {
  const type = (contentType ?? '').split(';')[0]?.trim() ?? '';
  if (type === 'application/merge-patch+json') return 'merge';
  if (type === 'application/json-patch+json') return 'json';
  if (type === 'application/strategic-merge-patch+json' && !custom) return 'strategic';
  if (type.startsWith('application/apply-patch')) {
    throw unsupportedMediaType(
      'server-side apply is not served by the embedded API server: use client-side apply (kubectl apply without --server-side) or a merge patch',
    );
  }
  const accepted = ['application/json-patch+json', 'application/merge-patch+json'];
  if (!custom) accepted.push('application/strategic-merge-patch+json');
  throw unsupportedMediaType(
    `the body of the request was in an unknown format - accepted media types include: ${accepted.join(', ')}`,
  );
}

function applyJsonPatch(target: JsonObject, patch: JsonValue): JsonObject {
  if (!Array.isArray(patch)) throw badRequest('a JSON patch must be a list of operations');
  if (patch.length > mostOperations) {
    throw new ApiError(
      413,
      'RequestEntityTooLarge',
      `The allowed maximum operations in a JSON patch is ${mostOperations}, got ${patch.length}`,
    );
  }
  try {
    return fastJsonPatch.applyPatch(target, patch as unknown as Operation[], true, false).newDocument;
  } catch (error) {
    // The library's messages go on with the whole document.
    const text = (error as Error).message.split('\n')[0] ?? 'it cannot be applied';
    throw new ApiError(422, 'Invalid', `the server rejected our request due to an error in our request: ${text}`, {
      details: { causes: [{ message: text }] },
    });
  }
}

/**
 * Lists of the built-in kinds that are merged instead of replaced: by a key, or as a set ('').
 * From the `patchMergeKey` and `patchStrategy` tags of k8s.io/api; every other list of these kinds is atomic.
 */
const mergeKeys: Record<string, string> = {
  'metadata.ownerReferences': 'uid',
  'metadata.finalizers': '',
  'status.conditions': 'type',
};

function mergeSet(current: JsonValue | undefined, items: JsonValue[], removed: JsonValue | undefined): JsonValue[] {
  const gone = new Set(Array.isArray(removed) ? removed : []);
  const merged = Array.isArray(current) ? current.filter((item) => !gone.has(item)) : [];
  for (const item of items) if (!merged.includes(item)) merged.push(item);
  return merged;
}

function mergeByKey(current: JsonValue | undefined, items: JsonValue[], key: string, path: string): JsonValue[] {
  if (items.some((item) => isObject(item) && item.$patch === 'replace')) {
    return items.filter((item) => !(isObject(item) && item.$patch === 'replace'));
  }
  const merged = Array.isArray(current) ? [...current] : [];
  for (const item of items) {
    if (!isObject(item) || item[key] === undefined) throw badRequest(`${path}: an item lacks its merge key ${key}`);
    const at = merged.findIndex((candidate) => isObject(candidate) && candidate[key] === item[key]);
    const { $patch: directive, ...rest } = item;
    const existing = merged[at];
    if (directive === 'delete') {
      if (at >= 0) merged.splice(at, 1);
    } else if (isObject(existing)) merged[at] = mergeStrategic(existing, rest, path);
    else merged.push(mergeStrategic({}, rest, path));
  }
  return merged;
}

function inOrder(list: JsonValue[], order: JsonValue | undefined, key: string): JsonValue[] {
  if (!Array.isArray(order)) return list;
  const identity = (item: JsonValue | undefined): string =>
    JSON.stringify(key !== '' && isObject(item) ? item[key] : item);
  const rank = new Map(order.map((item, i) => [identity(item), i]));
  return list.toSorted((a, b) => (rank.get(identity(a)) ?? list.length) - (rank.get(identity(b)) ?? list.length));
}

/** Strategic merge (the directives of kubectl's client-side apply included). */
function mergeStrategic(target: JsonObject, patch: JsonObject, at = ''): JsonObject {
  if (patch.$patch === 'replace') {
    const { $patch: _, ...rest } = patch;
    return rest;
  }
  if (patch.$patch === 'delete') return {};
  const result: JsonObject = { ...target };
  if (Array.isArray(patch.$retainKeys)) {
    const kept = new Set(patch.$retainKeys);
    for (const key of Object.keys(result)) if (!kept.has(key)) delete result[key];
  }
  for (const [key, value] of Object.entries(patch)) {
    const deletion = /^\$deleteFromPrimitiveList\/(.+)$/.exec(key)?.[1];
    if (deletion !== undefined && patch[deletion] === undefined)
      result[deletion] = mergeSet(result[deletion], [], value);
    if (key.startsWith('$') || value === undefined) continue;
    const path = at === '' ? key : `${at}.${key}`;
    const mergeKey = mergeKeys[path];
    const before = result[key];
    if (value === null) delete result[key];
    else if (isObject(value)) result[key] = mergeStrategic(isObject(before) ? before : {}, value, path);
    else if (Array.isArray(value) && mergeKey !== undefined) {
      const merged =
        mergeKey === ''
          ? mergeSet(before, value, patch[`$deleteFromPrimitiveList/${key}`])
          : mergeByKey(before, value, mergeKey, path);
      result[key] = inOrder(merged, patch[`$setElementOrder/${key}`], mergeKey);
    } else result[key] = value;
  }
  return result;
}

/** The object that a patch makes of another one. The target may be changed. */
export function applyPatch(target: JsonObject, patch: JsonValue, type: PatchType): JsonObject {
  if (type === 'json') {
    const patched: unknown = applyJsonPatch(target, patch);
    if (!isObject(patched)) throw badRequest('the patch does not leave an object');
    return patched;
  }
  if (!isObject(patch)) throw badRequest('the patch must be an object');
  if (type === 'strategic') return mergeStrategic(target, patch);
  return applyMergePatch(target, patch) as JsonObject;
}

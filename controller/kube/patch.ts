/**
 * Compare-and-swap writes: the difference between what was read and what is wanted, sent as a patch that names the uid and
 * the resourceVersion that were read.
 *
 * Invariants:
 * 1. Nothing is sent when nothing differs.
 * 2. A write takes effect only on exactly the object and version that `object` is.
 * 3. An unanswered write is never assumed either way: the object is read again, and only what stands there counts.
 */
import { applyMergePatch, deepEqual, mergePatchBetween, mutableCopy } from './json.ts';
import {
  type GroupVersionKind,
  KubeError,
  type KubeObject,
  type KubeReader,
  type KubeWriter,
  type ObjectKey,
} from './port.ts';
import { compareResourceVersions } from './resource-version.ts';

export type CasResult<T> =
  /** What was wanted is stored. `changed` is false when it was so before and nothing was sent. */
  | { readonly outcome: 'written'; readonly object: T; readonly changed: boolean }
  /** Somebody else wrote first; `object` is what stands there now. Decide again. */
  | { readonly outcome: 'conflict'; readonly object: T }
  /** The object, or the one of this uid, is no longer there. */
  | { readonly outcome: 'gone' }
  /**
   * Not known: the answer was lost, and the write may still take effect for as long as the version stays what it was.
   * Sending the same again is safe; treating it as not done is not. `object` is what was read since, if it could be.
   */
  | { readonly outcome: 'unknown'; readonly object: T | undefined; readonly error: KubeError };

export interface CasOptions<T> {
  readonly fieldManager?: string;
  /** Told of every object read or written on the way; give it the store's `noteWrite`. */
  readonly noteWrite?: (object: T) => void;
}

type ReadWrite = Pick<KubeReader, 'get'> & Pick<KubeWriter, 'patch'>;

export function keyOf(object: KubeObject): ObjectKey {
  const { namespace, name } = object.metadata;
  return namespace === undefined ? { name } : { namespace, name };
}

/** Whether a patch from one to the other would be empty. */
export const isSameContent = deepEqual;

/**
 * Changes the object's status by `mutate`, which gets a copy whose status it may change, and nothing else.
 * @throws KubeError for failures that are none of the outcomes (Invalid, Forbidden, Unavailable, TooManyRequests, …)
 */
export function casPatchStatus<T extends KubeObject & { status?: unknown }>(
  client: ReadWrite,
  gvk: GroupVersionKind,
  object: T,
  mutate: (draft: T) => void,
  options: CasOptions<T> = {},
): Promise<CasResult<T>> {
  const draft = { ...object, status: mutableCopy(object.status) };
  mutate(draft);
  const patch = mergePatchBetween({ status: object.status ?? {} }, { status: draft.status ?? {} });
  return send(client, gvk, object, patch, options);
}

async function send<T extends KubeObject>(
  client: ReadWrite,
  gvk: GroupVersionKind,
  base: T,
  patch: Record<string, unknown> | undefined,
  options: CasOptions<T>,
): Promise<CasResult<T>> {
  if (patch === undefined) return { outcome: 'written', object: base, changed: false };
  const { uid, resourceVersion } = base.metadata;
  if (uid === undefined || resourceVersion === undefined) {
    throw new Error(
      `${gvk.kind} ${base.metadata.name}: a compare-and-swap needs an object that was read from the server`,
    );
  }
  const { fieldManager, noteWrite } = options;
  try {
    const object = await client.patch<T>(gvk, keyOf(base), patch, {
      type: 'merge',
      subresource: 'status',
      uid,
      resourceVersion,
      ...(fieldManager === undefined ? {} : { fieldManager }),
    });
    noteWrite?.(object);
    return { outcome: 'written', object, changed: true };
  } catch (error) {
    if (!(error instanceof KubeError)) throw error;
    if (error.reason === 'NotFound') return { outcome: 'gone' };
    if (error.reason !== 'Conflict' && error.reason !== 'Unknown') throw error;
    return readAgain(client, gvk, base, patch, error, noteWrite);
  }
}

async function readAgain<T extends KubeObject>(
  client: ReadWrite,
  gvk: GroupVersionKind,
  base: T,
  patch: Record<string, unknown>,
  error: KubeError,
  noteWrite: ((object: T) => void) | undefined,
): Promise<CasResult<T>> {
  let object: T;
  try {
    object = await client.get<T>(gvk, keyOf(base));
  } catch (readError) {
    if (!(readError instanceof KubeError)) throw readError;
    if (readError.reason === 'NotFound') return { outcome: 'gone' };
    if (error.reason === 'Conflict') throw readError;
    return { outcome: 'unknown', object: undefined, error };
  }
  noteWrite?.(object);
  if (object.metadata.uid !== base.metadata.uid) return { outcome: 'gone' };
  const isNewer =
    compareResourceVersions(object.metadata.resourceVersion ?? '0', base.metadata.resourceVersion ?? '0') > 0;
  if (error.reason === 'Conflict') {
    // Nobody wrote first: a refusal by mistake, or a server that was put back to an older state. Deciding again at once would loop.
    if (!isNewer) throw error;
    return { outcome: 'conflict', object };
  }
  if (object.metadata.resourceVersion === base.metadata.resourceVersion) return { outcome: 'unknown', object, error };
  const asWanted = deepEqual(applyMergePatch(object, patch), object);
  return asWanted ? { outcome: 'written', object, changed: true } : { outcome: 'conflict', object };
}

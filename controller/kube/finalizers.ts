/**
 * Finalizers, added and removed one at a time by JSON patches that test what they change.
 *
 * Invariants:
 * 1. Only the finalizer named is added or removed, whatever others do at the same time.
 * 2. Only the object of the uid given is touched, never another of the same name.
 * 3. Where the decision to remove one rests on the object, the version that it was made on is named, and a lost race is the caller's.
 * 4. The caller removes a finalizer after its clean-up succeeded, and not before; this file cannot know.
 */
import { keyOf } from './patch.ts';
import { type GroupVersionKind, KubeError, type KubeObject, type KubeReader, type KubeWriter } from './port.ts';

export type FinalizerResult<T> =
  /** As asked for; `object` is what the server holds, or its last state when that was the last finalizer. */
  | { readonly outcome: 'written'; readonly object: T; readonly changed: boolean }
  | { readonly outcome: 'gone' }
  /** Its deletion has begun: nothing can be added. */
  | { readonly outcome: 'deleting'; readonly object: T };

type ReadWrite = Pick<KubeReader, 'get'> & Pick<KubeWriter, 'patch'>;

/** Lost races before the caller is asked to come again; each loss means that somebody else got on. */
const attempts = 5;

interface Operation {
  readonly op: 'test' | 'add' | 'remove';
  readonly path: string;
  readonly value?: unknown;
}

/** @throws KubeError Conflict when others kept writing, Unknown when the outcome could not be learnt; both mean: come again */
export function addFinalizer<T extends KubeObject>(
  client: ReadWrite,
  gvk: GroupVersionKind,
  object: T,
  finalizer: string,
): Promise<FinalizerResult<T>> {
  return change(client, gvk, object, (current) => {
    const present = current.metadata.finalizers ?? [];
    if (present.includes(finalizer)) return undefined;
    if (present.length === 0) return [{ op: 'add', path: '/metadata/finalizers', value: [finalizer] }];
    return [
      { op: 'test', path: '/metadata/finalizers', value: present },
      { op: 'add', path: '/metadata/finalizers/-', value: finalizer },
    ];
  });
}

/** @throws KubeError as `addFinalizer` */
export function removeFinalizer<T extends KubeObject>(
  client: ReadWrite,
  gvk: GroupVersionKind,
  object: T,
  finalizer: string,
): Promise<FinalizerResult<T>> {
  return change(client, gvk, object, ({ metadata }) => removal(metadata.finalizers ?? [], finalizer));
}

/**
 * For a decision that rests on what the object says: nothing happens where it is no longer as it was read.
 *
 * @throws KubeError Conflict when somebody wrote meanwhile, Unknown when the outcome could not be learnt; both mean: decide anew
 */
export async function removeFinalizerAsSeen<T extends KubeObject>(
  client: Pick<KubeWriter, 'patch'>,
  gvk: GroupVersionKind,
  object: T,
  finalizer: string,
): Promise<FinalizerResult<T>> {
  const { uid, resourceVersion, finalizers = [] } = object.metadata;
  if (uid === undefined || resourceVersion === undefined)
    throw new Error(`${gvk.kind} ${object.metadata.name} was not read from the server`);
  const operations = removal(finalizers, finalizer);
  if (operations === undefined) return { outcome: 'written', object, changed: false };
  try {
    const changed = await client.patch<T>(gvk, keyOf(object), operations, { type: 'json', uid, resourceVersion });
    return { outcome: 'written', object: changed, changed: true };
  } catch (error) {
    if (error instanceof KubeError && error.reason === 'NotFound') return { outcome: 'gone' };
    throw error;
  }
}

function removal(present: readonly string[], finalizer: string): readonly Operation[] | undefined {
  const index = present.indexOf(finalizer);
  if (index < 0) return undefined;
  const path = `/metadata/finalizers/${index}`;
  return [
    { op: 'test', path, value: finalizer },
    { op: 'remove', path },
  ];
}

async function change<T extends KubeObject>(
  client: ReadWrite,
  gvk: GroupVersionKind,
  object: T,
  plan: (current: T) => readonly Operation[] | undefined,
): Promise<FinalizerResult<T>> {
  const { uid } = object.metadata;
  if (uid === undefined) throw new Error(`${gvk.kind} ${object.metadata.name} was not read from the server`);
  let current = object;
  let lastError: KubeError | undefined;
  for (let attempt = 0; attempt < attempts; attempt++) {
    const operations = plan(current);
    if (operations === undefined) return { outcome: 'written', object: current, changed: attempt > 0 };
    const adds = operations.some((operation) => operation.op === 'add');
    if (adds && current.metadata.deletionTimestamp !== undefined) return { outcome: 'deleting', object: current };
    try {
      // Where there is no list to test, the version stands for it.
      const { resourceVersion } = current.metadata;
      const tested = operations.some((operation) => operation.op === 'test') || resourceVersion === undefined;
      const changed = await client.patch<T>(gvk, keyOf(object), operations, {
        type: 'json',
        uid,
        ...(tested ? {} : { resourceVersion }),
      });
      return { outcome: 'written', object: changed, changed: true };
    } catch (error) {
      if (!(error instanceof KubeError)) throw error;
      if (error.reason === 'NotFound') return { outcome: 'gone' };
      if (error.reason !== 'Conflict' && error.reason !== 'Unknown') throw error;
      lastError = error;
    }
    const read = await readSame(client, gvk, object);
    if (read === undefined) return { outcome: 'gone' };
    current = read;
  }
  throw lastError ?? new Error('unreachable: a loop without attempts');
}

async function readSame<T extends KubeObject>(
  client: ReadWrite,
  gvk: GroupVersionKind,
  object: T,
): Promise<T | undefined> {
  try {
    const read = await client.get<T>(gvk, keyOf(object));
    return read.metadata.uid === object.metadata.uid ? read : undefined;
  } catch (error) {
    if (error instanceof KubeError && error.reason === 'NotFound') return undefined;
    throw error;
  }
}

/**
 * One object from git to the API server, and one object off it.
 *
 * Invariants:
 * 1. Every change names the uid and the resourceVersion that the decision was made on; a lost race is decided anew.
 * 2. An unanswered write is followed by a read, never by a blind repetition.
 * 3. An object that another sync applies, or that is being deleted, is left alone.
 * 4. A deletion is checked against the live object right before and names the very version that was seen, of the uid that was applied: one
 *    that arrives late, after somebody defined the object again, does nothing.
 * 5. What was there before the repository named it is marked with the write that takes it over, and deleted only once a person confirmed it.
 */
import { deepEqual } from '../kube/json.ts';
import { type GroupVersionKind, type KubeClient, KubeError, type KubeObject } from '../kube/port.ts';
import { type BackoffPolicy, backoffDelayMs } from '../runtime/backoff.ts';
import { type Clock, sleep } from '../runtime/clock.ts';
import type { Random } from '../runtime/random.ts';
import { isObject, type JsonObject } from '../standalone/schema/index.ts';
import { adoptedAnnotation, appliedByAnnotation, type DesiredObject, lastAppliedAnnotation } from './desired.ts';
import type { InventoryEntry } from './inventory.ts';
import { type Difference, threeWayMerge } from './merge.ts';
import type { DocumentValidator } from './validator.ts';

export interface ApplyContext {
  readonly kube: KubeClient;
  readonly clock: Clock;
  readonly random: Random;
  readonly validator: DocumentValidator;
  /** The name of the sync. */
  readonly sync: string;
  readonly signal?: AbortSignal;
}

export type ApplyOutcome =
  | {
      readonly result: 'created' | 'changed' | 'unchanged';
      readonly uid: string;
      readonly applied: string;
      readonly differences: readonly Difference[];
    }
  | { readonly result: 'failed'; readonly reason: string; readonly hint?: string; readonly field?: string };

/** All annotations of an object together hold 256 KiB. */
const longestLastApplied = 240 * 1024;
const attempts = 5;
/** Within one pass; what still fails is tried again by the next one. */
const retryBackoff: BackoffPolicy = { initialMs: 250, factor: 2, capMs: 10_000, jitter: 0.5 };
const fieldManager = 'bitvisor-operator-gitops';

const isReason = (error: unknown, ...reasons: string[]): error is KubeError =>
  error instanceof KubeError && reasons.includes(error.reason);

/** Repeats what the server was too busy for; everything else is the caller's. */
async function whenBusyAgain<T>(context: ApplyContext, call: () => Promise<T>): Promise<T> {
  for (let failures = 1; ; failures++) {
    try {
      return await call();
    } catch (error) {
      if (!isReason(error, 'TooManyRequests', 'Unavailable') || failures >= attempts) throw error;
      const delayMs = backoffDelayMs(retryBackoff, failures, context.random.next());
      const asked = Math.min(error.retryAfterMs ?? 0, retryBackoff.capMs);
      await sleep(context.clock, Math.max(delayMs, asked), context.signal);
    }
  }
}

async function readLive(
  context: ApplyContext,
  gvk: GroupVersionKind,
  namespace: string | undefined,
  name: string,
): Promise<KubeObject | undefined> {
  try {
    const key = namespace === undefined ? { name } : { namespace, name };
    return await whenBusyAgain(context, () => context.kube.get<KubeObject>(gvk, key));
  } catch (error) {
    if (isReason(error, 'NotFound')) return undefined;
    throw error;
  }
}

/** Objects of the API are JSON; the port's type only says less. */
const asJson = (object: KubeObject): JsonObject => ({ ...object }) as unknown as JsonObject;

function parseLastApplied(live: KubeObject): JsonObject | undefined {
  try {
    const value: unknown = JSON.parse(live.metadata.annotations?.[lastAppliedAnnotation] ?? 'null');
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function withAnnotations(object: JsonObject, applied: string, sync: string, isAdopted = false): JsonObject {
  const metadata = isObject(object.metadata) ? object.metadata : {};
  const annotations = isObject(metadata.annotations) ? metadata.annotations : {};
  const ours = {
    [lastAppliedAnnotation]: applied,
    [appliedByAnnotation]: sync,
    ...(isAdopted ? { [adoptedAnnotation]: 'true' } : {}),
  };
  return { ...object, metadata: { ...metadata, annotations: { ...annotations, ...ours } } };
}

async function create(context: ApplyContext, desired: DesiredObject): Promise<ApplyOutcome> {
  const applied = JSON.stringify(desired.object);
  const object = withAnnotations(desired.object, applied, context.sync) as unknown as KubeObject;
  const made = await whenBusyAgain(context, () => context.kube.create(desired.gvk, object, { fieldManager }));
  return { result: 'created', uid: made.metadata.uid ?? '', applied, differences: [] };
}

async function change(context: ApplyContext, desired: DesiredObject, live: KubeObject): Promise<ApplyOutcome> {
  const { annotations, uid = '', resourceVersion, deletionTimestamp } = live.metadata;
  if (deletionTimestamp !== undefined) {
    return { result: 'failed', reason: 'the object is being deleted; it is created again when it is gone' };
  }
  const owner = annotations?.[appliedByAnnotation];
  if (owner !== undefined && owner !== context.sync) {
    const reason = `the object is applied by the sync ${JSON.stringify(owner)}`;
    return { result: 'failed', reason, hint: 'define it in one repository only' };
  }
  const lastApplied = parseLastApplied(live);
  const lastAppliedDefaulted = context.validator.defaulted(desired.gvk, lastApplied ?? adoptionBase(desired.object));
  const merged = threeWayMerge({ lastApplied, lastAppliedDefaulted, desired: desired.object, live: asJson(live) });
  const { differences } = merged;
  const applied = JSON.stringify(merged.applied);
  const isRecorded = deepEqual(lastApplied, merged.applied) && owner === context.sync;
  if (merged.patch === undefined && isRecorded) return { result: 'unchanged', uid, applied, differences };
  const patch = withAnnotations(merged.patch ?? {}, applied, context.sync, owner === undefined);
  const key = { name: desired.name, ...(desired.namespace === undefined ? {} : { namespace: desired.namespace }) };
  const known = resourceVersion === undefined ? { uid } : { uid, resourceVersion };
  await whenBusyAgain(context, () =>
    context.kube.patch(desired.gvk, key, patch, { type: 'merge', fieldManager, ...known }),
  );
  return { result: 'changed', uid, applied, differences };
}

/** Of an object that git never applied, the server's defaults are still nobody's word: an empty object of the same shape gets them. */
function adoptionBase(desired: JsonObject): JsonObject {
  const base: JsonObject = {};
  for (const [key, value] of Object.entries(desired)) {
    if (isObject(value)) base[key] = key === 'metadata' ? {} : adoptionBase(value);
  }
  return base;
}

function failureOf(error: KubeError, desired: DesiredObject): ApplyOutcome {
  const field = /\b((?:spec|metadata|data)(?:\.[\w-]+|\[\d+\])+)/.exec(error.message)?.[1];
  const where = field === undefined ? {} : { field };
  const reason = error.message;
  if (error.reason === 'NotFound') {
    const hint = `define the Namespace ${desired.namespace ?? ''} in the repository, or create it`;
    return { result: 'failed', reason, hint };
  }
  if (error.reason === 'Invalid') return { result: 'failed', reason, ...where };
  if (error.reason === 'Forbidden') return { result: 'failed', reason, ...where };
  return { result: 'failed', reason: `${reason}; it is tried again` };
}

/** Never throws for what concerns this object alone. @throws the signal's reason */
export async function applyObject(context: ApplyContext, desired: DesiredObject): Promise<ApplyOutcome> {
  if (Buffer.byteLength(JSON.stringify(desired.object)) > longestLastApplied) {
    const reason = `the object is larger than the ${longestLastApplied / 1024} KiB that can be remembered of it`;
    return { result: 'failed', reason, hint: 'split it' };
  }
  let last: KubeError | undefined;
  for (let attempt = 0; attempt < attempts; attempt++) {
    try {
      const live = await readLive(context, desired.gvk, desired.namespace, desired.name);
      return live === undefined ? await create(context, desired) : await change(context, desired, live);
    } catch (error) {
      if (!(error instanceof KubeError)) throw error;
      last = error;
      // Somebody was faster, or nobody knows: what is there now decides.
      if (!isReason(error, 'Conflict', 'AlreadyExists', 'Unknown')) break;
    }
  }
  return last === undefined ? { result: 'failed', reason: 'not tried' } : failureOf(last, desired);
}

export type PruneOutcome =
  | { readonly result: 'deleted' | 'gone' }
  /** It was there before the repository named it, and nobody confirmed that it may go. */
  | { readonly result: 'waits' }
  /** It is not what was applied: forgotten, and left alone. */
  | { readonly result: 'notOurs'; readonly reason: string }
  | { readonly result: 'failed'; readonly reason: string };

/**
 * Whether an object with the mark of this sync stands again where one was pruned: a request to create it arrived late, or somebody made it
 * from a copy. `unknown`: the API server does not say.
 *
 * @param before the uid of what was pruned
 */
export async function isBack(
  context: ApplyContext,
  { group, version, kind, plural, namespace, name }: InventoryEntry,
  before: string | undefined,
): Promise<'yes' | 'no' | 'unknown'> {
  const gvk = { group, version, kind, plural, namespaced: namespace !== undefined };
  try {
    const live = await readLive(context, gvk, namespace, name);
    if (live?.metadata.annotations?.[appliedByAnnotation] !== context.sync) return 'no';
    return live.metadata.deletionTimestamp === undefined && live.metadata.uid !== before ? 'yes' : 'no';
  } catch (error) {
    if (!(error instanceof KubeError)) throw error;
    return 'unknown';
  }
}

/** @param isConfirmed a person said of this commit that what it takes away may go */
export async function pruneObject(
  context: ApplyContext,
  entry: InventoryEntry,
  isConfirmed: boolean,
): Promise<PruneOutcome> {
  const { group, version, kind, plural, namespace, name } = entry;
  const gvk = { group, version, kind, plural, namespaced: namespace !== undefined };
  try {
    const live = await readLive(context, gvk, namespace, name);
    if (live === undefined) return { result: 'gone' };
    if (live.metadata.annotations?.[appliedByAnnotation] !== context.sync) {
      return { result: 'notOurs', reason: 'it does not carry the mark of this sync any more' };
    }
    const uid = live.metadata.uid ?? '';
    if (uid === '' || (entry.uid !== undefined && entry.uid !== uid)) {
      return { result: 'notOurs', reason: 'another object of the same name took its place' };
    }
    if (live.metadata.deletionTimestamp !== undefined) return { result: 'deleted' };
    if (live.metadata.annotations?.[adoptedAnnotation] !== undefined && !isConfirmed) return { result: 'waits' };
    const key = namespace === undefined ? { name } : { namespace, name };
    const { resourceVersion } = live.metadata;
    const seen = { uid, ...(resourceVersion === undefined ? {} : { resourceVersion }) };
    await whenBusyAgain(context, () => context.kube.delete(gvk, key, seen));
    return { result: 'deleted' };
  } catch (error) {
    if (!(error instanceof KubeError)) throw error;
    if (error.reason === 'NotFound') return { result: 'gone' };
    // Whoever wrote may have defined it again: what the repository says by then decides, not what it said before.
    if (error.reason === 'Conflict')
      return { result: 'failed', reason: 'somebody wrote to it meanwhile; it is tried again' };
    return { result: 'failed', reason: `${error.message}; it is tried again` };
  }
}

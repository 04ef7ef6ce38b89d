/**
 * The three-way merge: what git last said, what it says now, and what the API server holds. Pure.
 *
 * For each field that git names or named (lists are one field):
 *   git unchanged, live unchanged   nothing to do
 *   git unchanged, live changed     drift: somebody else's change, reported and left
 *   git changed,   live unchanged   git's change is applied
 *   git changed,   live changed     to what git says: nothing to do; to something else: a conflict, reported and left
 *
 * Invariants:
 * 1. The patch touches no field that git neither names nor named, and none that is reported.
 * 2. A default that the server filled in is nobody's change.
 * 3. After the patch, merging again with `applied` as what git last said gives no patch and the same reports.
 */
import { deepEqual } from '../kube/json.ts';
import { isObject, type JsonObject, type JsonValue } from '../standalone/schema/index.ts';
import type { Segments } from './documents.ts';

export interface Difference {
  readonly kind: 'Drift' | 'Conflict';
  readonly path: Segments;
  /** What git says; undefined where it removed the field. */
  readonly desired: JsonValue | undefined;
  readonly live: JsonValue | undefined;
}

export interface MergeResult {
  /** RFC 7386; undefined when nothing is to be changed. */
  readonly patch: JsonObject | undefined;
  readonly differences: readonly Difference[];
  /** What to remember as last applied: `desired`, but with the old word where a conflict kept it from being applied. */
  readonly applied: JsonObject;
}

export interface MergeInput {
  /** As it stood in the file, undefined when git never applied the object. */
  readonly lastApplied: JsonObject | undefined;
  /** The same with the server's defaults filled in. */
  readonly lastAppliedDefaulted: JsonObject | undefined;
  readonly desired: JsonObject;
  readonly live: JsonObject;
}

/** Maps of which others own entries too: removed entry by entry, never as a whole. */
const sharedMaps = new Set(['metadata', 'metadata.labels', 'metadata.annotations', 'data', 'binaryData']);

type Value = JsonValue | undefined;

const member = (value: Value, key: string): Value =>
  isObject(value) && Object.hasOwn(value, key) ? (value[key] ?? undefined) : undefined;

/** Whether everything that `part` says stands in `whole`, which may say more. */
function holds(whole: Value, part: Value): boolean {
  if (!isObject(part)) return deepEqual(whole, part);
  return (
    isObject(whole) && Object.keys(part).every((key) => part[key] === null || holds(member(whole, key), part[key]))
  );
}

const nothing = Symbol('nothing to change');
type Change = JsonValue | typeof nothing;

class Merge {
  readonly differences: Difference[] = [];

  /** Returns the change of this field, and writes into `applied` what is to be remembered of it. */
  field(path: string[], last: Value, defaulted: Value, desired: Value, live: Value, applied: JsonObject): Change {
    const key = path.at(-1) ?? '';
    const descend = isObject(desired)
      ? live === undefined || isObject(live)
      : this.#isShared(path, last, desired, live);
    if (descend) return this.#map(path, last, defaulted, desired, live, applied);
    const change = this.#leaf(path, last, defaulted, desired, live);
    const keepsOld = change === 'conflict';
    const remembered = keepsOld ? last : desired;
    if (remembered !== undefined) applied[key] = remembered;
    return change === 'apply' ? (desired ?? null) : nothing;
  }

  #isShared(path: readonly string[], last: Value, desired: Value, live: Value): boolean {
    return desired === undefined && isObject(last) && isObject(live) && sharedMaps.has(path.join('.'));
  }

  #map(path: string[], last: Value, defaulted: Value, desired: Value, live: Value, applied: JsonObject): Change {
    const lastMap = isObject(last) ? last : {};
    const desiredMap = isObject(desired) ? desired : {};
    const patch: JsonObject = {};
    const inner: JsonObject = {};
    for (const key of new Set([...Object.keys(lastMap), ...Object.keys(desiredMap)])) {
      const change = this.field(
        [...path, key],
        member(last, key),
        member(defaulted, key),
        member(desired, key),
        member(live, key),
        inner,
      );
      if (change !== nothing) patch[key] = change;
    }
    const name = path.at(-1) ?? '';
    if (desired !== undefined || Object.keys(inner).length > 0) applied[name] = inner;
    const isNewAndEmpty = live === undefined && last === undefined && desired !== undefined;
    return Object.keys(patch).length > 0 || isNewAndEmpty ? patch : nothing;
  }

  #leaf(path: string[], last: Value, defaulted: Value, desired: Value, live: Value): 'same' | 'apply' | 'conflict' {
    if (deepEqual(desired, live)) return 'same';
    const report = (kind: Difference['kind']): void => {
      this.differences.push({ kind, path, desired, live });
    };
    if (deepEqual(desired, last)) {
      // The server may have filled in defaults inside the items of a list.
      if (!deepEqual(defaulted, live) && !emptyIsAbsent(desired, live)) report('Drift');
      return 'same';
    }
    // A field that git removed may hold defaults besides what git said.
    const untouched =
      desired === undefined ? live === undefined || holds(live, last) : live === undefined || deepEqual(live, last);
    const gone = live === undefined && last !== undefined;
    if (deepEqual(live, defaulted) || (untouched && !gone))
      return live === undefined && desired === undefined ? 'same' : 'apply';
    if (gone && desired === undefined) return 'same';
    report('Conflict');
    return 'conflict';
  }
}

/** Servers drop empty maps and lists here and there. */
function emptyIsAbsent(desired: Value, live: Value): boolean {
  return live === undefined && typeof desired === 'object' && desired !== null && Object.keys(desired).length === 0;
}

/** Never merged: identity is settled before, status is not git's. */
const outside = new Set(['apiVersion', 'kind', 'status']);

export function threeWayMerge(input: MergeInput): MergeResult {
  const { lastApplied, lastAppliedDefaulted, desired, live } = input;
  const merge = new Merge();
  const patch: JsonObject = {};
  const applied: JsonObject = {};
  for (const key of new Set([...Object.keys(lastApplied ?? {}), ...Object.keys(desired)])) {
    if (outside.has(key)) {
      if (desired[key] !== undefined) applied[key] = desired[key];
      continue;
    }
    const change = merge.field(
      [key],
      member(lastApplied, key),
      member(lastAppliedDefaulted, key),
      member(desired, key),
      member(live, key),
      applied,
    );
    if (change !== nothing) patch[key] = change;
  }
  return { patch: Object.keys(patch).length === 0 ? undefined : patch, differences: merge.differences, applied };
}

/**
 * JSON values as the API carries them: comparing, copying, and RFC 7386 merge patches in both directions.
 *
 * Invariants:
 * 1. Nothing here changes its arguments; results may share unchanged parts with them.
 * 2. `applyMergePatch(a, mergePatchBetween(a, b))` equals `b`, where `null` and `undefined` members count as absent.
 * 3. A member named `__proto__` is dropped: such a name has no use in the API and reaches prototypes.
 */

type JsonObject = Record<string, unknown>;

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isPresent(value: JsonObject, name: string): boolean {
  return value[name] !== undefined && value[name] !== null && name !== '__proto__';
}

/** Members of `value` that are present: neither undefined nor null. */
function present(value: JsonObject): string[] {
  return Object.keys(value).filter((name) => isPresent(value, name));
}

/** Equality of content; in objects a member that is null or undefined equals an absent one. */
export function deepEqual(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (Array.isArray(a) && Array.isArray(b)) {
    return a.length === b.length && a.every((item, index) => deepEqual(item, b[index]));
  }
  if (!isJsonObject(a) || !isJsonObject(b)) return false;
  // Every write compares whole objects: no list of names is made here.
  let left = 0;
  for (const name of Object.keys(b)) if (isPresent(b, name)) left += 1;
  for (const name of Object.keys(a)) {
    if (!isPresent(a, name)) continue;
    left -= 1;
    if (!deepEqual(a[name], b[name])) return false;
  }
  return left === 0;
}

/** A copy as the wire would make it (undefined members gone), frozen all the way down. */
export function frozenCopy<T>(value: T): T {
  if (Array.isArray(value)) {
    const items: unknown[] = value.map((item) => (item === undefined ? null : frozenCopy(item)));
    return Object.freeze(items) as T;
  }
  if (!isJsonObject(value)) return value;
  const copy: JsonObject = {};
  for (const name of Object.keys(value)) {
    if (name !== '__proto__' && value[name] !== undefined) copy[name] = frozenCopy(value[name]);
  }
  return Object.freeze(copy) as T;
}

/** Freezes what is not frozen yet; a frozen part is taken to be frozen all the way down. */
export function deepFreeze<T>(value: T): T {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value;
  for (const part of Object.values(value)) deepFreeze(part);
  return Object.freeze(value);
}

/** A copy that may be changed freely. (structuredClone takes several times as long for plain data.) */
export function mutableCopy<T>(value: T): T {
  if (Array.isArray(value)) return value.map((item) => mutableCopy(item)) as T;
  if (!isJsonObject(value)) return value;
  const copy: JsonObject = {};
  for (const name of Object.keys(value)) if (name !== '__proto__') copy[name] = mutableCopy(value[name]);
  return copy as T;
}

/** RFC 7386, section 2. */
export function applyMergePatch(target: unknown, patch: unknown): unknown {
  if (!isJsonObject(patch)) return patch;
  const result: JsonObject = isJsonObject(target) ? { ...target } : {};
  for (const name of Object.keys(patch)) {
    const change = patch[name];
    if (name === '__proto__' || change === undefined) continue;
    if (change === null) delete result[name];
    else result[name] = applyMergePatch(result[name], change);
  }
  return result;
}

/**
 * The smallest RFC 7386 patch that turns `from` into `to`: arrays as a whole, null for what is gone.
 * @returns undefined when nothing differs
 */
export function mergePatchBetween(from: object, to: object): Record<string, unknown> | undefined {
  const old: JsonObject = { ...from };
  const next: JsonObject = { ...to };
  const patch: JsonObject = {};
  for (const name of present(old)) {
    if (next[name] === undefined || next[name] === null) patch[name] = null;
  }
  for (const name of present(next)) {
    const [before, after] = [old[name], next[name]];
    if (isJsonObject(before) && isJsonObject(after)) {
      const inner = mergePatchBetween(before, after);
      if (inner !== undefined) patch[name] = inner;
    } else if (!deepEqual(before, after)) {
      patch[name] = after;
    }
  }
  return Object.keys(patch).length === 0 ? undefined : patch;
}

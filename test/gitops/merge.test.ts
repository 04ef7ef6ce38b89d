/** The three-way merge: properties over generated objects, and the cases that people meet. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { threeWayMerge } from '../../controller/gitops/merge.ts';
import { applyMergePatch, deepEqual } from '../../controller/kube/json.ts';
import { isObject, type JsonObject, type JsonValue } from '../../controller/standalone/schema/index.ts';

const leaf = fc.oneof(
  fc.integer({ min: 0, max: 3 }),
  fc.constantFrom('x', 'y'),
  fc.array(fc.integer({ min: 0, max: 2 }), { maxLength: 2 }),
);
const field = fc.constantFrom('a', 'b', 'c');
const inner = fc.dictionary(field, leaf, { minKeys: 1, maxKeys: 3, noNullPrototype: true });
const spec = fc.dictionary(field, fc.oneof(leaf, inner), { maxKeys: 3, noNullPrototype: true });
const object = spec.map((value): JsonObject => ({ apiVersion: 'v1', kind: 'K', spec: value as JsonObject }));

function leaves(value: JsonValue | undefined, path = ''): Map<string, JsonValue> {
  const found = new Map<string, JsonValue>();
  if (isObject(value)) {
    for (const [key, item] of Object.entries(value))
      for (const [at, one] of leaves(item, `${path}/${key}`)) found.set(at, one);
  } else if (value !== undefined) found.set(path, value);
  return found;
}

const merge = (last: JsonObject | undefined, desired: JsonObject, live: JsonObject) =>
  threeWayMerge({ lastApplied: last, lastAppliedDefaulted: last, desired, live });

test('with no foreign change, the live object becomes what git says', () => {
  fc.assert(
    fc.property(object, object, (last, desired) => {
      const { patch, differences, applied } = merge(last, desired, last);
      assert.deepEqual(differences, []);
      assert.ok(deepEqual(applied, desired));
      const after = leaves(applyMergePatch(last, patch ?? {}) as JsonObject);
      assert.deepEqual([...after].sort(), [...leaves(desired)].sort());
    }),
  );
});

test('no field that somebody else changed, or that git never named, is touched', () => {
  fc.assert(
    fc.property(object, object, object, (last, desired, live) => {
      const { patch } = merge(last, desired, live);
      const after = leaves(applyMergePatch(live, patch ?? {}) as JsonObject);
      const [before, then, now] = [leaves(live), leaves(last), leaves(desired)];
      for (const [path, value] of before) {
        const isForeign = !deepEqual(then.get(path), value) && !then.has(path) && !now.has(path);
        const isBelowOurs = [...then.keys(), ...now.keys()].some(
          (other) => path.startsWith(`${other}/`) || other.startsWith(`${path}/`),
        );
        const parentRemoved =
          [...then.keys()].some((other) => other.split('/')[2] === path.split('/')[2]) &&
          ![...now.keys()].some((other) => other.split('/')[2] === path.split('/')[2]);
        if (isForeign && !isBelowOurs && !parentRemoved) assert.deepEqual(after.get(path), value, path);
        const changed = then.has(path) && !deepEqual(then.get(path), value);
        if (changed && now.has(path) && !isBelowOurs) assert.deepEqual(after.get(path), value, path);
      }
    }),
  );
});

test('a second merge has nothing left to do and reports the same', () => {
  fc.assert(
    fc.property(fc.option(object, { nil: undefined }), object, object, (last, desired, live) => {
      const first = merge(last, desired, live);
      const second = merge(first.applied, desired, applyMergePatch(live, first.patch ?? {}) as JsonObject);
      assert.equal(second.patch, undefined);
      assert.equal(
        second.differences.filter((one) => one.kind === 'Conflict').length,
        first.differences.filter((one) => one.kind === 'Conflict').length,
      );
    }),
  );
});

test("labels of others stay when git's go; a group of fields goes with the defaults filled into it", () => {
  const last = { metadata: { labels: { ours: '1' } }, spec: { topology: { level: 'Rack' } } };
  const live = {
    metadata: { labels: { ours: '1', theirs: '2' } },
    spec: { topology: { level: 'Rack', mode: 'Preferred' } },
  };
  const { patch } = merge(last, { metadata: {}, spec: {} }, live);
  assert.deepEqual(patch, { metadata: { labels: { ours: null } }, spec: { topology: null } });
});

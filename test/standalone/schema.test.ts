/**
 * Validation without a server: the project's own CRDs, and properties that hold for any object.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { parse } from 'yaml';
import { nearestName } from '../../controller/standalone/schema/errors.ts';
import {
  type CustomResourceDefinition,
  compileCrd,
  formatFieldError,
  type JsonObject,
  type JsonSchema,
} from '../../controller/standalone/schema/index.ts';
import { parseQuantity } from '../../controller/standalone/schema/quantity.ts';
import { widgetCrd } from '../support/widget-crds.ts';

const folder = join(import.meta.dirname, '..', '..', 'crds');
const ownCrds = readdirSync(folder)
  .filter((file) => file.endsWith('.yaml'))
  .map((file) => parse(readFileSync(join(folder, file), 'utf8')) as CustomResourceDefinition);

function crdWith(spec: JsonSchema): CustomResourceDefinition {
  const crd = structuredClone(widgetCrd);
  const [version] = crd.spec.versions;
  if (version !== undefined) version.schema = { openAPIV3Schema: { type: 'object', properties: { spec } } };
  return crd;
}

const widgets = compileCrd(widgetCrd);
const widget = (spec: JsonObject): JsonObject => ({
  apiVersion: 'test.bitvisor.io/v1',
  kind: 'Widget',
  metadata: { name: 'w' },
  spec,
});

describe('schema', () => {
  test('every CRD of the project compiles, its rules included', () => {
    assert.ok(ownCrds.length >= 4);
    for (const crd of ownCrds) assert.equal(compileCrd(crd).description.kind, crd.spec.names.kind);
  });

  test('an allocation with three mistakes gets one message for each, with its place', () => {
    const crd = ownCrds.find((candidate) => candidate.spec.names.kind === 'NodeAllocation');
    assert.ok(crd);
    const object = {
      apiVersion: 'bitvisor.io/v1alpha1',
      kind: 'NodeAllocation',
      metadata: { name: 'Bad_Name', namespace: 'tenant' },
      spec: { environmentRef: {}, replicas: 0, devirtualize: 'Never' },
    };
    const messages = compileCrd(crd).validateCreate(object).errors.map(formatFieldError);
    assert.deepEqual(
      messages.map((message) => message.split(':')[0]).toSorted(),
      ['metadata.name', 'spec.environmentRef.name', 'spec.replicas'],
      messages.join('\n'),
    );
  });

  test('a misspelt field is named with the one that was probably meant', () => {
    const object = widget({ replicas: 1, ports: [{ name: 'a', protcol: 'UDP' }], replcas: 2 });
    assert.deepEqual(widgets.unknownFields({ ...object, statsu: {} }), [
      'unknown field "spec.ports[0].protcol" (did you mean "protocol"?)',
      'unknown field "spec.replcas" (did you mean "replicas"?)',
      'unknown field "statsu" (did you mean "status"?)',
    ]);
    assert.equal(nearestName('entirely', ['different', 'words']), undefined);
  });

  test('the object that was handed in stays as it was', () => {
    const object = widget({ replicas: 1, bogus: true });
    const before = structuredClone(object);
    const { object: stored } = widgets.validateCreate(object);
    assert.deepEqual(object, before);
    assert.deepEqual(stored.spec, { replicas: 1, mode: 'Slow' });
  });

  test('what was wrong before is not held against an update that leaves it alone', () => {
    const old = widget({ replicas: 1, mode: 'Slow', digest: 'no-digst' });
    assert.deepEqual(
      widgets.validateUpdate({ ...old, spec: { ...(old.spec as JsonObject), replicas: 2 } }, old).errors,
      [],
    );
    const touched = widgets.validateUpdate(widget({ replicas: 1, digest: 'not-hex!' }), old);
    assert.deepEqual(
      touched.errors.map((error) => error.path),
      ['spec.digest'],
    );
  });

  test('a CRD that cannot be checked is refused when it is loaded, and named', () => {
    const rules = (rule: string): CustomResourceDefinition =>
      crdWith({ type: 'object', 'x-kubernetes-validations': [{ rule }] });
    assert.throws(
      () => compileCrd(rules('self.a >')),
      /widgets\.test\.bitvisor\.io: rule at \.spec does not compile: self\.a >/,
    );
    assert.throws(() => compileCrd(rules("ip('1.2.3.4').family() == 4")), /does not compile/);
    assert.throws(() => compileCrd({} as CustomResourceDefinition), /no storage version/);
    assert.throws(
      () => compileCrd(crdWith({ type: 'object', properties: { a: { type: 'string', pattern: '[' } } })),
      /widgets/,
    );
  });

  test('Kubernetes extensions of CEL: quantities, lists, strings, optional old values, reserved names', () => {
    const check = (rule: string, spec: JsonObject, schema: JsonSchema): number =>
      compileCrd(crdWith({ ...schema, 'x-kubernetes-validations': [{ rule, message: 'no' }] })).validateCreate(
        widget(spec),
      ).errors.length;
    const size: JsonSchema = { type: 'object', properties: { size: { type: 'string' } } };
    assert.equal(check("quantity(self.size).isLessThan(quantity('1Gi'))", { size: '1023Mi' }, size), 0);
    assert.equal(check("quantity(self.size).compareTo(quantity('1Gi')) == 0", { size: '1025Mi' }, size), 1);
    assert.equal(check('isQuantity(self.size)', { size: 'many' }, size), 1);
    const list: JsonSchema = { type: 'object', properties: { list: { type: 'array', items: { type: 'integer' } } } };
    assert.equal(
      check('self.list.isSorted() && self.list.sum() == 6 && self.list.max() == 3', { list: [1, 2, 3] }, list),
      0,
    );
    assert.equal(check('self.list.isSorted()', { list: [2, 1] }, list), 1);
    const reserved: JsonSchema = {
      type: 'object',
      properties: { namespace: { type: 'string' }, 'a-b': { type: 'integer' } },
    };
    assert.equal(check("self.__namespace__ == 'x' && self.a__dash__b == 1", { namespace: 'x', 'a-b': 1 }, reserved), 0);
    const optional: JsonSchema = {
      type: 'object',
      properties: {
        a: {
          type: 'integer',
          'x-kubernetes-validations': [
            {
              rule: 'oldSelf.hasValue() ? self >= oldSelf.value() : self == 1',
              optionalOldSelf: true,
              message: 'grows',
            },
          ],
        },
      },
    };
    const kind = compileCrd(crdWith(optional));
    assert.equal(kind.validateCreate(widget({ a: 2 })).errors.length, 1);
    assert.equal(kind.validateUpdate(widget({ a: 2 }), widget({ a: 1 })).errors.length, 0);
    assert.equal(kind.validateUpdate(widget({ a: 1 }), widget({ a: 2 })).errors.length, 1);
  });

  test('transition rules in keyed lists compare items of the same key', () => {
    const item: JsonSchema = {
      type: 'object',
      properties: { name: { type: 'string' }, value: { type: 'integer' } },
      'x-kubernetes-validations': [{ rule: 'self.value >= oldSelf.value', message: 'only grows' }],
    };
    const kind = compileCrd(
      crdWith({
        type: 'object',
        properties: {
          list: { type: 'array', items: item, 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': ['name'] },
        },
      }),
    );
    const list = (...values: [string, number][]): JsonObject =>
      widget({ list: values.map(([name, value]) => ({ name, value })) });
    assert.deepEqual(kind.validateUpdate(list(['b', 5], ['a', 2]), list(['a', 1], ['b', 5])).errors, []);
    const [error] = kind.validateUpdate(list(['b', 4], ['a', 1]), list(['a', 1], ['b', 5])).errors;
    assert.equal(error?.path, 'spec.list[0]');
  });
});

describe('schema, for any object', () => {
  const anySpec = fc.dictionary(
    fc.constantFrom(
      'replicas',
      'mode',
      'digest',
      'title',
      'tags',
      'ports',
      'options',
      'free',
      'note',
      'bogus',
      'when',
      'timeout',
    ),
    fc.jsonValue({ maxDepth: 3 }),
  );

  test('checking never throws, and what was stored passes again unchanged', () => {
    fc.assert(
      fc.property(anySpec, (spec) => {
        const first = widgets.validateCreate(widget(spec as JsonObject));
        const second = widgets.validateCreate(first.object);
        assert.deepEqual(second.object, first.object);
        assert.equal(second.errors.length, first.errors.length);
        assert.deepEqual(widgets.unknownFields(first.object), []);
      }),
      { numRuns: 300 },
    );
  });

  test('a member named __proto__ stays a member', () => {
    const hostile = JSON.parse('{"title":{"__proto__":{"replicas":1}}}') as JsonObject;
    const { object } = widgets.validateCreate(widget(hostile));
    const { title } = object.spec as { title: JsonObject };
    assert.deepEqual(Object.keys(title), ['__proto__']);
    assert.equal(Object.getPrototypeOf(title), Object.prototype);
  });

  test('every error names a place and quotes as Kubernetes does', () => {
    fc.assert(
      fc.property(anySpec, (spec) => {
        for (const error of widgets.validateCreate(widget(spec as JsonObject)).errors) {
          assert.match(error.path, /^spec/);
          assert.match(
            error.message,
            /^(Invalid value|Required value|Unsupported value|Duplicate value|Too long|Too many)/,
          );
        }
      }),
      { numRuns: 300 },
    );
  });

  test('quantities keep their order whatever their notation', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 10_000 }), fc.integer({ min: 0, max: 10_000 }), (a, b) => {
        const [milli, plain] = [parseQuantity(`${a * 1000}m`), parseQuantity(String(b))];
        assert.ok(milli && plain);
        assert.equal(milli.compareTo(plain), Math.sign(a - b));
        assert.equal(parseQuantity(`${a}Ki`)?.compareTo(parseQuantity(String(a * 1024)) ?? plain), 0);
      }),
    );
  });
});

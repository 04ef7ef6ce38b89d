/**
 * The CRDs would be accepted by a kube-apiserver, bound everything that a person or an agent may send, and explain themselves.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { parse } from 'yaml';
import {
  type CustomResourceDefinition,
  compileCrd,
  type JsonSchema,
} from '../../controller/standalone/schema/index.ts';
import { crdCostLimit, ruleCostLimit, ruleCosts } from './cel-cost.ts';
import { repository } from './source.ts';

const known = new Set(
  (
    'type format description title default enum minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength ' +
    'pattern minItems maxItems minProperties maxProperties required properties additionalProperties items nullable ' +
    'x-kubernetes-list-type x-kubernetes-list-map-keys x-kubernetes-map-type x-kubernetes-int-or-string x-kubernetes-validations'
  ).split(' '),
);
const knownRuleKeys = new Set(['rule', 'message', 'messageExpression', 'reason', 'fieldPath', 'optionalOldSelf']);

type Problem = string;
const when = (condition: boolean, problem: Problem): Problem[] => (condition ? [problem] : []);

function keyProblems(schema: JsonSchema): Problem[] {
  const unknown = Object.keys(schema).filter((key) => !known.has(key));
  const inRules = (schema['x-kubernetes-validations'] ?? []).flatMap((rule) =>
    Object.keys(rule).filter((key) => !knownRuleKeys.has(key)),
  );
  return [...unknown, ...inRules].map(
    (key) => `"${key}" is no schema key: quote the description, for in {braces} a comma starts a new key`,
  );
}

function enumProblems(schema: JsonSchema): Problem[] {
  const values = schema.enum ?? [];
  const texts = values.every((value) => typeof value === 'string');
  return [
    ...when(
      schema.type === 'string' && !texts,
      'quote every value of the enum: an unquoted Off, On, Yes or No is a boolean in YAML 1.1',
    ),
    ...when(new Set(values).size !== values.length, 'a value stands twice in the enum'),
    ...when(
      schema.enum !== undefined && schema.default !== undefined && !values.includes(schema.default),
      `the default ${JSON.stringify(schema.default)} is not in the enum`,
    ),
  ];
}

function boundProblems(schema: JsonSchema): Problem[] {
  const isMap = schema.additionalProperties !== undefined;
  return [
    ...when(schema.type === undefined, 'give it a type: structural schemas have one everywhere'),
    ...when(
      schema.type === 'string' && schema.enum === undefined && schema.maxLength === undefined,
      'bound the text: maxLength',
    ),
    ...when(schema.type === 'array' && schema.maxItems === undefined, 'bound the list: maxItems'),
    ...when(schema.type === 'array' && schema.items === undefined, 'say what the list holds: items'),
    ...when(
      schema.type === 'array' && schema['x-kubernetes-list-type'] === undefined,
      'say how the list merges: x-kubernetes-list-type',
    ),
    ...when(isMap && schema.maxProperties === undefined, 'bound the map: maxProperties'),
    ...when(isMap && schema.properties !== undefined, 'properties and additionalProperties exclude each other'),
    ...when(
      schema.type === 'object' && !isMap && schema.properties === undefined,
      'say what the object holds: properties',
    ),
  ];
}

function referenceProblems(schema: JsonSchema): Problem[] {
  const properties = schema.properties ?? {};
  const item = schema.items?.properties ?? {};
  const itemRequired = new Set(schema.items?.required);
  return [
    ...(schema.required ?? [])
      .filter((name) => !(name in properties))
      .map((name) => `requires "${name}", which it does not have`),
    ...(schema['x-kubernetes-list-map-keys'] ?? [])
      .filter((key) => !(key in item) || !(itemRequired.has(key) || item[key]?.default !== undefined))
      .map((key) => `key "${key}" of the list must be a required or defaulted field of its items`),
  ];
}

/** Problems of a schema and of all below it. Items and map values need no description of their own. */
function schemaProblems(schema: JsonSchema, path: string, described = true): Problem[] {
  const own = [...keyProblems(schema), ...enumProblems(schema), ...boundProblems(schema), ...referenceProblems(schema)];
  const missing = when(described && !schema.description?.trim(), 'say what it is: description');
  const { items, additionalProperties, properties = {} } = schema;
  return [
    ...[...own, ...missing].map((problem) => `${path}: ${problem}`),
    ...Object.entries(properties).flatMap(([name, property]) => schemaProblems(property, `${path}.${name}`)),
    ...(items === undefined ? [] : schemaProblems(items, `${path}[]`, false)),
    ...(typeof additionalProperties === 'object' ? schemaProblems(additionalProperties, `${path}{}`, false) : []),
  ];
}

for (const { path, text } of repository().filter(({ path }) => /^crds\/.*\.yaml$/.test(path))) {
  const crd = parse(text) as CustomResourceDefinition;
  const schema = crd.spec.versions.find(({ storage }) => storage)?.schema?.openAPIV3Schema ?? {};
  const parts = Object.entries(schema.properties ?? {}).filter(([name]) => name === 'spec' || name === 'status');

  describe(path, () => {
    test('reads the same in YAML 1.1, which Kubernetes uses, and 1.2', () => {
      assert.ok(
        isDeepStrictEqual(parse(text, { version: '1.1' }), crd),
        'quote what YAML 1.1 reads otherwise: Off, On, Yes, No',
      );
    });

    test('is structural, bounded and described', () => {
      const problems = parts.flatMap(([name, part]) => schemaProblems(part, name));
      assert.deepEqual(problems, [], problems.join('\n'));
    });

    test('has rules that compile, explain themselves and stay within the cost limits', () => {
      compileCrd(crd);
      const costs = ruleCosts(schema);
      for (const { path: place, rule, cost } of costs) {
        assert.ok(
          cost <= ruleCostLimit,
          `${place} "${rule}" may cost ${cost}: bound the lists and texts that it reads`,
        );
      }
      const total = costs.reduce((sum, { cost }) => sum + cost, 0);
      assert.ok(total <= crdCostLimit, `all rules together may cost ${total} of ${crdCostLimit}`);
      const silent = [...text.matchAll(/- rule:.*\n(?!\s+message)/g)].map(([line]) => line.trim());
      assert.deepEqual(silent, [], 'give each rule a message that a person understands');
    });

    test('names its columns by paths that exist', () => {
      for (const { name, jsonPath } of crd.spec.versions.flatMap((version) => version.additionalPrinterColumns ?? [])) {
        const steps = jsonPath
          .replace(/\[\?.*?\)\]/g, '[]')
          .split(/\.|(?=\[\])/)
          .filter(Boolean);
        if (steps[0] === 'metadata') continue;
        let at: JsonSchema | undefined = schema;
        for (const step of steps) at = step === '[]' ? at?.items : at?.properties?.[step];
        assert.ok(at, `column ${name} shows ${jsonPath}, which is not in the schema`);
      }
    });
  });
}

test('the checks find what they are for', () => {
  const find = (schema: unknown): string => schemaProblems(schema as JsonSchema, 'x').join('\n');
  assert.match(find(parse('{ type: string, maxLength: 3, description: a, b }')), /"b" is no schema key/);
  assert.match(
    find(parse('{ type: string, enum: [On, Off], description: a }', { version: '1.1' })),
    /quote every value/,
  );
  assert.match(
    find({ type: 'array', description: 'a', items: { type: 'string', maxLength: 1 } }),
    /maxItems[\s\S]*list-type/,
  );
  assert.match(
    find({ type: 'object', properties: { a: { type: 'integer' } } }),
    /x: say what it is[\s\S]*x\.a: say what it is/,
  );
  const rule = [{ rule: 'self.all(a, self.exists(b, a == b))' }];
  const text = { type: 'string', maxLength: 100 } as const;
  const cost = (schema: JsonSchema): number => ruleCosts(schema)[0]?.cost ?? 0;
  assert.ok(cost({ type: 'array', maxItems: 10, items: text, 'x-kubernetes-validations': rule }) < ruleCostLimit);
  assert.ok(cost({ type: 'array', items: text, 'x-kubernetes-validations': rule }) > ruleCostLimit);
});

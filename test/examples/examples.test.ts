/**
 * Every file of examples/ is one that the API would accept as it stands, and says what its comments promise.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { globSync, readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { parse, parseAllDocuments } from 'yaml';
import { parseHostlist } from '../../controller/api/hostlist.ts';
import {
  type CustomResourceDefinition,
  compileCrd,
  formatFieldError,
  isObject,
  type JsonObject,
} from '../../controller/standalone/schema/index.ts';

const root = new URL('../../', import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, root), 'utf8');
const kinds = new Map(
  readdirSync(new URL('crds/', root))
    .filter((file) => file.endsWith('.yaml'))
    .map((file) => parse(read(`crds/${file}`)) as CustomResourceDefinition)
    .map((crd) => [crd.spec.names.kind, compileCrd(crd)]),
);
const files = globSync('examples/**/*.yaml', { cwd: root.pathname }).sort();

function documents(path: string): JsonObject[] {
  return parseAllDocuments(read(path), { version: '1.1' }).map((document) => {
    assert.deepEqual(document.errors, [], path);
    const object: unknown = document.toJS();
    assert.ok(isObject(object), `${path} holds a document that is no object`);
    return object;
  });
}

const child = (object: JsonObject | undefined, name: string): JsonObject => {
  const value = object?.[name];
  return isObject(value) ? value : {};
};

test('there are examples', () => assert.ok(files.length >= 5, files.join(', ')));

for (const file of files) {
  test(`${file} is valid`, () => {
    for (const object of documents(file)) {
      if (object.kind === 'Namespace') continue;
      const kind = kinds.get(String(object.kind));
      assert.ok(kind, `${file}: kind ${object.kind} is none of ours`);
      const problems = [...kind.unknownFields(object), ...kind.validateCreate(object).errors.map(formatFieldError)];
      assert.deepEqual(problems, [], `${file}, ${object.kind} ${child(object, 'metadata').name}`);
    }
  });
}

for (const directory of ['minimal', 'tsubame2']) {
  const objects = files.filter((file) => file.startsWith(`examples/${directory}/`)).flatMap(documents);
  const ofKind = (kind: string): JsonObject[] => objects.filter((object) => object.kind === kind);

  test(`${directory} holds all that it refers to, once`, () => {
    const names = objects.map((object) => {
      const { namespace, name } = child(object, 'metadata');
      return `${object.kind} ${namespace ?? ''}/${name}`;
    });
    assert.equal(new Set(names).size, names.length, 'two documents define the same object');
    for (const allocation of ofKind('NodeAllocation')) {
      const { namespace } = child(allocation, 'metadata');
      const { name } = child(child(allocation, 'spec'), 'environmentRef');
      assert.ok(names.includes(`ComputeEnvironment ${namespace}/${name}`), `environment ${name} of ${namespace}`);
      assert.ok(names.includes(`Namespace /${namespace}`), `namespace ${namespace}`);
    }
  });

  test(`${directory} has a digest for each image, as the simulated image server computes it`, () => {
    for (const environment of ofKind('ComputeEnvironment')) {
      const { url, sha256 } = child(child(environment, 'spec'), 'image');
      assert.equal(sha256, createHash('sha256').update(String(url)).digest('hex'), String(url));
    }
  });

  test(`${directory} has nodes enough`, () => {
    const nodes = ofKind('BitVisorAgent').flatMap((agent) => parseHostlist(String(child(agent, 'spec').nodes)));
    assert.equal(new Set(nodes).size, nodes.length, 'a node is accepted from two agents');
    const wanted = ofKind('NodeAllocation').reduce(
      (sum, allocation) => sum + Number(child(allocation, 'spec').replicas),
      0,
    );
    assert.ok(wanted <= nodes.length, `${wanted} nodes wanted, ${nodes.length} there`);
    if (directory === 'tsubame2') assert.equal(nodes.length, 1408);
  });
}

/**
 * What is there before anybody writes: the namespaces `default` and `kube-system`, and the CustomResourceDefinitions of this program.
 *
 * Invariant: a CRD keeps its uid and its resourceVersion while its manifest stays the same.
 */
import { isDeepStrictEqual } from 'node:util';
import { type Clock, toMetaTime } from '../runtime/clock.ts';
import type { Random } from '../runtime/random.ts';
import type { Objects } from './objects.ts';
import { type ResourceRegistry, storageKey } from './resources.ts';
import type { CustomResourceDefinition } from './schema/index.ts';
import { isObject, type JsonObject } from './schema/types.ts';
import type { Storage } from './storage.ts';

function established(crd: CustomResourceDefinition, since: string): JsonObject {
  const condition = (type: string, reason: string, message: string): JsonObject => {
    return { type, status: 'True', lastTransitionTime: since, reason, message };
  };
  const { names } = crd.spec;
  return {
    conditions: [
      condition('NamesAccepted', 'NoConflicts', 'no conflicts found'),
      condition('Established', 'InitialNamesAccepted', 'the initial names have been accepted'),
    ],
    acceptedNames: {
      ...names,
      listKind: names.listKind ?? `${names.kind}List`,
      singular: names.singular ?? names.kind.toLowerCase(),
    },
    storedVersions: crd.spec.versions.filter((version) => version.storage).map((version) => version.name),
  };
}

function crdObject(
  crd: CustomResourceDefinition,
  before: JsonObject | undefined,
  clock: Clock,
  random: Random,
): JsonObject {
  const metadata = before !== undefined && isObject(before.metadata) ? before.metadata : undefined;
  const created = metadata?.creationTimestamp ?? toMetaTime(clock.now());
  const spec = { ...crd.spec, conversion: { strategy: 'None' } } as unknown as JsonObject;
  const changed = before !== undefined && !isDeepStrictEqual(before.spec, JSON.parse(JSON.stringify(spec)));
  const given = crd.metadata as { labels?: JsonObject; annotations?: JsonObject };
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: {
      name: crd.metadata.name,
      ...(given.labels === undefined ? {} : { labels: given.labels }),
      ...(given.annotations === undefined ? {} : { annotations: given.annotations }),
      uid: metadata?.uid ?? random.uuid(),
      generation: Number(metadata?.generation ?? 1) + (changed ? 1 : 0),
      creationTimestamp: created,
    },
    spec,
    status: established(crd, String(created)),
  };
}

function seedCrds(
  storage: Storage,
  registry: ResourceRegistry,
  crds: readonly CustomResourceDefinition[],
  clock: Clock,
  random: Random,
): void {
  const definition = registry.find('apiextensions.k8s.io', 'v1', 'customresourcedefinitions');
  if (definition === undefined) return;
  const resource = storageKey(definition);
  const names = new Set(crds.map((crd) => crd.metadata.name));
  for (const row of storage.page(resource, '', ['', ''], 1000)) {
    if (!names.has(row.name)) storage.remove({ resource, namespace: '', name: row.name }, row.body, row.body);
  }
  for (const crd of crds) {
    const { name } = crd.metadata;
    const stored = storage.get(resource, '', name);
    const before = stored === undefined ? undefined : (JSON.parse(stored.body) as JsonObject);
    const object = crdObject(crd, before, clock, random);
    const withVersion = (version: number): string =>
      JSON.stringify({ ...object, metadata: { ...(object.metadata as JsonObject), resourceVersion: String(version) } });
    if (stored !== undefined && withVersion(stored.version) === stored.body) continue;
    const facts = {
      uid: String((object.metadata as JsonObject).uid),
      schema: definition.schemaId,
      deleting: false,
      ownerUids: [],
    };
    const key = { resource, namespace: '', name };
    const body = withVersion(storage.nextVersion());
    if (stored === undefined) storage.insert(key, body, facts);
    else storage.update(key, body, facts, stored.body, false);
  }
}

/** Writes what is missing or out of date. */
export function seed(
  storage: Storage,
  objects: Objects,
  registry: ResourceRegistry,
  crds: readonly CustomResourceDefinition[],
  clock: Clock,
  random: Random,
): void {
  seedCrds(storage, registry, crds, clock, random);
  const namespaces = registry.find('', 'v1', 'namespaces');
  if (namespaces === undefined) return;
  for (const name of ['default', 'kube-system']) {
    if (storage.get(storageKey(namespaces), '', name) !== undefined) continue;
    objects.create(namespaces, '', { metadata: { name } }, { dryRun: false, fieldValidation: 'Ignore' });
  }
  storage.settle();
}

/**
 * OpenAPI v3 documents, one per API version: what `kubectl explain` shows and what tells kubectl that the server checks fields.
 *
 * OpenAPI v2 is served as a document without schemas, for clients that insist on one: kubectl asks for it, as protobuf, when a
 * kind is not in the v3 documents, and says what is wrong with the kind only after it was answered.
 */
import { createHash } from 'node:crypto';
import { followedVersion, pathPrefix } from './discovery.ts';
import { apiVersionOf, type ResourceDefinition, type ResourceRegistry } from './resources.ts';
import { objectMetaSchema } from './schema/metadata.ts';
import type { JsonObject, JsonValue } from './schema/types.ts';

/** As client-go asks for the v2 document, and as it is answered: an `@` is not for a Content-Type. */
export const openApiV2Accept = 'application/com.github.proto-openapi.spec.v2@v1.0+protobuf';
export const openApiV2ContentType = 'application/com.github.proto-openapi.spec.v2.v1.0+protobuf';

const metaReference = '#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta';

function schemaName(definition: ResourceDefinition): string {
  const group = definition.group === '' ? 'core' : definition.group;
  return [...group.split('.').toReversed(), definition.version, definition.kind].join('.');
}

function gvkOf(definition: ResourceDefinition): JsonObject {
  return { group: definition.group, version: definition.version, kind: definition.kind };
}

function componentOf(definition: ResourceDefinition): JsonObject {
  const schema = definition.schema as unknown as JsonObject;
  const common: JsonObject = {
    apiVersion: { type: 'string', description: 'Version of the schema of this object.' },
    kind: { type: 'string', description: 'Kind of this object.' },
    metadata: { description: 'Standard object metadata.', allOf: [{ $ref: metaReference }] },
  };
  const { apiVersion: _a, kind: _k, metadata: _m, ...properties } = (schema.properties ?? {}) as unknown as JsonObject;
  return {
    ...schema,
    properties: { ...common, ...properties },
    'x-kubernetes-group-version-kind': [gvkOf(definition)],
  };
}

const writeParameters: JsonValue = ['dryRun', 'fieldManager', 'fieldValidation'].map((name) => ({
  name,
  in: 'query',
  schema: { type: 'string', uniqueItems: true },
}));

function operation(definition: ResourceDefinition, action: string, writes: boolean): JsonObject {
  const schema = { $ref: `#/components/schemas/${schemaName(definition)}` };
  return {
    responses: { 200: { description: 'OK', content: { 'application/json': { schema } } } },
    ...(writes ? { parameters: writeParameters } : {}),
    'x-kubernetes-action': action,
    'x-kubernetes-group-version-kind': gvkOf(definition),
  };
}

function pathsOf(definition: ResourceDefinition): JsonObject {
  const scope = definition.namespaced ? '/namespaces/{namespace}' : '';
  const collection = `${pathPrefix(definition)}${scope}/${definition.plural}`;
  const get = operation(definition, 'get', false);
  if (definition.readOnly !== undefined) return { [collection]: { get }, [`${collection}/{name}`]: { get } };
  return {
    [collection]: { get: operation(definition, 'list', false), post: operation(definition, 'post', true) },
    [`${collection}/{name}`]: {
      get,
      put: operation(definition, 'put', true),
      patch: operation(definition, 'patch', true),
      delete: operation(definition, 'delete', false),
    },
  };
}

function documentOf(definitions: readonly ResourceDefinition[]): JsonObject {
  return {
    openapi: '3.0.0',
    info: { title: 'Kubernetes', version: followedVersion.gitVersion },
    paths: Object.assign({}, ...definitions.map(pathsOf)) as JsonObject,
    components: {
      schemas: {
        'io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta': objectMetaSchema as unknown as JsonObject,
        ...Object.fromEntries(definitions.map((definition) => [schemaName(definition), componentOf(definition)])),
      },
    },
  };
}

/** OpenAPI documents as JSON text by path, made once. */
export function openApiDocuments(registry: ResourceRegistry): Map<string, string> {
  const documents = new Map<string, string>();
  const index: JsonObject = {};
  for (const definitions of registry.groupVersions().values()) {
    const [first] = definitions;
    if (first === undefined) continue;
    const name = `${first.group === '' ? 'api' : 'apis'}/${apiVersionOf(first)}`;
    const text = JSON.stringify(documentOf(definitions));
    const hash = createHash('sha256').update(text).digest('hex').slice(0, 32).toUpperCase();
    documents.set(`/openapi/v3/${name}`, text);
    index[name] = { serverRelativeURL: `/openapi/v3/${name}?hash=${hash}` };
  }
  documents.set('/openapi/v3', JSON.stringify({ paths: index }));
  documents.set(
    '/openapi/v2',
    JSON.stringify({
      swagger: '2.0',
      info: { title: 'Kubernetes', version: followedVersion.gitVersion },
      paths: {},
      definitions: {},
    }),
  );
  return documents;
}

/** `openapi.v2.Document` (github.com/google/gnostic-models, openapiv2/OpenAPIv2.proto) without paths and schemas: swagger = 1, info = 2 (title = 1, version = 2). */
export function openApiV2Protobuf(): Buffer {
  const field = (number: number, value: Buffer): Buffer =>
    Buffer.concat([Buffer.from([number * 8 + 2, value.length]), value]);
  const info = [field(1, Buffer.from('Kubernetes')), field(2, Buffer.from(followedVersion.gitVersion))];
  return Buffer.concat([field(1, Buffer.from('2.0')), field(2, Buffer.concat(info))]);
}

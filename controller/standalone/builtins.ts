/**
 * The built-in kinds that the operator, kubectl and client libraries need, with schemas of our own in the notation of CRDs.
 */
import { eventSchema, leaseSchema } from './builtin-schemas.ts';
import { metaText } from './meta.ts';
import { type ResourceDefinition, schemaIdOf } from './resources.ts';
import { fieldError } from './schema/errors.ts';
import {
  compileKind,
  type FieldError,
  isObject,
  type JsonObject,
  type JsonSchema,
  type PrinterColumn,
} from './schema/index.ts';

const stringMap = (description: string): JsonSchema => ({
  type: 'object',
  description,
  nullable: true,
  additionalProperties: { type: 'string' },
});
const bytesMap = (description: string): JsonSchema => ({
  type: 'object',
  description,
  nullable: true,
  additionalProperties: { type: 'string', format: 'byte' },
});
const immutableFlag: JsonSchema = {
  type: 'boolean',
  nullable: true,
  description: 'When true, the data cannot be changed any more; the object can only be deleted and made again.',
};

/** Largest total of data in a ConfigMap or Secret, in bytes (k8s.io/api/core/v1 MaxSecretSize). */
const mostDataBytes = 1024 * 1024;

function dataBytes(object: JsonObject, field: string): number {
  if (!isObject(object[field])) return 0;
  return Object.entries(object[field]).reduce(
    (sum, [key, value]) => sum + Buffer.byteLength(key) + Buffer.byteLength(String(value)),
    0,
  );
}

function checkData(object: JsonObject, old: JsonObject | undefined): FieldError[] {
  const errors: FieldError[] = [];
  for (const field of ['data', 'binaryData']) {
    const data = object[field];
    if (!isObject(data)) continue;
    for (const key of Object.keys(data)) {
      if (/^[-._a-zA-Z0-9]{1,253}$/.test(key) && key !== '.' && key !== '..') continue;
      const text = `a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')`;
      errors.push(fieldError('FieldValueInvalid', [field], text, key, `${field}[${key}]`));
    }
  }
  if (dataBytes(object, 'data') + dataBytes(object, 'binaryData') > mostDataBytes) {
    errors.push(fieldError('FieldValueTooLong', ['data'], `may not be more than ${mostDataBytes} bytes`));
  }
  if (old?.immutable !== true) return errors;
  if (object.immutable !== true) {
    errors.push(fieldError('FieldValueForbidden', ['immutable'], 'field is immutable when `immutable` is set'));
  }
  for (const field of ['data', 'binaryData']) {
    if (JSON.stringify(object[field]) === JSON.stringify(old[field])) continue;
    errors.push(fieldError('FieldValueForbidden', [field], 'field is immutable when `immutable` is set'));
  }
  return errors;
}

function checkSecret(object: JsonObject, old: JsonObject | undefined): FieldError[] {
  const errors = checkData(object, old);
  if (old !== undefined && old.type !== object.type) {
    errors.push(fieldError('FieldValueInvalid', ['type'], 'field is immutable', object.type));
  }
  return errors;
}

/** An event stands in the namespace of what it is about; those about cluster-scoped objects stand in `default`. */
function checkEvent(object: JsonObject): FieldError[] {
  const namespace = metaText(object, 'namespace');
  const given = isObject(object.involvedObject) ? (object.involvedObject.namespace ?? '') : '';
  if (given === namespace || (given === '' && namespace === 'default')) return [];
  return [fieldError('FieldValueInvalid', ['involvedObject', 'namespace'], 'does not match event.namespace', given)];
}

/** Writes `stringData` into `data`, base64-encoded, as the real server does before it stores a Secret. */
function foldStringData(object: Record<string, unknown>): void {
  const text = object.stringData;
  delete object.stringData;
  if (!isObject(text)) return;
  const data: Record<string, unknown> = isObject(object.data) ? object.data : {};
  for (const [key, value] of Object.entries(text)) data[key] = Buffer.from(String(value)).toString('base64');
  object.data = data;
}

/** The server's own finalizer keeps a namespace until it is empty; clients neither set nor clear it. */
function prepareNamespace(object: Record<string, unknown>, old: JsonObject | undefined): void {
  object.spec = old?.spec ?? { finalizers: ['kubernetes'] };
  const metadata = object.metadata;
  if (!isObject(metadata)) return;
  const labels = isObject(metadata.labels) ? metadata.labels : {};
  metadata.labels = { ...labels, 'kubernetes.io/metadata.name': metadata.name };
}

const namespaceSchema: JsonSchema = {
  description: 'A scope for names; for this project, a tenant.',
  type: 'object',
  properties: {
    spec: {
      type: 'object',
      description: 'Behaviour of the namespace.',
      properties: {
        finalizers: { type: 'array', items: { type: 'string' }, description: 'Must be empty before it is removed.' },
      },
    },
    status: {
      type: 'object',
      description: 'Current state.',
      default: { phase: 'Active' },
      properties: {
        phase: { type: 'string', description: 'Active or Terminating.' },
        conditions: { type: 'array', items: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } },
      },
    },
  },
};

interface BuiltIn {
  group: string;
  version: string;
  kind: string;
  plural: string;
  shortNames?: string[];
  namespaced: boolean;
  schema: JsonSchema;
  columns: PrinterColumn[];
  hasStatus?: boolean;
  countsGenerations?: boolean;
  selectableFields?: string[];
  nameRule?: 'label' | 'subdomain';
  check?: (object: JsonObject, old: JsonObject | undefined) => FieldError[];
  prepare?: (object: Record<string, unknown>, old: JsonObject | undefined) => void;
  readOnly?: string;
}

const age: PrinterColumn = { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' };
const eventFields = [
  ...['kind', 'namespace', 'name', 'uid', 'apiVersion', 'resourceVersion', 'fieldPath'].map(
    (key) => `involvedObject.${key}`,
  ),
  ...['reason', 'reportingComponent', 'source', 'type'],
];

const builtIns: BuiltIn[] = [
  {
    group: '',
    version: 'v1',
    kind: 'Namespace',
    plural: 'namespaces',
    shortNames: ['ns'],
    namespaced: false,
    hasStatus: true,
    nameRule: 'label',
    schema: namespaceSchema,
    columns: [{ name: 'Status', type: 'string', jsonPath: '.status.phase' }, age],
    selectableFields: ['status.phase'],
    prepare: prepareNamespace,
  },
  {
    group: '',
    version: 'v1',
    kind: 'ConfigMap',
    plural: 'configmaps',
    shortNames: ['cm'],
    namespaced: true,
    schema: {
      description: 'Configuration data.',
      type: 'object',
      properties: {
        data: stringMap('Text by key.'),
        binaryData: bytesMap('Bytes by key, base64-encoded.'),
        immutable: immutableFlag,
      },
    },
    columns: [{ name: 'Data', type: 'string', jsonPath: '{count}.data,.binaryData' }, age],
    check: checkData,
  },
  {
    group: '',
    version: 'v1',
    kind: 'Secret',
    plural: 'secrets',
    namespaced: true,
    schema: {
      description: 'Secret data.',
      type: 'object',
      properties: {
        data: bytesMap('Bytes by key, base64-encoded.'),
        stringData: stringMap('Text by key; written into data, never read back.'),
        type: { type: 'string', default: 'Opaque', description: 'What the data is for. Cannot be changed.' },
        immutable: immutableFlag,
      },
    },
    columns: [
      { name: 'Type', type: 'string', jsonPath: '.type' },
      { name: 'Data', type: 'string', jsonPath: '{count}.data' },
      age,
    ],
    selectableFields: ['type'],
    check: checkSecret,
    prepare: foldStringData,
  },
  {
    group: '',
    version: 'v1',
    kind: 'Event',
    plural: 'events',
    shortNames: ['ev'],
    namespaced: true,
    schema: eventSchema,
    columns: [
      { name: 'Last Seen', type: 'date', jsonPath: '{first}.series.lastObservedTime,.lastTimestamp,.eventTime' },
      { name: 'Type', type: 'string', jsonPath: '.type' },
      { name: 'Reason', type: 'string', jsonPath: '.reason' },
      { name: 'Object', type: 'string', jsonPath: '{object}.involvedObject' },
      { name: 'Source', type: 'string', jsonPath: '.source.component', priority: 1 },
      { name: 'Message', type: 'string', jsonPath: '.message' },
      { name: 'First Seen', type: 'date', jsonPath: '{first}.firstTimestamp,.eventTime', priority: 1 },
      { name: 'Count', type: 'integer', jsonPath: '{first}.series.count,.count', priority: 1 },
    ],
    selectableFields: eventFields,
    check: checkEvent,
  },
  {
    group: 'coordination.k8s.io',
    version: 'v1',
    kind: 'Lease',
    plural: 'leases',
    namespaced: true,
    schema: leaseSchema,
    columns: [{ name: 'Holder', type: 'string', jsonPath: '.spec.holderIdentity' }, age],
  },
  {
    group: 'apiextensions.k8s.io',
    version: 'v1',
    kind: 'CustomResourceDefinition',
    plural: 'customresourcedefinitions',
    shortNames: ['crd', 'crds'],
    namespaced: false,
    hasStatus: true,
    countsGenerations: true,
    schema: {
      description: 'A resource that was added to the API.',
      type: 'object',
      properties: {
        spec: { type: 'object', description: 'What is added.', 'x-kubernetes-preserve-unknown-fields': true },
        status: { type: 'object', description: 'Whether it is served.', 'x-kubernetes-preserve-unknown-fields': true },
      },
    },
    columns: [{ name: 'Created At', type: 'string', jsonPath: '.metadata.creationTimestamp' }],
    readOnly:
      'the embedded API server takes its CustomResourceDefinitions from the program when it starts; install a matching version of the program, or use a Kubernetes cluster, to change them',
  },
];

function define(builtIn: BuiltIn): ResourceDefinition {
  const { group, version, kind, plural, namespaced, schema, nameRule, check, prepare, readOnly } = builtIn;
  return {
    group,
    version,
    kind,
    listKind: `${kind}List`,
    plural,
    singular: kind.toLowerCase(),
    shortNames: builtIn.shortNames ?? [],
    categories: kind === 'CustomResourceDefinition' ? ['api-extensions'] : [],
    namespaced,
    hasStatus: builtIn.hasStatus ?? false,
    schema,
    compiled: compileKind({
      group,
      version,
      kind,
      namespaced,
      schema,
      hasStatus: builtIn.hasStatus ?? false,
      ...(nameRule === undefined ? {} : { nameRule }),
      ...(check === undefined ? {} : { check }),
    }),
    schemaId: schemaIdOf(schema),
    columns: builtIn.columns,
    selectableFields: builtIn.selectableFields ?? [],
    custom: false,
    countsGenerations: builtIn.countsGenerations ?? false,
    ...(readOnly === undefined ? {} : { readOnly }),
    ...(prepare === undefined ? {} : { prepare }),
  };
}

export function builtInDefinitions(): ResourceDefinition[] {
  return builtIns.map(define);
}

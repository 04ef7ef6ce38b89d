/**
 * `metadata` as every Kubernetes object has it: its schema, and the checks of names, labels, annotations, finalizers and owners
 * with the wording of k8s.io/apimachinery.
 */
import { compileValidator, type ValueValidator } from './ajv.ts';
import { fieldError } from './errors.ts';
import { type ShapeNode, shapeOf } from './shape.ts';
import { type FieldError, isObject, type JsonObject, type JsonSchema, type JsonValue } from './types.ts';

const stringMap: JsonSchema = { type: 'object', additionalProperties: { type: 'string' } };
const time: JsonSchema = { type: 'string', format: 'date-time' };

export const objectMetaSchema: JsonSchema = {
  description: 'Metadata that all persisted objects have.',
  type: 'object',
  properties: {
    name: { type: 'string', description: 'Unique within a namespace for one kind. Cannot be changed.' },
    generateName: {
      type: 'string',
      description: 'Prefix from which the server makes a unique name when name is empty.',
    },
    namespace: { type: 'string', description: 'The space within which the name is unique. Cannot be changed.' },
    uid: { type: 'string', description: 'Unique in time and space; set by the server.' },
    resourceVersion: {
      type: 'string',
      description: 'Opaque version of the stored object, for optimistic concurrency and watches.',
    },
    generation: {
      type: 'integer',
      format: 'int64',
      description: 'Counts the changes of the desired state; set by the server.',
    },
    creationTimestamp: { ...time, nullable: true, description: 'When the object was created; set by the server.' },
    deletionTimestamp: { ...time, nullable: true, description: 'When deletion was asked for; set by the server.' },
    deletionGracePeriodSeconds: {
      type: 'integer',
      format: 'int64',
      description: 'Seconds granted to leave; set by the server.',
    },
    labels: { ...stringMap, nullable: true, description: 'Keys and values by which objects are selected.' },
    annotations: { ...stringMap, nullable: true, description: 'Keys and values for tools; never selected by.' },
    finalizers: {
      type: 'array',
      nullable: true,
      items: { type: 'string' },
      description: 'Must be empty before the object is removed; each names who still has work to do.',
    },
    ownerReferences: {
      type: 'array',
      nullable: true,
      description: 'Objects that this one depends on; when all are gone, this one is deleted.',
      items: {
        type: 'object',
        required: ['apiVersion', 'kind', 'name', 'uid'],
        properties: {
          apiVersion: { type: 'string', description: 'API version of the owner.' },
          kind: { type: 'string', description: 'Kind of the owner.' },
          name: { type: 'string', description: 'Name of the owner.' },
          uid: { type: 'string', description: 'UID of the owner.' },
          controller: { type: 'boolean', nullable: true, description: 'Whether the owner manages this object.' },
          blockOwnerDeletion: {
            type: 'boolean',
            nullable: true,
            description: 'Whether a foreground deletion of the owner waits for this object.',
          },
        },
      },
    },
    managedFields: {
      type: 'array',
      nullable: true,
      items: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true },
      description: 'Accepted and dropped: this server does not track field managers.',
    },
    selfLink: { type: 'string', description: 'Deprecated, ignored.' },
  },
};

export const objectMetaShape: ShapeNode = shapeOf(objectMetaSchema);
let typeCheck: ValueValidator | undefined;

/** Wrong types within metadata: a decoding error (400) at the server. */
export function metadataTypeErrors(metadata: JsonValue): FieldError[] {
  typeCheck ??= compileValidator(objectMetaSchema, ['metadata']);
  return typeCheck(metadata);
}

const labelPattern = '[a-z0-9]([-a-z0-9]*[a-z0-9])?';
const subdomainPattern = `${labelPattern}(\\.${labelPattern})*`;
const isLabel = new RegExp(`^${labelPattern}$`);
const isSubdomain = new RegExp(`^${subdomainPattern}$`);
const isNamePart = /^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$/;
const isLabelValue = /^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$/;

const labelText = `a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '${labelPattern}')`;
const subdomainText = `a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '${subdomainPattern}')`;
const namePartText =
  "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const labelValueText =
  "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/** `label`: 63 characters, no dots (namespaces); `subdomain`: 253 characters (everything else). */
export type NameRule = 'label' | 'subdomain';

function nameProblems(name: string, rule: NameRule): string[] {
  const problems: string[] = [];
  const longest = rule === 'label' ? 63 : 253;
  if (Buffer.byteLength(name) > longest) problems.push(`must be no more than ${longest} bytes`);
  if (!(rule === 'label' ? isLabel : isSubdomain).test(name))
    problems.push(rule === 'label' ? labelText : subdomainText);
  return problems;
}

/** Problems of a label or annotation key, or of a finalizer (`example.com/name`). */
function qualifiedNameProblems(key: string): string[] {
  const parts = key.split('/');
  if (parts.length > 2) {
    return [
      "a valid label key must consist of alphanumeric characters, '-', '_' or '.', with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
    ];
  }
  const problems: string[] = [];
  const name = parts.at(-1) ?? '';
  if (parts.length === 2) {
    const prefix = parts[0] ?? '';
    if (prefix === '') problems.push('prefix part must be non-empty');
    else problems.push(...nameProblems(prefix, 'subdomain').map((text) => `prefix part ${text}`));
  }
  if (name === '') problems.push('name part must be non-empty');
  else if (name.length > 63) problems.push('name part must be no more than 63 bytes');
  if (!isNamePart.test(name)) problems.push(namePartText);
  return problems;
}

function labelValueProblems(value: string): string[] {
  const problems: string[] = [];
  if (Buffer.byteLength(value) > 63) problems.push('must be no more than 63 bytes');
  if (!isLabelValue.test(value)) problems.push(labelValueText);
  return problems;
}

function checkName(metadata: JsonObject, rule: NameRule, errors: FieldError[]): void {
  const name = typeof metadata.name === 'string' ? metadata.name : '';
  const prefix = typeof metadata.generateName === 'string' ? metadata.generateName : '';
  const at = ['metadata', 'name'];
  if (prefix !== '') {
    for (const problem of nameProblems(`${prefix}a`, rule)) {
      errors.push(fieldError('FieldValueInvalid', ['metadata', 'generateName'], problem, prefix));
    }
  }
  if (name !== '') {
    for (const problem of nameProblems(name, rule)) errors.push(fieldError('FieldValueInvalid', at, problem, name));
  } else if (prefix === '') {
    errors.push(fieldError('FieldValueRequired', at, 'name or generateName is required'));
  }
}

function checkLabels(metadata: JsonObject, errors: FieldError[]): void {
  if (isObject(metadata.labels)) {
    for (const [key, value] of Object.entries(metadata.labels)) {
      const at = ['metadata', 'labels'];
      for (const problem of qualifiedNameProblems(key)) errors.push(fieldError('FieldValueInvalid', at, problem, key));
      for (const problem of labelValueProblems(String(value))) {
        errors.push(fieldError('FieldValueInvalid', at, problem, String(value)));
      }
    }
  }
  if (!isObject(metadata.annotations)) return;
  const at = ['metadata', 'annotations'];
  let bytes = 0;
  for (const [key, value] of Object.entries(metadata.annotations)) {
    bytes += Buffer.byteLength(key) + Buffer.byteLength(String(value));
    for (const problem of qualifiedNameProblems(key.toLowerCase())) {
      errors.push(fieldError('FieldValueInvalid', at, problem, key));
    }
  }
  const mostBytes = 256 * 1024;
  if (bytes > mostBytes) errors.push(fieldError('FieldValueTooLong', at, `may not be more than ${mostBytes} bytes`));
}

function checkOwners(metadata: JsonObject, errors: FieldError[]): void {
  const owners = Array.isArray(metadata.ownerReferences) ? metadata.ownerReferences.filter(isObject) : [];
  owners.forEach((owner, i) => {
    for (const key of ['apiVersion', 'kind', 'name', 'uid']) {
      if (owner[key] !== '') continue;
      errors.push(fieldError('FieldValueInvalid', ['metadata', 'ownerReferences', i, key], 'must not be empty', ''));
    }
  });
  const controllers = owners.filter((owner) => owner.controller === true);
  if (controllers.length > 1) {
    const text = `Only one reference can have Controller set to true. Found "true" in references for ${controllers.map((owner) => `${owner.kind}/${owner.name}`).join(' and ')}`;
    errors.push(fieldError('FieldValueInvalid', ['metadata', 'ownerReferences'], text, metadata.ownerReferences));
  }
}

/** Checks metadata whose types are right. */
export function validateMetadata(metadata: JsonObject, rule: NameRule, namespaced: boolean): FieldError[] {
  const errors: FieldError[] = [];
  checkName(metadata, rule, errors);
  const namespace = metadata.namespace;
  if (typeof namespace === 'string' && namespace !== '') {
    const at = ['metadata', 'namespace'];
    if (!namespaced) errors.push(fieldError('FieldValueForbidden', at, 'not allowed on this type'));
    else
      for (const text of nameProblems(namespace, 'label'))
        errors.push(fieldError('FieldValueInvalid', at, text, namespace));
  }
  checkLabels(metadata, errors);
  checkOwners(metadata, errors);
  if (Array.isArray(metadata.finalizers)) {
    for (const finalizer of metadata.finalizers) {
      const text = String(finalizer);
      for (const problem of qualifiedNameProblems(text)) {
        errors.push(fieldError('FieldValueInvalid', ['metadata', 'finalizers'], problem, text));
      }
    }
  }
  return errors;
}

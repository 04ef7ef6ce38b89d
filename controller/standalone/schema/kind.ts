/**
 * One kind of object, compiled: what its schema prunes, defaults and refuses. Needs no server.
 *
 * Invariants:
 * 1. The order is Kubernetes': prune, default, schema, then CEL, and CEL only when the schema found nothing that could mislead a rule.
 * 2. `spec` and `status` are checked apart: a write to one does not check the other again, which was checked when it was written.
 * 3. On an update, an error about a value that the update did not touch is not held against it (ratcheting).
 */
import { isDeepStrictEqual } from 'node:util';
import { compileValidator, type ValueValidator } from './ajv.ts';
import { compileRules, evaluateRules, type RuleNode } from './cel.ts';
import { fieldError, pathOf } from './errors.ts';
import { metadataTypeErrors, type NameRule, objectMetaShape, validateMetadata } from './metadata.ts';
import {
  applyDefaults,
  copyJson,
  describeUnknown,
  dropNulls,
  prune,
  type ShapeNode,
  shapeOf,
  unknownFields,
} from './shape.ts';
import {
  type FieldError,
  type FieldErrorType,
  isObject,
  type JsonObject,
  type JsonSchema,
  type JsonValue,
} from './types.ts';

export interface KindDescription {
  readonly group: string;
  readonly version: string;
  readonly kind: string;
  readonly namespaced: boolean;
  readonly schema: JsonSchema;
  /** `status` is a subresource: writes to the object leave it alone and writes to it leave the rest alone. */
  readonly hasStatus: boolean;
  /** Default: `subdomain`. */
  readonly nameRule?: NameRule;
  /** Further checks that a schema cannot express. */
  readonly check?: (object: JsonObject, old: JsonObject | undefined) => FieldError[];
}

export interface ValidationResult {
  /** The object as it would be stored: a pruned and defaulted copy. */
  readonly object: JsonObject;
  readonly errors: FieldError[];
}

/** Which part of an object a write may change. */
export type ObjectPart = 'main' | 'status';

export interface CompiledKind {
  readonly description: KindDescription;
  /** Sentences as `unknown field "spec.replcas" (did you mean "replicas"?)`. Needs the object before pruning. */
  unknownFields(object: JsonObject): string[];
  /** Wrong types in apiVersion, kind and metadata: what a decoder refuses. */
  decodingErrors(object: JsonObject): FieldError[];
  /** Prunes and defaults in place, metadata aside. */
  normalize(object: JsonObject): void;
  /** Checks a normalized object before it is created. */
  checkCreate(object: JsonObject): FieldError[];
  /** Checks a normalized object before it replaces another; looks at what `part` may change. */
  checkUpdate(object: JsonObject, old: JsonObject, part: ObjectPart): FieldError[];
  /** Everything at once, on a copy: for checks without a server. */
  validateCreate(object: JsonObject): ValidationResult;
  validateUpdate(object: JsonObject, old: JsonObject): ValidationResult;
}

/** After these a rule might meet a value of a type or size that it was not written for. */
const blocksRules = new Set<FieldErrorType>([
  'FieldValueNotSupported',
  'FieldValueRequired',
  'FieldValueTooLong',
  'FieldValueTooMany',
  'FieldValueTypeInvalid',
]);

const typeMetaNames = ['apiVersion', 'kind', 'metadata'];

function without(schema: JsonSchema, names: readonly string[]): JsonSchema {
  const properties = Object.fromEntries(
    Object.entries(schema.properties ?? {}).filter(([key]) => !names.includes(key)),
  );
  const required = (schema.required ?? []).filter((key) => !names.includes(key));
  return { ...schema, properties, required };
}

/** The restrictions that a CRD may put on metadata (name and generateName only). */
function metadataRestrictions(schema: JsonSchema): ValueValidator | undefined {
  const { name, generateName } = schema.properties?.metadata?.properties ?? {};
  if (name === undefined && generateName === undefined) return undefined;
  const properties: Record<string, JsonSchema> = {};
  if (name !== undefined) properties.name = name;
  if (generateName !== undefined) properties.generateName = generateName;
  return compileValidator({ type: 'object', properties }, ['metadata']);
}

function valueAt(object: JsonValue | undefined, segments: readonly (string | number)[]): JsonValue | undefined {
  let here = object;
  for (const segment of segments) {
    if (Array.isArray(here)) here = typeof segment === 'number' ? here[segment] : undefined;
    else here = isObject(here) ? here[segment] : undefined;
  }
  return here;
}

/** Whether the error is about something that the old object already had, word for word. */
function isOldNews(error: FieldError, object: JsonObject, old: JsonObject): boolean {
  // A missing field is seen in its parent.
  const at = error.type === 'FieldValueRequired' ? error.segments.slice(0, -1) : error.segments;
  if (at.length === 0) return false;
  const before = valueAt(old, at);
  return before !== undefined && isDeepStrictEqual(before, valueAt(object, at));
}

class Kind implements CompiledKind {
  readonly description: KindDescription;
  readonly #shape: ShapeNode;
  readonly #main: ValueValidator;
  readonly #status: ValueValidator | undefined;
  readonly #metadata: ValueValidator | undefined;
  readonly #mainRules: RuleNode | undefined;
  readonly #statusRules: RuleNode | undefined;
  /** Root rules that look at status: the only ones outside `status` that a status write can break. */
  readonly #rootRulesOnStatus: RuleNode | undefined;

  constructor(description: KindDescription) {
    const { schema } = description;
    this.description = description;
    this.#shape = shapeOf(without(schema, typeMetaNames));
    const status = schema.properties?.status;
    this.#main = compileValidator(without(schema, [...typeMetaNames, 'status']), []);
    this.#status = status === undefined ? undefined : compileValidator(status, ['status']);
    this.#metadata = metadataRestrictions(schema);
    const rules = compileRules(schema);
    if (rules === undefined) return;
    const properties = new Map(rules.properties);
    this.#statusRules = properties.get('status');
    properties.delete('status');
    this.#mainRules = { ...rules, properties };
    const onStatus = rules.rules.filter(
      (rule) => rule.rule.includes('status') || rule.program.ast.input.includes('status'),
    );
    if (onStatus.length > 0) this.#rootRulesOnStatus = { ...rules, rules: onStatus, properties: new Map() };
  }

  unknownFields(object: JsonObject): string[] {
    const found: string[] = [];
    if (isObject(object.metadata)) found.push(...unknownFields(object.metadata, objectMetaShape, ['metadata']));
    const known = [...typeMetaNames, ...this.#shape.properties.keys()];
    for (const [key, value] of Object.entries(object)) {
      if (typeMetaNames.includes(key)) continue;
      const child = this.#shape.properties.get(key);
      if (child !== undefined) found.push(...unknownFields(value, child, [key]));
      else if (!this.#shape.preservesUnknown) found.push(describeUnknown(pathOf([key]), key, known));
    }
    return found;
  }

  decodingErrors(object: JsonObject): FieldError[] {
    const metadata = object.metadata;
    return metadata === undefined || metadata === null ? [] : metadataTypeErrors(metadata);
  }

  normalize(object: JsonObject): void {
    const { apiVersion, kind, metadata } = object;
    for (const name of typeMetaNames) delete object[name];
    prune(object, this.#shape);
    dropNulls(object, this.#shape);
    applyDefaults(object, this.#shape);
    const rest = { ...object };
    for (const key of Object.keys(object)) delete object[key];
    Object.assign(object, { apiVersion, kind, metadata }, rest);
  }

  #checkMetadata(object: JsonObject): FieldError[] {
    const metadata = isObject(object.metadata) ? object.metadata : {};
    const { nameRule = 'subdomain', namespaced } = this.description;
    return [...validateMetadata(metadata, nameRule, namespaced), ...(this.#metadata?.(metadata) ?? [])];
  }

  #checkSchema(object: JsonObject, part: ObjectPart | 'all'): FieldError[] {
    const errors: FieldError[] = [];
    if (part !== 'status') errors.push(...this.#main(object));
    if (part !== 'main' && object.status !== undefined) errors.push(...(this.#status?.(object.status) ?? []));
    if (part === 'all' && object.status === undefined && this.description.schema.required?.includes('status')) {
      errors.push(fieldError('FieldValueRequired', ['status'], ''));
    }
    return errors;
  }

  #checkRules(object: JsonObject, old: JsonObject | undefined, part: ObjectPart | 'all'): FieldError[] {
    const errors: FieldError[] = [];
    if (part !== 'status' && this.#mainRules !== undefined) {
      errors.push(...evaluateRules(this.#mainRules, object, old, []));
    }
    if (part === 'main') return errors;
    if (part === 'status' && this.#rootRulesOnStatus !== undefined) {
      errors.push(...evaluateRules(this.#rootRulesOnStatus, object, old, []));
    }
    if (this.#statusRules !== undefined && object.status !== undefined) {
      errors.push(...evaluateRules(this.#statusRules, object.status, old?.status, ['status']));
    }
    return errors;
  }

  #check(object: JsonObject, old: JsonObject | undefined, part: ObjectPart | 'all'): FieldError[] {
    const errors = part === 'status' ? [] : this.#checkMetadata(object);
    errors.push(...this.#checkSchema(object, part));
    if (!errors.some((error) => blocksRules.has(error.type))) errors.push(...this.#checkRules(object, old, part));
    if (part !== 'status') errors.push(...(this.description.check?.(object, old) ?? []));
    return errors;
  }

  checkCreate(object: JsonObject): FieldError[] {
    return this.#check(object, undefined, this.description.hasStatus ? 'main' : 'all');
  }

  checkUpdate(object: JsonObject, old: JsonObject, part: ObjectPart): FieldError[] {
    const errors = this.#check(object, old, this.description.hasStatus ? part : 'all');
    return errors.length === 0 ? errors : errors.filter((error) => !isOldNews(error, object, old));
  }

  validateCreate(object: JsonObject): ValidationResult {
    const copy = copyJson(object);
    const decoding = this.decodingErrors(copy);
    this.normalize(copy);
    const shaped = isObject(copy.metadata) ? copy : { ...copy, metadata: {} };
    return { object: copy, errors: decoding.length > 0 ? decoding : this.checkCreate(shaped) };
  }

  validateUpdate(object: JsonObject, old: JsonObject): ValidationResult {
    const copy = copyJson(object);
    const decoding = this.decodingErrors(copy);
    this.normalize(copy);
    return { object: copy, errors: decoding.length > 0 ? decoding : this.checkUpdate(copy, old, 'main') };
  }
}

/** @throws Error when the schema or one of its rules does not compile. */
export function compileKind(description: KindDescription): CompiledKind {
  return new Kind(description);
}

/**
 * Validation of values by ajv, with its findings turned into Kubernetes' field errors.
 *
 * Invariant: what ajv sees is plain JSON Schema; everything Kubernetes adds (nullable, int-or-string, formats, unique lists) is
 * translated here, so that no rule of the contract is silently skipped.
 */
import { Ajv, type ErrorObject, type SchemaValidateFunction, type ValidateFunction } from 'ajv';
import { fieldError, pathOf, type Segments } from './errors.ts';
import { numberFormats, stringFormats } from './formats.ts';
import { type FieldError, isObject, type JsonObject, type JsonSchema, type JsonValue } from './types.ts';

/** Errors beyond this many help nobody and cost a hostile sender nothing. */
const mostErrors = 64;

/** Our keyword for `x-kubernetes-list-type: set | map`; its value lists the keys, none for a set. */
const uniqueKeyword = 'kubernetesUnique';

/** Patterns are Go's; JavaScript's `u` flag would refuse escapes that Go allows, such as `\\-`. */
const goPatterns = { unicodeRegExp: false };

function makeAjv(): Ajv {
  const ajv = new Ajv({
    strict: false,
    allErrors: true,
    verbose: true,
    allowUnionTypes: true,
    logger: false,
    ...goPatterns,
  });
  for (const [name, validate] of Object.entries(stringFormats)) ajv.addFormat(name, { type: 'string', validate });
  for (const [name, validate] of Object.entries(numberFormats)) ajv.addFormat(name, { type: 'number', validate });
  const checkUnique: SchemaValidateFunction = (keys: string[], list: unknown[]) => {
    const seen = new Set<string>();
    const errors: Partial<ErrorObject>[] = [];
    list.forEach((item, index) => {
      const identity: unknown =
        keys.length === 0 ? item : Object.fromEntries(keys.map((key) => [key, isObject(item) ? item[key] : undefined]));
      const text = JSON.stringify(identity) ?? '';
      if (seen.has(text)) errors.push({ keyword: uniqueKeyword, params: { index, identity } });
      seen.add(text);
    });
    checkUnique.errors = errors;
    return errors.length === 0;
  };
  ajv.addKeyword({ keyword: uniqueKeyword, type: 'array', schemaType: 'array', validate: checkUnique, errors: 'full' });
  return ajv;
}

const copiedKeywords = [
  'multipleOf',
  'minLength',
  'maxLength',
  'pattern',
  'minItems',
  'maxItems',
  'uniqueItems',
  'minProperties',
  'maxProperties',
  'required',
] as const;

function translateBounds(schema: JsonSchema, out: Record<string, unknown>): void {
  if (schema.minimum !== undefined) out[schema.exclusiveMinimum ? 'exclusiveMinimum' : 'minimum'] = schema.minimum;
  if (schema.maximum !== undefined) out[schema.exclusiveMaximum ? 'exclusiveMaximum' : 'maximum'] = schema.maximum;
}

function translateComposition(schema: JsonSchema, out: Record<string, unknown>): void {
  for (const keyword of ['allOf', 'anyOf', 'oneOf'] as const) {
    if (schema[keyword] !== undefined) out[keyword] = schema[keyword].map(translate);
  }
  if (schema.not !== undefined) out.not = translate(schema.not);
}

/** A structural schema as the JSON Schema that ajv compiles. */
function translate(schema: JsonSchema): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  const types: string[] = schema['x-kubernetes-int-or-string']
    ? ['integer', 'string']
    : schema.type === undefined
      ? []
      : [schema.type];
  if (types.length > 0) out.type = schema.nullable ? [...types, 'null'] : types.length === 1 ? types[0] : types;
  for (const keyword of copiedKeywords) if (schema[keyword] !== undefined) out[keyword] = schema[keyword];
  translateBounds(schema, out);
  if (schema.enum !== undefined) out.enum = schema.nullable ? [...schema.enum, null] : schema.enum;
  const format = schema.format;
  if (format !== undefined && (format in stringFormats || format in numberFormats)) out.format = format;
  if (schema.properties !== undefined) {
    out.properties = Object.fromEntries(Object.entries(schema.properties).map(([key, sub]) => [key, translate(sub)]));
  }
  if (isObject(schema.additionalProperties)) out.additionalProperties = translate(schema.additionalProperties);
  if (schema.items !== undefined) out.items = translate(schema.items);
  translateComposition(schema, out);
  const listType = schema['x-kubernetes-list-type'];
  if (listType === 'set') out[uniqueKeyword] = [];
  if (listType === 'map') out[uniqueKeyword] = schema['x-kubernetes-list-map-keys'] ?? [];
  return out;
}

/** A JSON pointer as segments; whether `3` is a position or a key is seen in the value. */
function segmentsOf(pointer: string, root: JsonValue): (string | number)[] {
  const segments: (string | number)[] = [];
  let here: JsonValue | undefined = root;
  for (const part of pointer.split('/').slice(1)) {
    const key = part.replaceAll('~1', '/').replaceAll('~0', '~');
    if (Array.isArray(here)) {
      segments.push(Number(key));
      here = here[Number(key)];
    } else {
      segments.push(key);
      here = isObject(here) ? here[key] : undefined;
    }
  }
  return segments;
}

function typeName(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'array';
  if (typeof value === 'number') return Number.isInteger(value) ? 'integer' : 'number';
  return typeof value;
}

function typeInvalid(segments: Segments, expected: string, value: unknown): FieldError {
  const actual = typeName(value);
  const detail = `${pathOf(segments)} in body must be of type ${expected}: ${JSON.stringify(actual)}`;
  return fieldError('FieldValueTypeInvalid', segments, detail, actual);
}

/** Sentences for the keywords that are all worded alike: `<path> in body <sentence>`. */
const invalidSentences: Record<string, (limit: unknown) => string> = {
  minimum: (limit) => `should be greater than or equal to ${limit}`,
  exclusiveMinimum: (limit) => `should be greater than ${limit}`,
  maximum: (limit) => `should be less than or equal to ${limit}`,
  exclusiveMaximum: (limit) => `should be less than ${limit}`,
  multipleOf: (limit) => `should be a multiple of ${limit}`,
  minLength: (limit) => `should be at least ${limit} chars long`,
  minItems: (limit) => `should have at least ${limit} items`,
  minProperties: (limit) => `should have at least ${limit} properties`,
  pattern: (limit) => `should match '${limit}'`,
};

function translateError(error: ErrorObject, segments: (string | number)[]): FieldError | undefined {
  const value = error.data as JsonValue;
  const path = pathOf(segments);
  const sentence = invalidSentences[error.keyword];
  if (sentence !== undefined) {
    return fieldError('FieldValueInvalid', segments, `${path} in body ${sentence(error.schema)}`, value);
  }
  switch (error.keyword) {
    case 'required':
      return fieldError('FieldValueRequired', [...segments, String(error.params.missingProperty)], '');
    case 'type': {
      const expected = [error.params.type].flat().filter((type) => type !== 'null');
      return typeInvalid(segments, expected.join(','), value);
    }
    case 'enum': {
      const supported = (error.params.allowedValues as JsonValue[]).filter((allowed) => allowed !== null);
      const list = supported.map((allowed) => JSON.stringify(String(allowed))).join(', ');
      return fieldError('FieldValueNotSupported', segments, `supported values: ${list}`, value);
    }
    case 'maxLength':
      return fieldError('FieldValueTooLong', segments, `may not be more than ${error.schema} bytes`, value);
    case 'maxItems':
    case 'maxProperties': {
      const actual = Array.isArray(value) ? value.length : Object.keys(value as JsonObject).length;
      return fieldError('FieldValueTooMany', segments, `must have at most ${error.schema} items`, actual);
    }
    case 'format': {
      const detail = `${path} in body must be of type ${error.schema}: ${JSON.stringify(value)}`;
      return fieldError('FieldValueTypeInvalid', segments, detail, value);
    }
    case uniqueKeyword:
      return fieldError(
        'FieldValueDuplicate',
        [...segments, Number(error.params.index)],
        '',
        error.params.identity as JsonValue,
      );
    case 'anyOf':
      return fieldError('FieldValueInvalid', segments, `"${path}" must validate at least one schema (anyOf)`, value);
    case 'oneOf':
      return fieldError(
        'FieldValueInvalid',
        segments,
        `"${path}" must validate one and only one schema (oneOf)`,
        value,
      );
    case 'not':
      return fieldError('FieldValueInvalid', segments, `"${path}" must not validate the schema (not)`, value);
    default:
      return fieldError('FieldValueInvalid', segments, `${path} in body ${error.message ?? 'is not valid'}`, value);
  }
}

/** Checks a value; an empty list means that it is valid. */
export type ValueValidator = (value: JsonValue) => FieldError[];

/**
 * Compiles a schema.
 * @param at where in the object the value stands, for the paths of errors.
 * @throws Error when the schema itself is wrong (a pattern that does not compile, for instance).
 */
export function compileValidator(schema: JsonSchema, at: readonly string[]): ValueValidator {
  const check: ValidateFunction = makeAjv().compile(translate(schema));
  return (value) => {
    if (check(value)) return [];
    const errors: FieldError[] = [];
    for (const error of check.errors ?? []) {
      if (errors.length >= mostErrors) break;
      const translated = translateError(error, [...at, ...segmentsOf(error.instancePath, value)]);
      if (translated !== undefined) errors.push(translated);
    }
    return errors;
  };
}

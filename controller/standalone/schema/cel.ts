/**
 * CEL rules (`x-kubernetes-validations`) of a structural schema, compiled once and evaluated per object.
 *
 * Invariants:
 * 1. A rule that does not compile is an error of the CRD, found when it is loaded.
 * 2. A rule that uses `oldSelf` is a transition rule: it is only evaluated where an old value corresponds to the new one (never for
 *    items of a list that is not of list-type map), unless it asks for `optionalOldSelf`.
 * 3. Numbers of an integer schema reach CEL as BigInt: CEL's `int`.
 */
import { type Environment, Optional, type ParseResult } from '@marcbachmann/cel-js';
import { validationEnvironment } from './cel-library.ts';
import { fieldError, type Segments } from './errors.ts';
import { type FieldError, isObject, type JsonObject, type JsonSchema, type JsonValue } from './types.ts';

interface CompiledRule {
  readonly program: ParseResult;
  readonly messageProgram: ParseResult | undefined;
  readonly detail: string;
  readonly rule: string;
  readonly type: 'FieldValueInvalid' | 'FieldValueForbidden' | 'FieldValueRequired' | 'FieldValueDuplicate';
  readonly fieldPath: readonly string[];
  readonly usesOldSelf: boolean;
  readonly optionalOldSelf: boolean;
}

export interface RuleNode {
  readonly schema: JsonSchema;
  readonly rules: readonly CompiledRule[];
  readonly properties: ReadonlyMap<string, RuleNode>;
  readonly additional: RuleNode | undefined;
  readonly items: RuleNode | undefined;
}

/** Longest text that a messageExpression may give, in characters (Kubernetes' limit in bytes). */
const longestMessage = 5 * 1024;

/** Words that CEL keeps for itself; fields of that name are written `__name__` in rules. */
const reservedWords = new Set(
  'true false null in as break const continue else for function if import let loop package namespace return var void while'.split(
    ' ',
  ),
);

function escapedName(name: string): string | undefined {
  if (reservedWords.has(name)) return `__${name}__`;
  if (!/^[A-Za-z_./-][A-Za-z0-9_./-]*$/.test(name)) return undefined;
  return name
    .replaceAll('__', '__underscores__')
    .replaceAll('.', '__dot__')
    .replaceAll('-', '__dash__')
    .replaceAll('/', '__slash__');
}

let shared:
  | { environment: Environment; withOptional: Environment; duration: ParseResult; timestamp: ParseResult }
  | undefined;
function library(): NonNullable<typeof shared> {
  if (shared === undefined) {
    const environment = validationEnvironment('dyn');
    shared = {
      environment,
      withOptional: validationEnvironment('optional<dyn>'),
      duration: environment.parse('duration(self)'),
      timestamp: environment.parse('timestamp(self)'),
    };
  }
  return shared;
}

/** Fields without a schema: whole numbers are int, as in Kubernetes' dynamic values. */
function dynamicToCel(value: JsonValue): unknown {
  if (typeof value === 'number') return Number.isSafeInteger(value) ? BigInt(value) : value;
  if (Array.isArray(value)) return value.map(dynamicToCel);
  if (!isObject(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, dynamicToCel(item ?? null)]));
}

function stringToCel(text: string, format: string | undefined): unknown {
  if (format === 'date-time') return library().timestamp({ self: text });
  if (format === 'duration') return library().duration({ self: text });
  return text;
}

function objectToCel(value: JsonObject, schema: JsonSchema): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  const additional = isObject(schema.additionalProperties) ? (schema.additionalProperties as JsonSchema) : undefined;
  for (const key of Object.keys(value)) {
    const item = value[key] ?? null;
    const property = schema.properties?.[key];
    if (property !== undefined) {
      const name = escapedName(key);
      if (name !== undefined) out[name] = toCel(item, property);
    } else out[key] = additional === undefined ? dynamicToCel(item) : toCel(item, additional);
  }
  return out;
}

function toCel(value: JsonValue, schema: JsonSchema): unknown {
  if (typeof value === 'number') {
    return schema.type === 'number' || !Number.isInteger(value) ? value : BigInt(value);
  }
  if (typeof value === 'string') return stringToCel(value, schema.format);
  if (Array.isArray(value)) {
    const items = schema.items;
    return items === undefined ? value.map(dynamicToCel) : value.map((item) => toCel(item, items));
  }
  return isObject(value) ? objectToCel(value, schema) : value;
}

/** `.spec.image` or `.spec['a.b']` as keys. */
function fieldPathKeys(path: string): string[] {
  return [...path.matchAll(/\.([^.[]+)|\['((?:[^'\\]|\\.)*)'\]/g)].map((match) => match[1] ?? match[2] ?? '');
}

/** Compiles the rules of a schema; undefined when it has none. @throws Error naming the rule that does not compile. */
export function compileRules(schema: JsonSchema, at = ''): RuleNode | undefined {
  const { environment, withOptional } = library();
  const parse = (expression: string, optionalOldSelf: boolean): ParseResult => {
    const program = (optionalOldSelf ? withOptional : environment).parse(expression);
    const checked = program.check();
    if (!checked.valid) throw checked.error ?? new Error('does not type-check');
    return program;
  };
  const rules = (schema['x-kubernetes-validations'] ?? []).map((rule): CompiledRule => {
    const optionalOldSelf = rule.optionalOldSelf === true;
    try {
      return {
        program: parse(rule.rule, optionalOldSelf),
        messageProgram:
          rule.messageExpression === undefined ? undefined : parse(rule.messageExpression, optionalOldSelf),
        detail: rule.message?.trim() || `failed rule: ${rule.rule.trim()}`,
        rule: rule.message?.trim() || rule.rule.trim(),
        type: rule.reason ?? 'FieldValueInvalid',
        fieldPath: fieldPathKeys(rule.fieldPath ?? ''),
        usesOldSelf: /\boldSelf\b/.test(rule.rule),
        optionalOldSelf,
      };
    } catch (cause) {
      throw new Error(`rule at ${at || 'the root'} does not compile: ${rule.rule}: ${(cause as Error).message}`, {
        cause,
      });
    }
  });
  const properties = new Map<string, RuleNode>();
  for (const [key, sub] of Object.entries(schema.properties ?? {})) {
    const child = compileRules(sub, `${at}.${key}`);
    if (child !== undefined) properties.set(key, child);
  }
  const additional = isObject(schema.additionalProperties)
    ? compileRules(schema.additionalProperties as JsonSchema, `${at}.*`)
    : undefined;
  const items = schema.items === undefined ? undefined : compileRules(schema.items, `${at}[]`);
  if (rules.length === 0 && properties.size === 0 && additional === undefined && items === undefined) return undefined;
  return { schema, rules, properties, additional, items };
}

function messageOf(rule: CompiledRule, variables: Record<string, unknown>): string {
  if (rule.messageProgram === undefined) return rule.detail;
  try {
    const text: unknown = rule.messageProgram(variables);
    if (typeof text !== 'string') return rule.detail;
    const trimmed = text.trim();
    return trimmed === '' || trimmed.includes('\n') || trimmed.length > longestMessage ? rule.detail : trimmed;
  } catch {
    return rule.detail; // Kubernetes also falls back to `message`.
  }
}

function applyRules(node: RuleNode, value: JsonValue, old: JsonValue | undefined, at: Segments): FieldError[] {
  const errors: FieldError[] = [];
  let self: unknown;
  let oldSelf: unknown;
  let converted = false;
  for (const rule of node.rules) {
    if (rule.usesOldSelf && (old === undefined || old === null) && !rule.optionalOldSelf) continue;
    const typeName = node.schema.type ?? 'object';
    try {
      if (!converted) {
        self = toCel(value, node.schema);
        oldSelf = old === undefined || old === null ? undefined : toCel(old, node.schema);
        converted = true;
      }
      const variables: Record<string, unknown> = { self };
      if (rule.optionalOldSelf) variables.oldSelf = oldSelf === undefined ? Optional.none() : Optional.of(oldSelf);
      else if (oldSelf !== undefined) variables.oldSelf = oldSelf;
      if (rule.program(variables) === true) continue;
      // Texts and numbers are shown; whole objects and lists would hide the message.
      const shown = typeof value === 'object' ? undefined : value;
      errors.push(fieldError(rule.type, [...at, ...rule.fieldPath], messageOf(rule, variables), shown));
    } catch (error) {
      const reason = (error as Error).message.split('\n')[0] ?? '';
      errors.push(fieldError('FieldValueInvalid', at, `${reason} evaluating rule: ${rule.rule}`, typeName));
    }
  }
  return errors;
}

/** The old item with the same keys, for lists of list-type map; other lists have no correspondence. */
function oldItem(schema: JsonSchema, item: JsonValue, old: JsonValue | undefined): JsonValue | undefined {
  const keys = schema['x-kubernetes-list-map-keys'];
  if (schema['x-kubernetes-list-type'] !== 'map' || keys === undefined || !Array.isArray(old)) return undefined;
  if (!isObject(item)) return undefined;
  return old.find((candidate) => isObject(candidate) && keys.every((key) => candidate[key] === item[key]));
}

/** Evaluates all rules at and below a node. `old` is the value that this one replaces, if there is one. */
export function evaluateRules(
  node: RuleNode,
  value: JsonValue,
  old: JsonValue | undefined,
  at: Segments,
): FieldError[] {
  if (value === null) return [];
  const errors = applyRules(node, value, old, at);
  if (Array.isArray(value)) {
    const { items } = node;
    if (items === undefined) return errors;
    value.forEach((item, i) => {
      errors.push(...evaluateRules(items, item, oldItem(node.schema, item, old), [...at, i]));
    });
    return errors;
  }
  if (!isObject(value)) return errors;
  const oldObject = isObject(old) ? old : {};
  for (const [key, child] of node.properties) {
    const item = value[key];
    if (item !== undefined) errors.push(...evaluateRules(child, item, oldObject[key], [...at, key]));
  }
  if (node.additional !== undefined) {
    for (const [key, item] of Object.entries(value)) {
      if (node.schema.properties?.[key] !== undefined || item === undefined) continue;
      errors.push(...evaluateRules(node.additional, item, oldObject[key], [...at, key]));
    }
  }
  return errors;
}

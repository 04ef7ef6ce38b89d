/**
 * Pruning, defaulting and the search for unknown fields along a structural schema.
 *
 * Invariants:
 * 1. Values are changed in place: callers hand over objects that they own.
 * 2. Recursion is bounded by the schema's depth, never by the value's.
 */
import { nearestName, pathOf } from './errors.ts';
import { isObject, type JsonObject, type JsonSchema, type JsonValue } from './types.ts';

/** A schema with what the walks ask for again and again precomputed. */
export interface ShapeNode {
  readonly schema: JsonSchema;
  readonly properties: ReadonlyMap<string, ShapeNode>;
  readonly additional: ShapeNode | undefined;
  readonly items: ShapeNode | undefined;
  readonly preservesUnknown: boolean;
  /** A default stands here or below. */
  readonly hasDefaults: boolean;
}

export function shapeOf(schema: JsonSchema): ShapeNode {
  const properties = new Map(Object.entries(schema.properties ?? {}).map(([key, sub]) => [key, shapeOf(sub)]));
  const additional = isObject(schema.additionalProperties) ? shapeOf(schema.additionalProperties) : undefined;
  const items = schema.items === undefined ? undefined : shapeOf(schema.items);
  const children = [...properties.values(), additional, items];
  return {
    schema,
    properties,
    additional,
    items,
    preservesUnknown: schema['x-kubernetes-preserve-unknown-fields'] === true || schema.additionalProperties === true,
    hasDefaults: children.some((child) => child?.hasDefaults || child?.schema.default !== undefined),
  };
}

/** What a walk calls for a field that the schema does not know; it decides whether the field stays. */
type UnknownField = (owner: JsonObject, key: string, path: readonly (string | number)[], known: ShapeNode) => void;

function walkUnknown(value: unknown, node: ShapeNode, path: (string | number)[], report: UnknownField): void {
  if (Array.isArray(value)) {
    const { items } = node;
    if (items === undefined) return;
    for (let i = 0; i < value.length; i++) {
      path.push(i);
      walkUnknown(value[i], items, path, report);
      path.pop();
    }
    return;
  }
  if (!isObject(value) || (node.schema.type !== undefined && node.schema.type !== 'object')) return;
  for (const key of Object.keys(value)) {
    const child = node.properties.get(key) ?? node.additional;
    if (child !== undefined) {
      path.push(key);
      walkUnknown(value[key], child, path, report);
      path.pop();
    } else if (!node.preservesUnknown) report(value, key, path, node);
  }
}

/** Removes every field that the schema does not know. */
export function prune(value: unknown, node: ShapeNode): void {
  walkUnknown(value, node, [], (owner, key) => {
    delete owner[key];
  });
}

/** `unknown field "spec.replcas" (did you mean "replicas"?)`, at most `limit` of them. */
export function unknownFields(value: unknown, node: ShapeNode, at: readonly (string | number)[], limit = 32): string[] {
  const found: string[] = [];
  walkUnknown(value, node, [...at], (_owner, key, path, known) => {
    if (found.length >= limit) return;
    found.push(describeUnknown(pathOf([...path, key]), key, known.properties.keys()));
  });
  return found;
}

export function describeUnknown(path: string, key: string, siblings: Iterable<string>): string {
  const meant = nearestName(key, siblings);
  return `unknown field ${JSON.stringify(path)}${meant === undefined ? '' : ` (did you mean ${JSON.stringify(meant)}?)`}`;
}

/** A deep copy of plain JSON. */
export function copyJson<T extends JsonValue | undefined>(value: T): T {
  if (Array.isArray(value)) return value.map((item) => copyJson(item)) as T;
  if (!isObject(value)) return value;
  const copy: JsonObject = {};
  for (const key of Object.keys(value)) {
    // A hostile "__proto__" assigned would become the copy's prototype, and its members would count as given.
    if (key === '__proto__')
      Object.defineProperty(copy, key, {
        value: copyJson(value[key]),
        enumerable: true,
        configurable: true,
        writable: true,
      });
    else copy[key] = copyJson(value[key]);
  }
  return copy as T;
}

/** Removes nulls from fields that may not be null: the API takes them for "not given". Items of lists stay, to be refused. */
export function dropNulls(value: unknown, node: ShapeNode): void {
  if (Array.isArray(value)) {
    if (node.items !== undefined) for (const item of value) dropNulls(item, node.items);
    return;
  }
  if (!isObject(value)) return;
  for (const key of Object.keys(value)) {
    const child = node.properties.get(key) ?? node.additional;
    if (child === undefined) continue;
    if (value[key] === null && child.schema.nullable !== true) delete value[key];
    else dropNulls(value[key], child);
  }
}

/** Fills in defaults. */
export function applyDefaults(value: unknown, node: ShapeNode): void {
  if (!node.hasDefaults) return;
  if (Array.isArray(value)) {
    if (node.items !== undefined) for (const item of value) applyDefaults(item, node.items);
    return;
  }
  if (!isObject(value)) return;
  for (const [key, child] of node.properties) {
    const standard = child.schema.default;
    if (standard !== undefined && value[key] === undefined) value[key] = copyJson(standard);
    if (child.hasDefaults) applyDefaults(value[key], child);
  }
  if (node.additional === undefined) return;
  for (const key of Object.keys(value)) {
    if (!node.properties.has(key)) applyDefaults(value[key], node.additional);
  }
}

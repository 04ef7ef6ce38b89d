/**
 * A static estimate of what a CEL rule of a CRD may cost at worst, in the units and with the limits of a kube-apiserver.
 *
 * It follows the published cost model (a step costs 1, text costs a tenth of its length, a macro its body per element, a rule as often as
 * its place can occur), rounded up. What it does not know: the exact cost of extension libraries, which it counts like text functions
 * over all their arguments. It is meant to catch a rule over unbounded data, which misses the limits by orders of magnitude; a rule
 * within a factor of two of a limit must be tried on a real server.
 */
import { type ASTNode, parse } from '@marcbachmann/cel-js';
import type { JsonSchema } from '../../controller/standalone/schema/index.ts';

/** apiextensions-apiserver, validation.StaticEstimatedCostLimit and StaticEstimatedCRDCostLimit. */
export const ruleCostLimit = 10_000_000;
export const crdCostLimit = 100_000_000;

/** What a request may hold at most, and so what stands where a schema gives no bound. */
const requestBytes = 3 * 1024 * 1024;

interface Value {
  readonly cost: number;
  /** Characters of a text, elements of a list or map, 1 for a number. */
  readonly size: number;
  readonly schema: JsonSchema | undefined;
}

type Scope = ReadonlyMap<string, JsonSchema>;

/** Number of elements or characters that an instance may have. */
function elements(schema: JsonSchema | undefined): number {
  if (schema === undefined) return requestBytes;
  if (schema.enum !== undefined) return Math.max(...schema.enum.map((value) => String(value).length));
  if (schema.type === 'string') return schema.maxLength ?? requestBytes;
  if (schema.type === 'array') return schema.maxItems ?? requestBytes;
  if (typeof schema.additionalProperties === 'object') return schema.maxProperties ?? requestBytes;
  return 1;
}

/** Size of everything in an instance: what a comparison of two of them may have to read. */
function weight(schema: JsonSchema | undefined): number {
  if (schema === undefined) return requestBytes;
  if (schema.items !== undefined) return elements(schema) * weight(schema.items);
  if (typeof schema.additionalProperties === 'object') return elements(schema) * weight(schema.additionalProperties);
  if (schema.properties === undefined) return elements(schema);
  return Object.values(schema.properties).reduce((sum, property) => sum + weight(property), 1);
}

function member(schema: JsonSchema | undefined, name: string): JsonSchema | undefined {
  const plain = name.replace(/^__(.*)__$/, '$1');
  const additional = schema?.additionalProperties;
  return (
    schema?.properties?.[name] ??
    schema?.properties?.[plain] ??
    (typeof additional === 'object' ? additional : undefined)
  );
}

const macros = new Set(['all', 'exists', 'exists_one', 'map', 'filter']);
const scalar = (cost: number): Value => ({ cost, size: 1, schema: { type: 'integer' } });
const textCost = (size: number): number => Math.ceil(size * 0.1);

function macro(name: string, source: Value, args: readonly ASTNode[], scope: Scope): Value {
  const [variable, ...bodies] = args;
  const item = source.schema?.items ?? ({ type: 'string' } as JsonSchema);
  const inner = new Map(scope);
  if (variable?.op === 'id') inner.set(variable.args, item);
  const body = bodies.reduce((sum, node) => sum + estimate(node, inner).cost, 0);
  const cost = source.cost + source.size * (body + 2);
  return name === 'map' || name === 'filter' ? { cost, size: source.size, schema: source.schema } : scalar(cost);
}

function call(name: string, values: readonly Value[]): Value {
  const own = values.reduce((sum, value) => sum + value.cost, 1);
  const [first, second] = values;
  if (name === 'size' || name === 'has') return scalar(own);
  if (name === 'matches')
    return scalar(own + (textCost(first?.size ?? 0) + 1) * Math.max(1, (second?.size ?? 0) * 0.25));
  if (name === 'contains') return scalar(own + textCost(first?.size ?? 0) * (second?.size ?? 1));
  const size = values.reduce((sum, value) => sum + value.size, 0);
  return { cost: own + textCost(size), size, schema: { type: 'string', maxLength: size } };
}

function binary(node: { op: string; args: readonly [ASTNode, ASTNode] }, scope: Scope): Value {
  const [left, right] = [estimate(node.args[0], scope), estimate(node.args[1], scope)];
  const own = left.cost + right.cost + 1;
  if (node.op === 'in') return scalar(own + right.size * (textCost(left.size) + 1));
  const compares = ['==', '!=', '<', '<=', '>', '>='].includes(node.op);
  if (compares) return scalar(own + textCost(Math.min(weight(left.schema), weight(right.schema))));
  if (node.op === '+')
    return { cost: own + textCost(left.size + right.size), size: left.size + right.size, schema: left.schema };
  if (node.op === '[]') {
    const schema = left.schema?.items ?? member(left.schema, '');
    return { cost: own, size: elements(schema), schema };
  }
  return scalar(own);
}

function estimate(node: ASTNode, scope: Scope): Value {
  switch (node.op) {
    case 'value': {
      const text = typeof node.args === 'string' ? node.args : undefined;
      return text === undefined
        ? scalar(0)
        : { cost: 0, size: text.length, schema: { type: 'string', maxLength: text.length } };
    }
    case 'id': {
      const schema = scope.get(node.args);
      return { cost: 1, size: elements(schema), schema };
    }
    case '.':
    case '.?': {
      const of = estimate(node.args[0], scope);
      const schema = member(of.schema, node.args[1]);
      return { cost: of.cost + 1, size: elements(schema), schema };
    }
    case 'call':
      return call(
        node.args[0],
        node.args[1].map((argument) => estimate(argument, scope)),
      );
    case 'rcall': {
      const [name, receiver, args] = node.args;
      const source = estimate(receiver, scope);
      if (macros.has(name)) return macro(name, source, args, scope);
      return call(name, [source, ...args.map((argument) => estimate(argument, scope))]);
    }
    case 'list': {
      const items = node.args.map((item) => estimate(item, scope));
      const cost = items.reduce((sum, item) => sum + item.cost, 10);
      return {
        cost,
        size: items.length,
        schema: { type: 'array', maxItems: items.length, items: items[0]?.schema ?? {} },
      };
    }
    case 'map': {
      const cost = node.args.flat().reduce((sum, item) => sum + estimate(item, scope).cost, 30);
      return {
        cost,
        size: node.args.length,
        schema: { type: 'object', maxProperties: node.args.length, additionalProperties: {} },
      };
    }
    case '?:': {
      const [condition, yes, no] = node.args.map((part) => estimate(part, scope));
      const dearer = (yes?.cost ?? 0) > (no?.cost ?? 0) ? yes : no;
      return {
        cost: (condition?.cost ?? 0) + (dearer?.cost ?? 0) + 1,
        size: dearer?.size ?? 1,
        schema: dearer?.schema,
      };
    }
    case '!_':
    case '-_':
      return scalar(estimate(node.args, scope).cost + 1);
    default:
      return binary(node, scope);
  }
}

export interface RuleCost {
  readonly path: string;
  readonly rule: string;
  /** For the whole object: the cost of one evaluation times the places where it happens. */
  readonly cost: number;
}

/** The cost of every rule below a schema. */
export function ruleCosts(schema: JsonSchema, path = '', places = 1): RuleCost[] {
  const scope: Scope = new Map([
    ['self', schema],
    ['oldSelf', schema],
  ]);
  const own = (schema['x-kubernetes-validations'] ?? []).map(({ rule }) => ({
    path,
    rule,
    cost: places * estimate(parse(rule).ast, scope).cost,
  }));
  const { items, properties = {}, additionalProperties } = schema;
  return [
    ...own,
    ...Object.entries(properties).flatMap(([name, property]) => ruleCosts(property, `${path}.${name}`, places)),
    ...(items === undefined ? [] : ruleCosts(items, `${path}[]`, places * elements(schema))),
    ...(typeof additionalProperties === 'object'
      ? ruleCosts(additionalProperties, `${path}{}`, places * elements(schema))
      : []),
  ];
}

/**
 * The part of JSONPath that printer columns use: fields, positions, `[*]` and filters by equality.
 *
 * Invariant: a path outside this part is refused when its CRD is loaded, not when somebody lists.
 */
import { isObject, type JsonValue } from './schema/types.ts';

type Step = (values: JsonValue[]) => JsonValue[];

const token =
  /\.\.|\.?\[\s*\?\(\s*@\.([\w.-]+)\s*==\s*(?:"([^"]*)"|'([^']*)')\s*\)\s*\]|\.?\[\s*(\*|-?\d+|'[^']*'|"[^"]*")\s*\]|\.((?:[\w$/-]|\\.)+|\*)/y;

const present = (value: JsonValue | undefined): value is JsonValue => value !== undefined && value !== null;

function field(name: string): Step {
  return (values) => values.map((value) => (isObject(value) ? value[name] : undefined)).filter(present);
}

function every(values: JsonValue[]): JsonValue[] {
  return values
    .flatMap((value): (JsonValue | undefined)[] =>
      Array.isArray(value) ? value : isObject(value) ? Object.values(value) : [],
    )
    .filter(present);
}

function position(index: number): Step {
  return (values) => values.map((value) => (Array.isArray(value) ? value.at(index) : undefined)).filter(present);
}

function where(path: string, wanted: string): Step {
  const steps = path.split('.').map(field);
  return (values) =>
    every(values.filter((value) => Array.isArray(value))).filter((item) => {
      const [found] = steps.reduce<JsonValue[]>((found, step) => step(found), [item]);
      return found !== undefined && String(found) === wanted;
    });
}

/** Compiles a path such as `.status.conditions[?(@.type=="Ready")].status`. @throws Error naming what it does not understand. */
export function compileJsonPath(path: string): (value: JsonValue) => JsonValue[] {
  const text = path.replace(/^\{(.*)\}$/, '$1').replace(/^\$/, '');
  const dotted = text.startsWith('.') || text.startsWith('[') ? text : `.${text}`;
  const steps: Step[] = [];
  token.lastIndex = 0;
  let at = 0;
  while (at < dotted.length) {
    token.lastIndex = at;
    const match = token.exec(dotted);
    const [whole, filterPath, doubleQuoted, singleQuoted, bracket, name] = match ?? [];
    if (whole === undefined || whole === '..') {
      throw new Error(`JSONPath ${JSON.stringify(path)}: cannot understand ${JSON.stringify(dotted.slice(at))}`);
    }
    if (filterPath !== undefined) steps.push(where(filterPath, doubleQuoted ?? singleQuoted ?? ''));
    else if (bracket === '*' || name === '*') steps.push(every);
    else if (bracket !== undefined && /^-?\d+$/.test(bracket)) steps.push(position(Number(bracket)));
    else steps.push(field(bracket === undefined ? (name ?? '').replaceAll(/\\(.)/g, '$1') : bracket.slice(1, -1)));
    at += whole.length;
  }
  return (value) => steps.reduce<JsonValue[]>((values, step) => step(values), [value]);
}

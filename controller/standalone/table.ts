/**
 * `meta.k8s.io/v1` Tables: the columns of `kubectl get`.
 *
 * Columns of CRDs are JSONPath; those of built-in kinds may also use the forms of `special` below.
 */

import { compileJsonPath } from './jsonpath.ts';
import { metaOf } from './meta.ts';
import type { ResourceDefinition } from './resources.ts';
import type { PrinterColumn } from './schema/index.ts';
import { isObject, type JsonObject, type JsonValue } from './schema/types.ts';
import { badRequest } from './status.ts';

type Cell = (object: JsonObject, nowMs: number) => JsonValue;

/** A span as kubectl shows ages (k8s.io/apimachinery duration.HumanDuration). `ms` below -2 s is a clock gone wrong. */
export function humanDuration(ms: number): string {
  const seconds = Math.trunc(ms / 1000);
  if (seconds < -1) return '<invalid>';
  if (seconds < 0) return '0s';
  if (seconds < 120) return `${seconds}s`;
  const two = (large: number, largeUnit: string, small: number, smallUnit: string): string =>
    small === 0 ? `${large}${largeUnit}` : `${large}${largeUnit}${small}${smallUnit}`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 10) return two(minutes, 'm', seconds % 60, 's');
  if (minutes < 180) return `${minutes}m`;
  const hours = Math.floor(minutes / 60);
  if (hours < 8) return two(hours, 'h', minutes % 60, 'm');
  if (hours < 48) return `${hours}h`;
  const days = Math.floor(hours / 24);
  if (hours < 24 * 8) return two(days, 'd', hours % 24, 'h');
  if (days < 365 * 2) return `${days}d`;
  const years = Math.floor(days / 365);
  return days < 365 * 8 ? two(years, 'y', days % 365, 'd') : `${years}y`;
}

function ageOf(value: JsonValue | undefined, nowMs: number): JsonValue {
  if (typeof value !== 'string' || value === '') return '<unknown>';
  const then = Date.parse(value);
  return Number.isNaN(then) ? '<invalid>' : humanDuration(nowMs - then);
}

function cellValue(value: JsonValue | undefined, type: string, nowMs: number): JsonValue {
  if (value === undefined || value === null) return null;
  switch (type) {
    case 'date':
      return ageOf(value, nowMs);
    case 'integer':
      return typeof value === 'number' ? Math.trunc(value) : null;
    case 'number':
      return typeof value === 'number' ? value : null;
    case 'boolean':
      return typeof value === 'boolean' ? value : null;
    default:
      return typeof value === 'string' ? value : JSON.stringify(value);
  }
}

/** Forms that built-in kinds need: the number of entries, the first that is there, kind/name of a reference. */
const special: Record<string, (paths: string[], column: PrinterColumn) => Cell> = {
  count: (paths) => (object) => {
    const found = paths.flatMap((path) => compileJsonPath(path)(object));
    return found.reduce<number>((sum, value) => sum + (isObject(value) ? Object.keys(value).length : 0), 0);
  },
  first: (paths, column) => {
    const compiled = paths.map(compileJsonPath);
    return (object, nowMs) => {
      const value = compiled.map((path) => path(object)[0]).find((candidate) => candidate !== undefined);
      return column.type === 'date' ? ageOf(value, nowMs) : cellValue(value, column.type, nowMs);
    };
  },
  object: (paths) => (object) => {
    const [reference] = compileJsonPath(paths[0] ?? '')(object);
    return isObject(reference) ? `${String(reference.kind ?? '').toLowerCase()}/${reference.name ?? ''}` : '';
  },
};

function cellOf(column: PrinterColumn): Cell {
  const form = /^\{(\w+)\}(.*)$/.exec(column.jsonPath);
  const make = form === null ? undefined : special[form[1] ?? ''];
  if (make !== undefined) return make((form?.[2] ?? '').split(','), column);
  const path = compileJsonPath(column.jsonPath);
  return (object, nowMs) => {
    const [value] = path(object);
    if (column.type === 'date' && column.jsonPath === '.metadata.creationTimestamp') return ageOf(value, nowMs);
    return cellValue(value, column.type, nowMs);
  };
}

export type IncludeObject = 'None' | 'Metadata' | 'Object';

export function includeObjectOf(value: string | null): IncludeObject {
  if (value === null || value === '') return 'Metadata';
  if (value === 'None' || value === 'Metadata' || value === 'Object') return value;
  throw badRequest(`includeObject: Unsupported value: ${JSON.stringify(value)}`);
}

/** What metadata clients get instead of the object. */
export function partialMetadata(object: JsonObject): JsonObject {
  return { kind: 'PartialObjectMetadata', apiVersion: 'meta.k8s.io/v1', metadata: metaOf(object) };
}

export class TablePrinter {
  readonly #columns: readonly JsonObject[];
  readonly #cells: readonly Cell[];

  /** @throws Error when a column's path cannot be understood. */
  constructor(definition: ResourceDefinition) {
    const name: JsonObject = {
      name: 'Name',
      type: 'string',
      format: 'name',
      description: 'Name must be unique within a namespace.',
      priority: 0,
    };
    this.#columns = [
      name,
      ...definition.columns.map((column) => ({
        name: column.name,
        type: column.type,
        format: column.format ?? '',
        description: column.description ?? `Custom resource definition column (in JSONPath format): ${column.jsonPath}`,
        priority: column.priority ?? 0,
      })),
    ];
    this.#cells = [(object) => String(metaOf(object).name ?? ''), ...definition.columns.map(cellOf)];
  }

  row(object: JsonObject, include: IncludeObject, nowMs: number): JsonObject {
    const row: JsonObject = { cells: this.#cells.map((cell) => cell(object, nowMs)) };
    if (include === 'Object') row.object = object;
    else if (include === 'Metadata') row.object = partialMetadata(object);
    return row;
  }

  table(rows: JsonObject[], metadata: JsonObject, withHeader = true): JsonObject {
    return {
      kind: 'Table',
      apiVersion: 'meta.k8s.io/v1',
      metadata,
      columnDefinitions: withHeader ? [...this.#columns] : [],
      rows,
    };
  }
}

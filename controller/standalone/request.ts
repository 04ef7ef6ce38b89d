/**
 * What a request asks for: the parts of its path, its parameters, the form of answer that it accepts.
 */
import type { FieldValidation, Propagation } from './objects.ts';
import { fieldError } from './schema/errors.ts';
import * as status from './status.ts';

/** A path below /api or /apis that names a resource. */
export interface ResourcePath {
  readonly group: string;
  readonly version: string;
  readonly namespace: string | undefined;
  readonly plural: string;
  readonly name: string | undefined;
  readonly subresource: string | undefined;
}

/** The resource that a path names, or undefined for all other paths. @throws ApiError 400 for a path that is badly encoded. */
export function parseResourcePath(pathname: string): ResourcePath | undefined {
  let parts: string[];
  try {
    parts = pathname
      .split('/')
      .filter((part) => part !== '')
      .map(decodeURIComponent);
  } catch {
    throw status.badRequest(`the path ${pathname.slice(0, 200)} is not well encoded`);
  }
  const root = parts.shift();
  const group = root === 'api' ? '' : root === 'apis' ? parts.shift() : undefined;
  const version = parts.shift();
  if (group === undefined || version === undefined || parts.length === 0) return undefined;
  // `namespaces/x/things` is in a namespace; `namespaces/x` and its subresources are the namespace itself.
  const inNamespace = parts[0] === 'namespaces' && parts.length > 2 && !['status', 'finalize'].includes(parts[2] ?? '');
  const namespace = inNamespace ? parts[1] : undefined;
  const [plural, name, subresource, ...more] = inNamespace ? parts.slice(2) : parts;
  if (plural === undefined || more.length > 0) return undefined;
  return { group, version, namespace, plural, name, subresource };
}

export type AnswerForm = 'json' | 'yaml' | 'table' | 'metadata';

function formOf(range: string): AnswerForm | undefined {
  const [type = '', ...parameters] = range.split(';').map((part) => part.trim());
  const given = new Map(parameters.map((parameter) => parameter.split('=', 2) as [string, string]));
  const transform = given.get('as');
  if (type === 'application/json') {
    if (transform === undefined) return 'json';
    if (given.get('g') !== 'meta.k8s.io' || given.get('v') !== 'v1') return undefined;
    if (transform === 'Table') return 'table';
    return transform.startsWith('PartialObjectMetadata') ? 'metadata' : undefined;
  }
  if (type === 'application/yaml' && transform === undefined) return 'yaml';
  return type === '*/*' || type === 'application/*' ? 'json' : undefined;
}

/** The first form of the Accept header that this server can give. @throws ApiError 406 when there is none. */
export function negotiate(accept: string | undefined): AnswerForm {
  if (accept === undefined || accept === '') return 'json';
  for (const range of accept.split(',')) {
    const form = formOf(range);
    if (form !== undefined) return form;
  }
  throw new status.ApiError(
    406,
    'NotAcceptable',
    'only the following media types are accepted: application/json, application/json;as=Table;v=v1;g=meta.k8s.io, application/yaml',
  );
}

export function isTrue(value: string | null): boolean {
  return value !== null && value !== 'false' && value !== '0';
}

/** A whole number of 0 or more, or undefined when absent. @throws ApiError 400 otherwise. */
export function countParameter(query: URLSearchParams, name: string): number | undefined {
  const text = query.get(name);
  if (text === null || text === '') return undefined;
  if (!/^\d{1,15}$/.test(text))
    throw status.badRequest(`${name}: Invalid value: ${JSON.stringify(text)}: must be a number`);
  return Number(text);
}

export function dryRunOf(values: readonly string[]): boolean {
  for (const value of values) {
    if (value !== 'All')
      throw status.badRequest(`dryRun: Unsupported value: ${JSON.stringify(value)}: supported values: "All"`);
  }
  return values.length > 0;
}

export function fieldValidationOf(query: URLSearchParams): FieldValidation {
  const value = query.get('fieldValidation') ?? 'Warn';
  if (value === 'Strict' || value === 'Warn' || value === 'Ignore' || value === '')
    return value === '' ? 'Warn' : value;
  throw status.badRequest(
    `fieldValidation: Unsupported value: ${JSON.stringify(value)}: supported values: "", "Ignore", "Strict", "Warn"`,
  );
}

export function propagationOf(value: unknown): Propagation | undefined {
  if (value === undefined || value === null || value === '') return undefined;
  if (value === 'Foreground' || value === 'Background' || value === 'Orphan') return value;
  const detail = 'supported values: "Foreground", "Background", "Orphan"';
  const error = fieldError('FieldValueNotSupported', ['propagationPolicy'], detail, String(value));
  throw status.invalid('meta.k8s.io', 'DeleteOptions', '', [error]);
}

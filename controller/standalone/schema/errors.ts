/**
 * Field errors in Kubernetes' wording (k8s.io/apimachinery/pkg/util/validation/field).
 */
import type { FieldError, FieldErrorType, JsonValue } from './types.ts';

export type Segments = readonly (string | number)[];

const leadingWords: Record<FieldErrorType, string> = {
  FieldValueNotFound: 'Not found',
  FieldValueRequired: 'Required value',
  FieldValueDuplicate: 'Duplicate value',
  FieldValueInvalid: 'Invalid value',
  FieldValueNotSupported: 'Unsupported value',
  FieldValueForbidden: 'Forbidden',
  FieldValueTooLong: 'Too long',
  FieldValueTooMany: 'Too many',
  FieldValueTypeInvalid: 'Invalid value',
  InternalError: 'Internal error',
};

/** Types whose text never repeats the value: it is absent, too long, or beside the point. */
const withoutValue = new Set<FieldErrorType>([
  'FieldValueRequired',
  'FieldValueForbidden',
  'FieldValueTooLong',
  'InternalError',
]);

/** A value that fills a screen helps nobody. */
const longestShownValue = 1024;

/** `['spec', 'nodes', 2, 'name']` as `spec.nodes[2].name`. */
export function pathOf(segments: Segments): string {
  let path = '';
  for (const segment of segments) {
    if (typeof segment === 'number') path += `[${segment}]`;
    else path += path === '' ? segment : `.${segment}`;
  }
  return path;
}

function shown(value: JsonValue | undefined): string {
  const text = JSON.stringify(value ?? null);
  return text.length > longestShownValue ? `${text.slice(0, longestShownValue)}...` : text;
}

export function fieldError(
  type: FieldErrorType,
  segments: Segments,
  detail: string,
  badValue?: JsonValue,
  path = pathOf(segments),
): FieldError {
  let message = leadingWords[type];
  if (!withoutValue.has(type) && badValue !== undefined) message += `: ${shown(badValue)}`;
  if (detail !== '') message += `: ${detail}`;
  return { path, segments, type, message, ...(badValue === undefined ? {} : { badValue }) };
}

/** One error as kubectl prints it. */
export function formatFieldError(error: FieldError): string {
  return `${error.path === '' ? '<nil>' : error.path}: ${error.message}`;
}

/** All errors of one object, as the message of a `422 Invalid`. */
export function formatInvalid(qualifiedKind: string, name: string, errors: readonly FieldError[]): string {
  const texts = [...new Set(errors.map(formatFieldError))];
  const body = texts.length === 1 ? texts[0] : `[${texts.join(', ')}]`;
  return `${qualifiedKind} ${JSON.stringify(name)} is invalid: ${body}`;
}

/** How many single-letter edits lie between two words, counted up to `limit`. */
function editDistance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) > limit) return limit + 1;
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      current.push(Math.min(substitution, (previous[j] ?? 0) + 1, (current[j - 1] ?? 0) + 1));
    }
    previous = current;
  }
  return previous[b.length] ?? limit + 1;
}

/** The known name that a misspelt one most likely meant, or undefined. */
export function nearestName(misspelt: string, known: Iterable<string>): string | undefined {
  if (misspelt.length > 64) return undefined;
  const wanted = misspelt.toLowerCase();
  const limit = wanted.length <= 4 ? 1 : 2;
  let best: string | undefined;
  let bestDistance = limit + 1;
  for (const name of known) {
    const distance = editDistance(wanted, name.toLowerCase(), limit);
    if (distance < bestDistance) {
      best = name;
      bestDistance = distance;
    }
  }
  return best;
}

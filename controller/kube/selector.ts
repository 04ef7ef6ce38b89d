/**
 * Label and field selectors in the notation of the API (`a=b,c!=d,e in (x,y),f notin (z),g,!h`).
 *
 * Invariant: a selector that does not parse throws `KubeError('Invalid')` with its text; it never selects everything.
 */
import { isJsonObject } from './json.ts';
import { KubeError, type KubeObject } from './port.ts';

export type Predicate = (object: KubeObject) => boolean;

/** Long enough for any selector of a person; the API server's own bound is the length of a URL. */
const longestSelector = 8_192;

const requirement =
  /^\s*(?:(?<absent>!)\s*(?<absentKey>[\w./-]+)|(?<setKey>[\w./-]+)\s+(?<set>in|notin)\s*\((?<values>[^()]*)\)|(?<key>[\w./-]+)\s*(?:(?<operator>==?|!=)\s*(?<value>[\w.-]*))?)\s*$/;

function refuse(selector: string, why: string): never {
  throw new KubeError('Invalid', `selector ${JSON.stringify(selector.slice(0, 200))}: ${why}`, { status: 400 });
}

/** Splits at commas that are not inside parentheses. */
function terms(selector: string): string[] {
  if (selector.length > longestSelector) refuse(selector, `longer than ${longestSelector} characters`);
  return selector.split(/,(?![^(]*\))/).filter((term) => term.trim() !== '');
}

function labelTerm(selector: string, term: string): (labels: Readonly<Record<string, string>>) => boolean {
  const parts = requirement.exec(term)?.groups;
  if (parts === undefined) return refuse(selector, `${JSON.stringify(term.trim())} is not a requirement on a label`);
  const { absentKey, setKey, set, values, key, operator, value } = parts;
  if (absentKey !== undefined) return (labels) => labels[absentKey] === undefined;
  if (setKey !== undefined) {
    const wanted = new Set((values ?? '').split(',').map((item) => item.trim()));
    return set === 'in'
      ? (labels) => labels[setKey] !== undefined && wanted.has(labels[setKey])
      : (labels) => labels[setKey] === undefined || !wanted.has(labels[setKey]);
  }
  if (key === undefined) return refuse(selector, 'no key');
  if (operator === undefined) return (labels) => labels[key] !== undefined;
  return operator === '!=' ? (labels) => labels[key] !== value : (labels) => labels[key] === value;
}

/** An absent or empty selector selects everything. */
export function labelPredicate(selector: string | undefined): Predicate {
  const checks = terms(selector ?? '').map((term) => labelTerm(selector ?? '', term));
  const none: Record<string, string> = {};
  return (object) => {
    const labels = object.metadata.labels ?? none;
    return checks.every((check) => check(labels));
  };
}

function fieldValue(object: unknown, path: readonly string[]): string {
  let value = object;
  for (const step of path) value = isJsonObject(value) ? value[step] : undefined;
  return value === undefined || value === null ? '' : String(value);
}

/**
 * An absent or empty selector selects everything.
 * @param supported dotted paths beyond `metadata.name` and `metadata.namespace` that may be asked for
 */
export function fieldPredicate(selector: string | undefined, supported: readonly string[] = []): Predicate {
  const checks = terms(selector ?? '').map((term): Predicate => {
    const parts = /^\s*(?<path>[\w.-]+)\s*(?<operator>==?|!=)(?<value>.*)$/.exec(term)?.groups;
    const path = parts?.path;
    if (parts === undefined || path === undefined)
      return refuse(selector ?? '', 'expected FIELD=VALUE or FIELD!=VALUE');
    if (path !== 'metadata.name' && path !== 'metadata.namespace' && !supported.includes(path)) {
      return refuse(selector ?? '', `field label not supported: ${path}`);
    }
    const steps = path.split('.');
    const wanted = (parts.value ?? '').trim();
    const equal = parts.operator !== '!=';
    return (object) => (fieldValue(object, steps) === wanted) === equal;
  });
  return (object) => checks.every((check) => check(object));
}

/**
 * What a document may be: the narrow view that the sync and the offline check have of schemas, and its adapter onto the CRDs.
 *
 * Invariant: a misspelt field is an error here, although a server would only drop it: what a person wrote must not silently vanish.
 */
import { parseHostlist } from '../api/hostlist.ts';
import { bitVisorAgents, configMaps, namespaces, nodeAllocations } from '../api/meta.ts';
import type { GroupVersionKind } from '../kube/port.ts';
import { nearestName } from '../standalone/schema/errors.ts';
import {
  type CompiledKind,
  type CustomResourceDefinition,
  compileCrd,
  compileKind,
  type FieldError,
  isObject,
  type JsonObject,
  type JsonSchema,
  type JsonValue,
} from '../standalone/schema/index.ts';
import type { Segments } from './documents.ts';

export interface Finding {
  /** Empty for the whole object. */
  readonly field: string;
  readonly path: Segments;
  readonly reason: string;
  readonly hint?: string;
}

export type KindLookup =
  | { readonly gvk: GroupVersionKind }
  /** `foreign`: of a group that is none of ours; nothing can be said about it. */
  | {
      readonly foreign: boolean;
      readonly field: 'apiVersion' | 'kind';
      readonly reason: string;
      readonly hint?: string;
    };

export interface DocumentValidator {
  lookUp(apiVersion: string, kind: string): KindLookup;
  validate(gvk: GroupVersionKind, object: JsonObject): Finding[];
  /** A copy with the server's defaults filled in and unknown fields gone. */
  defaulted(gvk: GroupVersionKind, object: JsonObject): JsonObject;
}

const apiVersionOf = (gvk: GroupVersionKind): string =>
  gvk.group === '' ? gvk.version : `${gvk.group}/${gvk.version}`;

const stringMap: JsonSchema = { type: 'object', additionalProperties: { type: 'string' } };

const configMapSchema: JsonSchema = {
  type: 'object',
  properties: { data: stringMap, binaryData: stringMap, immutable: { type: 'boolean' } },
};

const namespaceSchema: JsonSchema = {
  type: 'object',
  properties: {
    spec: { type: 'object', properties: { finalizers: { type: 'array', items: { type: 'string' } } } },
    status: { type: 'object', properties: { phase: { type: 'string' } } },
  },
};

interface Known {
  readonly gvk: GroupVersionKind;
  readonly compiled: CompiledKind;
}

/** `spec.nodes[2].name` as its steps; keys that hold dots end the precision, not the search. */
export function segmentsOf(field: string): (string | number)[] {
  return [...field.matchAll(/\[(\d+)\]|([^.[\]]+)/g)].map((match) =>
    match[1] === undefined ? (match[2] ?? '') : Number(match[1]),
  );
}

function findingOfUnknown(sentence: string): Finding {
  const field = /^unknown field "((?:[^"\\]|\\.)*)"/.exec(sentence)?.[1] ?? '';
  const meant = /\(did you mean "([^"]+)"\?\)$/.exec(sentence)?.[1];
  const reason = 'there is no such field';
  return {
    field,
    path: segmentsOf(field),
    reason,
    ...(meant === undefined ? {} : { hint: `did you mean "${meant}"?` }),
  };
}

function findingOfError(error: FieldError): Finding {
  const hint = hintFor(error);
  return { field: error.path, path: error.segments, reason: error.message, ...(hint === undefined ? {} : { hint }) };
}

function hintFor(error: FieldError): string | undefined {
  if (error.path.endsWith('sha256'))
    return 'bitvisor-operator image pack FILE, or sha256sum FILE, prints the 64 hexadecimal digits';
  const supported = /supported values: (.+)$/.exec(error.message)?.[1];
  if (supported === undefined || typeof error.badValue !== 'string') return undefined;
  const names = [...supported.matchAll(/"([^"]+)"/g)].map((match) => match[1] ?? '');
  const meant = nearestName(error.badValue, names);
  return meant === undefined ? undefined : `did you mean "${meant}"?`;
}

const hostlistFields: Readonly<Record<string, readonly string[]>> = {
  [bitVisorAgents.kind]: ['spec.nodes', 'spec.commission.nodes'],
  [nodeAllocations.kind]: ['spec.release'],
};

/** A schema's pattern says which characters a hostlist has, never whether its brackets close; in a cluster a condition says so later. */
function hostlistFindings(gvk: GroupVersionKind, object: JsonObject): Finding[] {
  const findings: Finding[] = [];
  for (const field of hostlistFields[gvk.kind] ?? []) {
    const path = field.split('.');
    const value = path.reduce<JsonValue | undefined>((at, key) => (isObject(at) ? at[key] : undefined), object);
    if (typeof value !== 'string') continue;
    try {
      parseHostlist(value);
    } catch (error) {
      findings.push({ field, path, reason: (error as Error).message, hint: 'for example "t2r[00-01]n[00-31]"' });
    }
  }
  return findings;
}

class SchemaValidator implements DocumentValidator {
  readonly #kinds = new Map<string, Known>();

  constructor(crds: readonly CustomResourceDefinition[]) {
    for (const crd of crds) {
      const compiled = compileCrd(crd);
      const { group, version, kind, namespaced } = compiled.description;
      this.#add({ group, version, kind, namespaced, plural: crd.spec.names.plural }, compiled);
    }
    this.#add(namespaces, compileKind({ ...namespaces, schema: namespaceSchema, hasStatus: true, nameRule: 'label' }));
    this.#add(configMaps, compileKind({ ...configMaps, schema: configMapSchema, hasStatus: false }));
  }

  #add(gvk: GroupVersionKind, compiled: CompiledKind): void {
    this.#kinds.set(`${apiVersionOf(gvk)} ${gvk.kind}`, { gvk, compiled });
  }

  #known(gvk: GroupVersionKind): CompiledKind {
    const known = this.#kinds.get(`${apiVersionOf(gvk)} ${gvk.kind}`);
    if (known === undefined) throw new Error(`no schema of ${apiVersionOf(gvk)} ${gvk.kind} was given`);
    return known.compiled;
  }

  lookUp(apiVersion: string, kind: string): KindLookup {
    const known = this.#kinds.get(`${apiVersion} ${kind}`);
    if (known !== undefined) return { gvk: known.gvk };
    const all = [...this.#kinds.values()].map(({ gvk }) => gvk);
    const sameKind = all.find((gvk) => gvk.kind === kind);
    if (sameKind !== undefined) {
      const hint = `did you mean "${apiVersionOf(sameKind)}"?`;
      return {
        foreign: false,
        field: 'apiVersion',
        reason: `there is no ${kind} in ${JSON.stringify(apiVersion)}`,
        hint,
      };
    }
    const ofVersion = all.filter((gvk) => apiVersionOf(gvk) === apiVersion);
    const meant = nearestName(
      kind,
      (ofVersion.length > 0 ? ofVersion : all).map((gvk) => gvk.kind),
    );
    const group = apiVersion.includes('/') ? (apiVersion.split('/')[0] ?? '') : '';
    const foreign = meant === undefined && !all.some((gvk) => gvk.group === group && gvk.group !== '');
    const hint =
      meant === undefined ? `known are ${all.map((gvk) => gvk.kind).join(', ')}` : `did you mean "${meant}"?`;
    return {
      foreign,
      field: 'kind',
      reason: `the kind ${JSON.stringify(kind)} of ${JSON.stringify(apiVersion)} is not known`,
      hint,
    };
  }

  validate(gvk: GroupVersionKind, object: JsonObject): Finding[] {
    const compiled = this.#known(gvk);
    const unknown = compiled.unknownFields(object).map(findingOfUnknown);
    // Of a field that is misspelt and therefore also missing, the misspelling says more.
    const missing = new Set(unknown.map((finding) => siblingOf(finding)).filter((path) => path !== undefined));
    const errors = compiled.validateCreate(object).errors.map(findingOfError);
    const known = [...unknown, ...errors.filter((error) => !missing.has(error.field))];
    const told = new Set(known.map((finding) => finding.field));
    return [...known, ...hostlistFindings(gvk, object).filter((finding) => !told.has(finding.field))];
  }

  defaulted(gvk: GroupVersionKind, object: JsonObject): JsonObject {
    const copy = structuredClone(object);
    this.#known(gvk).normalize(copy);
    return copy;
  }
}

/** The field that was meant, at the place where it was misspelt. */
function siblingOf(finding: Finding): string | undefined {
  const meant = /^did you mean "([^"]+)"\?$/.exec(finding.hint ?? '')?.[1];
  if (meant === undefined) return undefined;
  const parent = finding.field.includes('.') ? finding.field.slice(0, finding.field.lastIndexOf('.') + 1) : '';
  return parent + meant;
}

/** @throws Error that names the CRD, when one does not compile. */
export function schemaValidator(crds: readonly CustomResourceDefinition[]): DocumentValidator {
  return new SchemaValidator(crds);
}

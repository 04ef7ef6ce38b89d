/**
 * What the server serves: one definition per resource, from the built-in kinds and from CRDs.
 */
import { createHash } from 'node:crypto';
import { type CompiledKind, type CustomResourceDefinition, compileCrd, type PrinterColumn } from './schema/index.ts';
import type { JsonObject, JsonSchema } from './schema/types.ts';

export interface ScaleDefinition {
  readonly specReplicasPath: string;
  readonly statusReplicasPath: string;
  readonly labelSelectorPath?: string;
}

export interface ResourceDefinition {
  readonly group: string;
  readonly version: string;
  readonly kind: string;
  readonly listKind: string;
  readonly plural: string;
  readonly singular: string;
  readonly shortNames: readonly string[];
  readonly categories: readonly string[];
  readonly namespaced: boolean;
  readonly hasStatus: boolean;
  readonly scale?: ScaleDefinition;
  readonly schema: JsonSchema;
  readonly compiled: CompiledKind;
  /** Changes whenever stored objects may need pruning or defaulting again. */
  readonly schemaId: string;
  readonly columns: readonly PrinterColumn[];
  /** Dotted paths that field selectors may name, beyond metadata.name and metadata.namespace. */
  readonly selectableFields: readonly string[];
  /** From a CRD: strategic merge is refused, and a PUT must name the version that it replaces. */
  readonly custom: boolean;
  /** Whether the server counts generations. */
  readonly countsGenerations: boolean;
  /** Why writes are refused, and what to do instead. */
  readonly readOnly?: string;
  /** Changes an incoming object before it is checked (Secret's stringData); `old` is what it replaces. */
  readonly prepare?: (object: Record<string, unknown>, old: JsonObject | undefined) => void;
}

/** The key of a resource in the store: independent of the version. */
export function storageKey(definition: { group: string; plural: string }): string {
  return `${definition.group}/${definition.plural}`;
}

export function apiVersionOf(definition: { group: string; version: string }): string {
  return definition.group === '' ? definition.version : `${definition.group}/${definition.version}`;
}

export function schemaIdOf(schema: JsonSchema): string {
  return createHash('sha256').update(JSON.stringify(schema)).digest('hex').slice(0, 12);
}

const ageColumn: PrinterColumn = { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' };

/**
 * The definition of a custom resource.
 * @throws Error that names the CRD and what this server cannot do with it.
 */
export function definitionFromCrd(crd: CustomResourceDefinition): ResourceDefinition {
  const compiled = compileCrd(crd);
  const { names, group, scope, versions } = crd.spec;
  const served = versions.filter((version) => version.served);
  const version = served.find((candidate) => candidate.storage);
  if (served.length !== 1 || version === undefined) {
    throw new Error(
      `CustomResourceDefinition ${crd.metadata.name}: the embedded API server serves exactly one version of a resource, the one ` +
        `that is stored; this one serves ${served.map((candidate) => candidate.name).join(', ') || 'none'}`,
    );
  }
  const schema = compiled.description.schema;
  const scale = version.subresources?.scale;
  return {
    group,
    version: version.name,
    kind: names.kind,
    listKind: names.listKind ?? `${names.kind}List`,
    plural: names.plural,
    singular: names.singular ?? names.kind.toLowerCase(),
    shortNames: names.shortNames ?? [],
    categories: names.categories ?? [],
    namespaced: scope === 'Namespaced',
    hasStatus: compiled.description.hasStatus,
    ...(scale === undefined ? {} : { scale }),
    schema,
    compiled,
    schemaId: schemaIdOf(schema),
    columns: version.additionalPrinterColumns ?? [ageColumn],
    selectableFields: (version.selectableFields ?? []).map((field) => field.jsonPath.replace(/^\./, '')),
    custom: true,
    countsGenerations: true,
  };
}

export class ResourceRegistry {
  readonly #byPath = new Map<string, ResourceDefinition>();
  readonly #byStorageKey = new Map<string, ResourceDefinition>();

  constructor(definitions: readonly ResourceDefinition[]) {
    for (const definition of definitions) {
      const path = `${apiVersionOf(definition)}/${definition.plural}`;
      if (this.#byPath.has(path)) throw new Error(`${path} is defined twice`);
      this.#byPath.set(path, definition);
      if (!this.#byStorageKey.has(storageKey(definition))) this.#byStorageKey.set(storageKey(definition), definition);
    }
  }

  find(group: string, version: string, plural: string): ResourceDefinition | undefined {
    return this.#byPath.get(`${apiVersionOf({ group, version })}/${plural}`);
  }

  /** The definition under which stored objects are kept. */
  byStorageKey(key: string): ResourceDefinition | undefined {
    return this.#byStorageKey.get(key);
  }

  all(): ResourceDefinition[] {
    return [...this.#byPath.values()];
  }

  /** API versions in the order of their definition, with what they hold. */
  groupVersions(): Map<string, ResourceDefinition[]> {
    const found = new Map<string, ResourceDefinition[]>();
    for (const definition of this.all()) {
      const key = apiVersionOf(definition);
      found.set(key, [...(found.get(key) ?? []), definition]);
    }
    return found;
  }
}

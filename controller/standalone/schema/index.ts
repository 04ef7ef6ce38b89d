/**
 * Validation of custom resources without a server: the same code, and the same words, as the embedded API server's.
 */
import { type CompiledKind, compileKind } from './kind.ts';
import type { JsonSchema } from './types.ts';

export { formatFieldError } from './errors.ts';
export type { CompiledKind } from './kind.ts';
export { compileKind } from './kind.ts';
export {
  type FieldError,
  isObject,
  type JsonObject,
  type JsonSchema,
  type JsonValue,
} from './types.ts';

export interface PrinterColumn {
  name: string;
  type: string;
  jsonPath: string;
  format?: string;
  description?: string;
  priority?: number;
}

/** The part of an apiextensions.k8s.io/v1 CustomResourceDefinition that matters here. */
export interface CustomResourceDefinition {
  apiVersion: string;
  kind: string;
  metadata: { name: string; [key: string]: unknown };
  spec: {
    group: string;
    scope: 'Namespaced' | 'Cluster';
    names: {
      kind: string;
      listKind?: string;
      plural: string;
      singular?: string;
      shortNames?: string[];
      categories?: string[];
    };
    versions: {
      name: string;
      served: boolean;
      storage: boolean;
      schema?: { openAPIV3Schema?: JsonSchema };
      subresources?: {
        status?: Record<string, never>;
        scale?: { specReplicasPath: string; statusReplicasPath: string; labelSelectorPath?: string };
      };
      additionalPrinterColumns?: PrinterColumn[];
      selectableFields?: { jsonPath: string }[];
    }[];
  };
}

/**
 * Compiles the storage version of a CRD.
 * @param crd a parsed CustomResourceDefinition manifest.
 * @throws Error that names the CRD and what is wrong with it.
 */
export function compileCrd(crd: CustomResourceDefinition): CompiledKind {
  const name = crd?.metadata?.name ?? '(unnamed)';
  const version = crd?.spec?.versions?.find((candidate) => candidate.storage);
  const schema = version?.schema?.openAPIV3Schema;
  if (version === undefined || schema === undefined) {
    throw new Error(`CustomResourceDefinition ${name}: no storage version with an openAPIV3Schema`);
  }
  try {
    return compileKind({
      group: crd.spec.group,
      version: version.name,
      kind: crd.spec.names.kind,
      namespaced: crd.spec.scope === 'Namespaced',
      schema,
      hasStatus: version.subresources?.status !== undefined,
    });
  } catch (cause) {
    throw new Error(`CustomResourceDefinition ${name}: ${(cause as Error).message}`, { cause });
  }
}

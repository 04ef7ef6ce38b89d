/**
 * Kinds and objects of them that tests of the API-server port write.
 */
import type { GroupVersionKind, KubeObject } from '../../controller/kube/port.ts';

export const configMapKind: GroupVersionKind = {
  group: '',
  version: 'v1',
  kind: 'ConfigMap',
  plural: 'configmaps',
  namespaced: true,
};

export interface ConfigMap extends KubeObject {
  data?: Record<string, string>;
}

/** A kind with a status subresource, an object of it that validates, and what the suite may change in it. */
export interface StatusKind {
  readonly gvk: GroupVersionKind;
  object(name: string, namespace: string): KubeObject & { spec: Record<string, unknown> };
  /** A merge patch that changes the spec. */
  readonly specPatch: object;
  /** Two different values for the status, as merge patches. */
  readonly statusPatches: readonly [object, object];
}

/** The project's own namespaced kind, for servers that have its CRDs. */
export const environments: StatusKind = {
  gvk: {
    group: 'bitvisor.io',
    version: 'v1alpha1',
    kind: 'ComputeEnvironment',
    plural: 'computeenvironments',
    namespaced: true,
  },
  object: (name, namespace) => ({
    metadata: { name, namespace },
    spec: {
      os: { family: 'Linux', name: 'AlmaLinux', version: '9.4', architecture: 'x86_64' },
      image: {
        url: 'https://images.example.org/almalinux.raw',
        format: 'Raw',
        size: '8Gi',
        sha256: 'a'.repeat(64),
      },
    },
  }),
  specPatch: { spec: { os: { version: '9.5' } } },
  statusPatches: [{ status: { observedGeneration: 1 } }, { status: { observedGeneration: 2 } }],
};

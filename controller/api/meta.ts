/**
 * What every API object of the operator shares. The generated types build on it.
 */
import type { GroupVersionKind, KubeObject } from '../kube/port.ts';

export type { KubeObject };

/** metav1.Condition. */
export interface Condition {
  type: string;
  status: 'True' | 'False' | 'Unknown';
  observedGeneration?: number;
  /** RFC 3339; changes only together with `status`. */
  lastTransitionTime: string;
  reason: string;
  message: string;
}

export const apiGroup = 'bitvisor.io';
export const apiVersion = 'v1alpha1';

const ours = (kind: string, plural: string, namespaced: boolean): GroupVersionKind => ({
  group: apiGroup,
  version: apiVersion,
  kind,
  plural,
  namespaced,
});

export const computeEnvironments = ours('ComputeEnvironment', 'computeenvironments', true);
export const nodeAllocations = ours('NodeAllocation', 'nodeallocations', true);
export const physicalNodes = ours('PhysicalNode', 'physicalnodes', false);
export const bitVisorAgents = ours('BitVisorAgent', 'bitvisoragents', false);

export const configMaps: GroupVersionKind = {
  group: '',
  version: 'v1',
  kind: 'ConfigMap',
  plural: 'configmaps',
  namespaced: true,
};
export const namespaces: GroupVersionKind = {
  group: '',
  version: 'v1',
  kind: 'Namespace',
  plural: 'namespaces',
  namespaced: false,
};

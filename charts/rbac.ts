/**
 * What the operator and the people who use it may do.
 *
 * Invariants:
 * 1. The operator is granted the calls that it makes and no others; in particular it reads no Secret through the API (the agents' TLS
 *    material is mounted), and its leases are those of its own namespace.
 * 2. People get their rights by aggregation into the cluster's own admin, edit and view roles. PhysicalNodes and BitVisorAgents are
 *    the administrators': a tenant reads them at most.
 */
import type { ClusterRole, PolicyRule, Role } from 'kubernetes-types/rbac/v1.d.ts';

const group = 'bitvisor.io';
const read = ['get', 'list', 'watch'];
const tenantKinds = ['computeenvironments', 'nodeallocations'];
const administratorKinds = ['bitvisoragents', 'physicalnodes'];
const allKinds = [...administratorKinds, ...tenantKinds].sort();

const operatorRules: PolicyRule[] = [
  { apiGroups: [group], resources: allKinds, verbs: read },
  { apiGroups: [group], resources: allKinds.map((kind) => `${kind}/status`), verbs: ['patch'] },
  // Finalizers, and PhysicalNodes made for accepted nodes and removed with them.
  { apiGroups: [group], resources: ['nodeallocations'], verbs: ['patch'] },
  { apiGroups: [group], resources: ['physicalnodes'], verbs: ['create', 'patch', 'delete'] },
  // Machine files, in the namespaces of the tenants.
  { apiGroups: [''], resources: ['configmaps'], verbs: ['get', 'list', 'create', 'patch', 'delete'] },
  { apiGroups: [''], resources: ['events'], verbs: ['create', 'patch'] },
];

export const operatorClusterRole = {
  apiVersion: 'rbac.authorization.k8s.io/v1',
  kind: 'ClusterRole',
  metadata: { name: 'bitvisor-operator' },
  rules: operatorRules,
} satisfies ClusterRole;

/** Leader election. A create cannot be limited to a name: the name is not known to the authorizer yet. */
export const operatorRole = {
  apiVersion: 'rbac.authorization.k8s.io/v1',
  kind: 'Role',
  metadata: { name: 'bitvisor-operator-leases' },
  rules: [{ apiGroups: ['coordination.k8s.io'], resources: ['leases'], verbs: ['get', 'create', 'patch'] }],
} satisfies Role;

const aggregated = (name: string, into: string[], rules: PolicyRule[]): ClusterRole => ({
  apiVersion: 'rbac.authorization.k8s.io/v1',
  kind: 'ClusterRole',
  metadata: {
    name,
    labels: Object.fromEntries(into.map((role) => [`rbac.authorization.k8s.io/aggregate-to-${role}`, 'true'])),
  },
  rules,
});

const change = ['create', 'update', 'patch', 'delete', 'deletecollection'];

export const userClusterRoles: ClusterRole[] = [
  aggregated(
    'bitvisor-tenant-edit',
    ['admin', 'edit'],
    [
      { apiGroups: [group], resources: tenantKinds, verbs: [...read, ...change] },
      { apiGroups: [group], resources: ['nodeallocations/scale'], verbs: ['get', 'update', 'patch'] },
    ],
  ),
  aggregated(
    'bitvisor-tenant-view',
    ['admin', 'edit', 'view'],
    [{ apiGroups: [group], resources: [...tenantKinds, 'nodeallocations/scale'], verbs: read }],
  ),
  // Not aggregated: bound by a cluster's administrator to those who run the machine room.
  aggregated(
    'bitvisor-room-admin',
    [],
    [
      { apiGroups: [group], resources: administratorKinds, verbs: [...read, ...change] },
      { apiGroups: [group], resources: tenantKinds, verbs: read },
    ],
  ),
];

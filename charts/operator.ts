/**
 * The operator in a cluster: two replicas of which one leads, in a namespace that admits only restricted pods.
 * Cluster-scoped objects stand in a chart of their own, for a chart stamps its namespace on everything in it.
 */
import { ApiObject, type ApiObjectProps, Chart } from 'cdk8s';
import type { Construct } from 'constructs';
import type { Deployment } from 'kubernetes-types/apps/v1.d.ts';
import type { Container, Namespace, PodSpec, ServiceAccount } from 'kubernetes-types/core/v1.d.ts';
import type { NetworkPolicy } from 'kubernetes-types/networking/v1.d.ts';
import type { PodDisruptionBudget } from 'kubernetes-types/policy/v1.d.ts';
import type { ClusterRoleBinding, RoleBinding } from 'kubernetes-types/rbac/v1.d.ts';
import { operatorClusterRole, operatorRole, userClusterRoles } from './rbac.ts';

const namespace = 'bitvisor-system';
const name = 'bitvisor-operator';
const selector = { 'app.kubernetes.io/name': name };
const agentTlsDirectory = '/etc/bitvisor/agents-tls';
const ports = { metrics: 8080, health: 8081 };

type Manifest = { apiVersion: string; kind: string; metadata: { name?: string } };

/** Every object under its kind and name, so that the order in the file is the order of these lists. */
function addAll(chart: Chart, manifests: readonly object[]): void {
  for (const manifest of manifests as Manifest[]) {
    new ApiObject(chart, `${manifest.kind}-${manifest.metadata.name}`, manifest as ApiObjectProps);
  }
}

const subjects = [{ kind: 'ServiceAccount', name, namespace }];

export class OperatorClusterChart extends Chart {
  constructor(scope: Construct, id: string) {
    super(scope, id, { disableResourceNameHashes: true });
    const namespaceObject: Namespace = {
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: { name: namespace, labels: { 'pod-security.kubernetes.io/enforce': 'restricted' } },
    };
    const binding: ClusterRoleBinding = {
      apiVersion: 'rbac.authorization.k8s.io/v1',
      kind: 'ClusterRoleBinding',
      metadata: { name },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: operatorClusterRole.metadata.name },
      subjects,
    };
    addAll(this, [namespaceObject, operatorClusterRole, binding, ...userClusterRoles]);
  }
}

function container(image: string): Container {
  const probe = (path: string): object => ({ httpGet: { path, port: 'health' }, periodSeconds: 10 });
  return {
    name: 'operator',
    image,
    args: [
      'controller',
      `--metrics-port=${ports.metrics}`,
      `--health-port=${ports.health}`,
      `--agents-tls=${agentTlsDirectory}`,
    ],
    ports: [
      { name: 'metrics', containerPort: ports.metrics },
      { name: 'health', containerPort: ports.health },
    ],
    livenessProbe: { ...probe('/healthz'), failureThreshold: 6 },
    readinessProbe: probe('/readyz'),
    // 88,128 nodes are held in memory stripped of what the operator does not read; the CPU bound is left to the namespace's quota,
    // because a throttled leader loses its lease.
    resources: { requests: { cpu: '500m', memory: '512Mi' }, limits: { memory: '4Gi' } },
    securityContext: {
      allowPrivilegeEscalation: false,
      capabilities: { drop: ['ALL'] },
      readOnlyRootFilesystem: true,
    },
    volumeMounts: [{ name: 'agents-tls', mountPath: agentTlsDirectory, readOnly: true }],
  };
}

function podSpec(image: string): PodSpec {
  return {
    serviceAccountName: name,
    // The longest that a leader may take to finish its calls under way and give up its lease.
    terminationGracePeriodSeconds: 30,
    securityContext: {
      runAsNonRoot: true,
      runAsUser: 1000,
      runAsGroup: 1000,
      fsGroup: 1000,
      seccompProfile: { type: 'RuntimeDefault' },
    },
    topologySpreadConstraints: [
      {
        maxSkew: 1,
        topologyKey: 'kubernetes.io/hostname',
        whenUnsatisfiable: 'ScheduleAnyway',
        labelSelector: { matchLabels: selector },
      },
    ],
    containers: [container(image)],
    volumes: [{ name: 'agents-tls', secret: { secretName: 'bitvisor-agents-tls', defaultMode: 0o440 } }],
  };
}

/** Out: name service, API server, agents. In: metrics, for namespaces that say that they collect them. */
const networkPolicy: NetworkPolicy = {
  apiVersion: 'networking.k8s.io/v1',
  kind: 'NetworkPolicy',
  metadata: { name },
  spec: {
    podSelector: { matchLabels: selector },
    policyTypes: ['Ingress', 'Egress'],
    ingress: [
      {
        from: [{ namespaceSelector: { matchLabels: { 'bitvisor.io/collects-metrics': 'true' } } }],
        ports: [{ protocol: 'TCP', port: ports.metrics }],
      },
    ],
    egress: [
      { ports: ['UDP', 'TCP'].map((protocol) => ({ protocol: protocol as 'UDP' | 'TCP', port: 53 })) },
      // 443 and 6443: the API server; 7443: the agents.
      { ports: [443, 6443, 7443].map((port) => ({ protocol: 'TCP' as const, port })) },
    ],
  },
};

export class OperatorChart extends Chart {
  constructor(scope: Construct, id: string, options: { image: string }) {
    super(scope, id, { namespace, disableResourceNameHashes: true });
    const account: ServiceAccount = { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name } };
    const binding: RoleBinding = {
      apiVersion: 'rbac.authorization.k8s.io/v1',
      kind: 'RoleBinding',
      metadata: { name: operatorRole.metadata.name },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: operatorRole.metadata.name },
      subjects,
    };
    const deployment: Deployment = {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name, labels: selector },
      spec: {
        replicas: 2,
        selector: { matchLabels: selector },
        template: { metadata: { labels: selector }, spec: podSpec(options.image) },
      },
    };
    const budget: PodDisruptionBudget = {
      apiVersion: 'policy/v1',
      kind: 'PodDisruptionBudget',
      metadata: { name },
      spec: { minAvailable: 1, selector: { matchLabels: selector } },
    };
    addAll(this, [account, operatorRole, binding, networkPolicy, budget, deployment]);
  }
}

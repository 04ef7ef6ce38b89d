/**
 * The synthesized manifests say what their sources say, and grant what they should and no more.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parse, parseAllDocuments } from 'yaml';

interface Rule {
  apiGroups: string[];
  resources: string[];
  verbs: string[];
}
interface Manifest {
  apiVersion: string;
  kind: string;
  metadata: { name: string; namespace?: string; labels?: Record<string, string> };
  rules?: Rule[];
  spec?: {
    replicas?: number;
    template?: { spec: { securityContext: object; containers: { args: string[]; securityContext: object }[] } };
  };
}

const root = new URL('../../', import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, root), 'utf8');
const load = (path: string, version: '1.1' | '1.2' = '1.2'): Manifest[] =>
  parseAllDocuments(read(path), { version }).map((document) => document.toJS() as Manifest);
const operator = load('charts/manifests/operator.yaml');

function find(kind: string, name: string): Manifest {
  const found = operator.find((manifest) => manifest.kind === kind && manifest.metadata.name === name);
  assert.ok(found, `${kind} ${name} is missing`);
  return found;
}

test('the CRDs arrive as they were written, for readers of YAML 1.1 and of YAML 1.2', () => {
  const sources = readdirSync(new URL('crds/', root))
    .filter((file) => file.endsWith('.yaml'))
    .sort()
    .map((file) => parse(read(`crds/${file}`)) as unknown);
  for (const version of ['1.1', '1.2'] as const) assert.deepEqual(load('charts/manifests/crds.yaml', version), sources);
});

test('namespaced objects name the namespace, cluster-scoped ones do not', () => {
  const clusterScoped = new Set(['Namespace', 'ClusterRole', 'ClusterRoleBinding', 'CustomResourceDefinition']);
  for (const { kind, metadata } of [...operator, ...load('charts/manifests/crds.yaml')]) {
    assert.equal(
      metadata.namespace,
      clusterScoped.has(kind) ? undefined : 'bitvisor-system',
      `${kind} ${metadata.name}`,
    );
  }
});

test('the operator reads no Secret, grants nothing, and has no wildcard', () => {
  const forbidden = /^(\*|secrets|pods|nodes|serviceaccounts|.*roles|.*rolebindings)(\/|$)/;
  for (const { kind, metadata, rules } of operator) {
    if (!metadata.name.startsWith('bitvisor-operator') || rules === undefined) continue;
    for (const rule of rules) {
      const wrong = [...rule.resources, ...rule.apiGroups, ...rule.verbs].filter((word) => forbidden.test(word));
      assert.deepEqual(wrong, [], `${kind} ${metadata.name} grants ${wrong.join(', ')}`);
    }
  }
  const writes = (find('ClusterRole', 'bitvisor-operator').rules ?? [])
    .filter(({ apiGroups, verbs }) => apiGroups.includes('bitvisor.io') && !verbs.includes('get'))
    .flatMap(({ resources, verbs }) => resources.map((resource) => `${resource}: ${verbs.join(' ')}`));
  assert.deepEqual(writes.sort(), [
    'bitvisoragents/status: patch',
    'computeenvironments/status: patch',
    'nodeallocations/status: patch',
    'nodeallocations: patch',
    'physicalnodes/status: patch',
    'physicalnodes: create patch delete',
  ]);
});

test('a tenant changes allocations and environments, never machines', () => {
  const tenant = find('ClusterRole', 'bitvisor-tenant-edit');
  assert.equal(tenant.metadata.labels?.['rbac.authorization.k8s.io/aggregate-to-edit'], 'true');
  const resources = new Set((tenant.rules ?? []).flatMap((rule) => rule.resources));
  assert.deepEqual([...resources].sort(), ['computeenvironments', 'nodeallocations', 'nodeallocations/scale']);
});

test('the pod meets the restricted profile', () => {
  const pod = find('Deployment', 'bitvisor-operator').spec?.template?.spec;
  assert.partialDeepStrictEqual(pod?.securityContext, {
    runAsNonRoot: true,
    seccompProfile: { type: 'RuntimeDefault' },
  });
  for (const container of pod?.containers ?? []) {
    assert.deepEqual(container.securityContext, {
      allowPrivilegeEscalation: false,
      capabilities: { drop: ['ALL'] },
      readOnlyRootFilesystem: true,
    });
  }
});

test('the program knows every flag that the Deployment gives it', (t) => {
  const main = fileURLToPath(new URL('controller/main.ts', root));
  if (!existsSync(main)) return t.skip('controller/main.ts does not exist yet');
  const [subcommand = '', ...flags] =
    find('Deployment', 'bitvisor-operator').spec?.template?.spec.containers[0]?.args ?? [];
  const help = execFileSync(process.execPath, [main, subcommand, '--help'], { encoding: 'utf8' });
  for (const flag of flags)
    assert.ok(help.includes(flag.split('=')[0] ?? flag), `${flag} is not in "${subcommand} --help":\n${help}`);
});

/**
 * A real kube-apiserver accepts the manifests and the examples as they stand, and lets the operator do what it must and no more.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { counterpart } from '../support/counterpart.ts';
import { kubebuilderAssets, type RealApiServer, startRealApiServer } from '../support/kube-apiserver.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const assets = kubebuilderAssets();
const options = counterpart(
  'kube-apiserver',
  assets !== undefined,
  'set KUBEBUILDER_ASSETS to a directory that holds it',
);

describe('a real kube-apiserver', options, () => {
  let server: RealApiServer;
  before(async () => {
    server = await startRealApiServer(assets ?? '');
  });
  after(() => server?.stop());

  const kubectl = (...words: string[]): { code: number | null; output: string } => {
    const env = {
      PATH: process.env.PATH,
      HOME: root,
      KUBECONFIG: server.kubeconfig,
      KUBECACHEDIR: `${server.kubeconfig}.cache`,
    };
    const done = spawnSync(join(assets ?? '', 'kubectl'), words, { cwd: root, env, encoding: 'utf8' });
    return { code: done.status, output: done.stdout + done.stderr };
  };
  const succeeds = (...words: string[]): void => {
    const { code, output } = kubectl(...words);
    assert.equal(code, 0, `kubectl ${words.join(' ')}\n${output}`);
  };

  test('takes the CRDs, the operator and the examples', () => {
    succeeds('apply', '-f', 'charts/manifests/crds.yaml');
    succeeds('wait', '--for=condition=Established', 'crd', '--all', '--timeout=60s');
    succeeds('apply', '-f', 'charts/manifests/operator.yaml');
    for (const name of ['minimal', 'tsubame2']) {
      for (const file of name === 'minimal' ? ['minimal'] : ['agents', 'cfd', 'winhpc', 'bigdata']) {
        succeeds('apply', '--validate=strict', '-f', `examples/${name}/${file}.yaml`);
      }
    }
  });

  test('holds no CRD back for a schema that is not structural', () => {
    const { output } = kubectl(
      'get',
      'crd',
      '-o',
      'jsonpath={.items[*].status.conditions[?(@.type=="NonStructuralSchema")].message}',
    );
    assert.equal(output, '');
  });

  test('lets the operator do what it must and no more', () => {
    const may = (call: string, namespace: string): boolean => {
      const [verb = '', resource = '', subresource = ''] = call.split(/[ /]/);
      const as = '--as=system:serviceaccount:bitvisor-system:bitvisor-operator';
      return kubectl('auth', 'can-i', verb, resource, `--subresource=${subresource}`, '-n', namespace, as).code === 0;
    };
    const yes = [
      'patch nodeallocations.bitvisor.io/status',
      'create physicalnodes.bitvisor.io',
      'create configmaps',
      'create events',
    ];
    const no = [
      'get secrets',
      'delete nodeallocations.bitvisor.io',
      'patch leases.coordination.k8s.io',
      'get pods',
      'create rolebindings',
    ];
    for (const call of yes) assert.ok(may(call, 'cfd'), `${call}: refused in a tenant's namespace`);
    for (const call of no) assert.ok(!may(call, 'cfd'), `${call}: granted in a tenant's namespace`);
    assert.ok(may('patch leases.coordination.k8s.io', 'bitvisor-system'), 'leases in its own namespace');
  });
});

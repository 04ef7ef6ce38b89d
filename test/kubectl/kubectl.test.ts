/**
 * The real kubectl against the embedded server, with the project's own CRDs: every call that the operations guide names.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { parse } from 'yaml';
import { type ApiTarget, standaloneTarget } from '../support/api-target.ts';
import { kubectlRunner, toolPath } from '../support/kubectl.ts';

const root = join(import.meta.dirname, '..', '..');
const crds = readdirSync(join(root, 'crds'))
  .filter((file) => file.endsWith('.yaml'))
  .map((file) => parse(readFileSync(join(root, 'crds', file), 'utf8')));
const tool = toolPath('kubectl');
const namespace = 'tenant';

const environment = (name: string): object => ({
  apiVersion: 'bitvisor.io/v1alpha1',
  kind: 'ComputeEnvironment',
  metadata: { name, namespace },
  spec: {
    os: { family: 'Linux', name: 'Debian', version: '13', architecture: 'x86_64' },
    image: { url: 'https://images.example/debian.raw', format: 'Raw', size: '8Gi', sha256: 'a'.repeat(64) },
  },
});
const allocation = (name: string, replicas = 4): object => ({
  apiVersion: 'bitvisor.io/v1alpha1',
  kind: 'NodeAllocation',
  metadata: { name, namespace, labels: { app: name } },
  spec: { environmentRef: { name: 'debian' }, replicas },
});

describe('kubectl', { skip: 'missing' in tool ? `NOT RUN: ${tool.missing}` : false }, () => {
  let target: ApiTarget;
  let home = '';
  let run: ReturnType<typeof kubectlRunner>;

  before(async () => {
    target = await standaloneTarget(crds);
    home = mkdtempSync(join(tmpdir(), 'bitvisor-kubectl-'));
    mkdirSync(join(home, 'files'));
    run = kubectlRunner('path' in tool ? tool.path : '', target.kubeconfig, home);
    await ok(['create', 'namespace', namespace]);
  });
  after(async () => {
    await target.close();
    rmSync(home, { recursive: true, force: true });
  });

  const ok = async (args: readonly string[], options?: Parameters<typeof run>[1]): Promise<string> => {
    const outcome = await run(args, options);
    assert.equal(outcome.code, 0, `kubectl ${args.join(' ')}\n${outcome.stdout}${outcome.stderr}`);
    return outcome.stdout;
  };
  const refused = async (args: readonly string[], options?: Parameters<typeof run>[1]): Promise<string> => {
    const outcome = await run(args, options);
    assert.notEqual(outcome.code, 0, `kubectl ${args.join(' ')} was not refused\n${outcome.stdout}`);
    return outcome.stderr;
  };
  const file = (name: string, ...objects: object[]): string => {
    const path = join(home, 'files', `${name}.json`);
    writeFileSync(path, objects.map((object) => JSON.stringify(object)).join('\n'));
    return path;
  };
  const inTenant = (...args: string[]): string[] => [...args, '-n', namespace];
  const setStatus = (name: string, status: object): Promise<string> =>
    ok(inTenant('patch', 'nalloc', name, '--subresource=status', '--type=merge', '-p', JSON.stringify({ status })));
  const create = async (name: string): Promise<void> => {
    await ok(['create', '-f', file(name, allocation(name))]);
  };

  test('apply: create, no change, change, three-way removal; diff tells beforehand', async () => {
    const first = file('apply', environment('debian'), allocation('applied'));
    const created = await ok(['apply', '-f', first]);
    assert.match(
      created,
      /computeenvironment\.bitvisor\.io\/debian created\nnodeallocation\.bitvisor\.io\/applied created/,
    );
    assert.match(await ok(['apply', '-f', first]), /applied unchanged/);
    const labelled = allocation('applied', 6) as { spec: Record<string, unknown>; metadata: Record<string, unknown> };
    labelled.spec.minReplicas = 2;
    const second = file('apply2', labelled);
    const difference = await run(['diff', '-f', second]);
    assert.match(difference.stdout, /\+ {2}minReplicas: 2/);
    assert.match(await ok(['apply', '-f', second]), /applied configured/);
    await ok(['apply', '-f', first]);
    const spec = JSON.parse(await ok(inTenant('get', 'nalloc', 'applied', '-o', 'jsonpath={.spec}')));
    assert.deepEqual([spec.replicas, spec.minReplicas], [4, undefined]);
  });

  test('apply of built-in kinds merges strategically', async () => {
    const map = (data: object): object => ({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'machines', namespace },
      data,
    });
    await ok(['apply', '-f', file('cm1', map({ a: '1', b: '2' }))]);
    await ok(inTenant('patch', 'cm', 'machines', '-p', '{"data":{"other":"x"}}'));
    await ok(['apply', '-f', file('cm2', map({ b: '3' }))]);
    const data = JSON.parse(await ok(inTenant('get', 'cm', 'machines', '-o', 'jsonpath={.data}')));
    assert.deepEqual(data, { b: '3', other: 'x' });
  });

  test('create: namespaces, ConfigMaps and Secrets by their own commands', async () => {
    await ok(inTenant('create', 'configmap', 'made', '--from-literal=a=b'));
    await ok(inTenant('create', 'secret', 'generic', 'made', '--from-literal=password=geheim'));
    assert.equal(await ok(inTenant('get', 'secret', 'made', '-o', 'jsonpath={.data.password}')), 'Z2VoZWlt');
    assert.match(
      await refused(['create', 'namespace', namespace]),
      /AlreadyExists.*namespaces "tenant" already exists/,
    );
    assert.match(await ok(inTenant('create', 'cm', 'tried', '--dry-run=server', '-o', 'yaml')), /name: tried/);
    await refused(inTenant('get', 'cm', 'tried'));
  });

  test('get: tables, wide, labels, fields, all namespaces, yaml, json, jsonpath, custom columns', async () => {
    await create('shown');
    await setStatus('shown', { phase: 'Running', ready: 3, nodes: 't2r00n[00-03]' });
    const table = await ok(inTenant('get', 'nalloc', 'shown'));
    assert.match(table, /^NAME +ENVIRONMENT +DESIRED +READY +INSTALLED +DEVIRTUALIZED +PHASE +AGE\n/);
    assert.match(table, /\nshown +debian +4 +3 +Running +\d+s\n/);
    assert.match(await ok(inTenant('get', 'nalloc', 'shown', '-o', 'wide')), /t2r00n\[00-03\]/);
    assert.match(await ok(['get', 'nodeallocations', '-A']), /^NAMESPACE +NAME/);
    assert.match(
      await ok(inTenant('get', 'nalloc', '-l', 'app=shown', '-o', 'name')),
      /^nodeallocation\.bitvisor\.io\/shown\n$/,
    );
    const byField = inTenant('get', 'nalloc', '--field-selector', 'metadata.name=shown', '--no-headers');
    assert.equal((await ok(byField)).trim().split('\n').length, 1);
    assert.equal(parse(await ok(inTenant('get', 'nalloc', 'shown', '-o', 'yaml'))).spec.replicas, 4);
    assert.equal(JSON.parse(await ok(inTenant('get', 'nalloc', 'shown', '-o', 'json'))).kind, 'NodeAllocation');
    assert.equal(await ok(inTenant('get', 'nalloc', 'shown', '-o', 'jsonpath={.status.ready}')), '3');
    assert.match(await ok(inTenant('get', 'nalloc', 'shown', '-o', 'custom-columns=N:.spec.replicas')), /^N\n4\n$/);
    assert.match(await ok(['get', 'bitvisor', '-A']), /nodeallocation\.bitvisor\.io\/shown/);
    assert.match(
      await refused(inTenant('get', 'nalloc', 'nobody')),
      /nodeallocations\.bitvisor\.io "nobody" not found/,
    );
    assert.match(await refused(['get', 'pods']), /doesn't have a resource type "pods"/);
    assert.match(await ok(['get', 'crd']), /nodeallocations\.bitvisor\.io/);
  });

  test('get -w follows changes, as a table', async () => {
    await create('watched');
    const env = { PATH: process.env.PATH ?? '', HOME: home, KUBECONFIG: target.kubeconfig };
    const child = spawn('path' in tool ? tool.path : '', inTenant('get', 'nalloc', 'watched', '-w'), { env });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const next = async (): Promise<string> => String((await lines.next()).value);
    assert.match(await next(), /^NAME/);
    assert.match(await next(), /^watched +debian +4/);
    await ok(inTenant('scale', 'nalloc', 'watched', '--replicas=9'));
    assert.match(await next(), /^watched +debian +9/);
    await ok(inTenant('delete', 'nalloc', 'watched'));
    assert.match(await next(), /^watched +debian +9/);
    child.kill();
  });

  test('describe shows the object and its events', async () => {
    await create('told');
    const uid = await ok(inTenant('get', 'nalloc', 'told', '-o', 'jsonpath={.metadata.uid}'));
    const event = {
      apiVersion: 'v1',
      kind: 'Event',
      metadata: { name: 'told.1', namespace },
      involvedObject: { apiVersion: 'bitvisor.io/v1alpha1', kind: 'NodeAllocation', namespace, name: 'told', uid },
      reason: 'Placed',
      message: 'four nodes in rack r00',
      type: 'Normal',
      source: { component: 'bitvisor-operator' },
      count: 1,
      firstTimestamp: new Date().toISOString().slice(0, 19).concat('Z'),
      lastTimestamp: new Date().toISOString().slice(0, 19).concat('Z'),
    };
    await ok(['create', '-f', file('event', event)]);
    const text = await ok(inTenant('describe', 'nalloc', 'told'));
    assert.match(text, /Replicas: +4/);
    assert.match(text, /Normal +Placed +\S+ +bitvisor-operator +four nodes in rack r00/);
    assert.match(await ok(inTenant('get', 'events')), /Normal +Placed +nodeallocation\/told +four nodes in rack r00/);
    assert.match(await ok(inTenant('events', '--for', 'nodeallocation.bitvisor.io/told')), /four nodes in rack r00/);
  });

  test('edit, patch, scale, label and replace', async () => {
    await create('changed');
    const replicas = (): Promise<string> => ok(inTenant('get', 'nalloc', 'changed', '-o', 'jsonpath={.spec.replicas}'));
    const editor = join(home, 'editor.sh');
    writeFileSync(editor, '#!/bin/sh\nsed -i "s/replicas: 4/replicas: 5/" "$1"\n', { mode: 0o755 });
    await ok(inTenant('edit', 'nalloc', 'changed'), { env: { KUBE_EDITOR: editor } });
    assert.equal(await replicas(), '5');
    await ok(inTenant('patch', 'nalloc', 'changed', '--type=merge', '-p', '{"spec":{"replicas":6}}'));
    assert.equal(await replicas(), '6');
    const operations = '[{"op":"replace","path":"/spec/replicas","value":7}]';
    await ok(inTenant('patch', 'nalloc', 'changed', '--type=json', '-p', operations));
    assert.equal(await replicas(), '7');
    await ok(inTenant('scale', 'nalloc/changed', '--current-replicas=7', '--replicas=8'));
    assert.equal(await replicas(), '8');
    await refused(inTenant('scale', 'nalloc/changed', '--current-replicas=7', '--replicas=9'));
    await ok(inTenant('label', 'nalloc', 'changed', 'tier=gold'));
    await ok(inTenant('annotate', 'nalloc', 'changed', 'note=x'));
    await ok(['replace', '-f', file('replaced', allocation('changed', 3))]);
    assert.equal(await replicas(), '3');
    assert.match(
      await refused(inTenant('patch', 'nalloc', 'changed', '-p', '{}')),
      /strategic-merge-patch\+json is not supported/,
    );
  });

  test('mistakes are explained', async () => {
    const bad = (spec: object): string =>
      file('bad', { ...allocation('bad'), spec: { environmentRef: { name: 'debian' }, replicas: 1, ...spec } });
    const misspelt = await refused(['apply', '-f', bad({ replcas: 3 })]);
    assert.match(misspelt, /unknown field "spec\.replcas" \(did you mean "replicas"\?\)/);
    const several = await refused(['apply', '-f', bad({ replicas: 0, devirtualize: 'Maybe' })]);
    assert.match(several, /The NodeAllocation "bad" is invalid:/);
    assert.match(
      several,
      /spec\.replicas: Invalid value: 0: spec\.replicas in body should be greater than or equal to 1/,
    );
    assert.match(several, /spec\.devirtualize: Unsupported value: "Maybe": supported values: "WhenInstalled", "Never"/);
    await create('placed');
    const moved = inTenant('patch', 'nalloc', 'placed', '--type=merge', '-p', '{"spec":{"devirtualize":"Never"}}');
    assert.match(await refused(moved), /devirtualize cannot be changed; make a new allocation/);
    const elsewhere = { ...allocation('bad'), metadata: { name: 'bad', namespace: 'nowhere' } };
    assert.match(await refused(['create', '-f', file('elsewhere', elsewhere)]), /namespaces "nowhere" not found/);
    const misspeltKind = { ...allocation('bad'), kind: 'NodeAlocation' };
    const kind = await refused(['apply', '-f', file('misspelt-kind', misspeltKind)]);
    assert.match(kind, /no matches for kind "NodeAlocation" in version "bitvisor\.io\/v1alpha1"/);
    assert.match(await refused(['apply', '--server-side', '-f', bad({})]), /server-side apply is not served/);
  });

  test('delete and wait: finalizers, conditions, cascades', async () => {
    await create('held');
    await ok(
      inTenant('patch', 'nalloc', 'held', '--type=merge', '-p', '{"metadata":{"finalizers":["bitvisor.io/test"]}}'),
    );
    const condition = {
      type: 'Ready',
      status: 'True',
      reason: 'Test',
      message: 'x',
      lastTransitionTime: '2026-01-01T00:00:00Z',
    };
    const waiting = ok(inTenant('wait', 'nalloc/held', '--for=condition=Ready', '--timeout=20s'));
    await setStatus('held', { conditions: [condition] });
    assert.match(await waiting, /held condition met/);
    assert.match(
      await refused(inTenant('wait', 'nalloc/held', '--for=condition=Stalled', '--timeout=1s')),
      /timed out/,
    );
    assert.match(await refused(inTenant('delete', 'nalloc', 'held', '--timeout=1s')), /timed out/);
    const gone = ok(inTenant('wait', 'nalloc/held', '--for=delete', '--timeout=20s'));
    await ok(inTenant('patch', 'nalloc', 'held', '--type=merge', '-p', '{"metadata":{"finalizers":null}}'));
    await gone;

    const owned = async (name: string): Promise<void> => {
      await create(name);
      const uid = await ok(inTenant('get', 'nalloc', name, '-o', 'jsonpath={.metadata.uid}'));
      const owner = { apiVersion: 'bitvisor.io/v1alpha1', kind: 'NodeAllocation', name, uid, blockOwnerDeletion: true };
      const map = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, namespace, ownerReferences: [owner] } };
      await ok(['create', '-f', file(`owned-${name}`, map)]);
    };
    await owned('foreground');
    await ok(inTenant('delete', 'nalloc', 'foreground', '--cascade=foreground'));
    assert.match(await refused(inTenant('get', 'cm', 'foreground')), /not found/);
    await owned('orphaned');
    await ok(inTenant('delete', 'nalloc', 'orphaned', '--cascade=orphan'));
    await ok(inTenant('get', 'cm', 'orphaned'));
    await ok(inTenant('delete', 'nalloc', '-l', 'app=nobody'));
  });

  test('explain, api-resources, auth and version', async () => {
    assert.match(await ok(['explain', 'nalloc.spec.replicas']), /FIELD: replicas <integer>[\s\S]*How many nodes/);
    assert.match(await ok(['explain', 'cm.data']), /Text by key/);
    const resources = await ok(['api-resources', '--api-group=bitvisor.io']);
    assert.match(resources, /nodeallocations +nalloc +bitvisor\.io\/v1alpha1 +true +NodeAllocation/);
    assert.match(await ok(['api-versions']), /bitvisor\.io\/v1alpha1/);
    assert.equal((await ok(['auth', 'can-i', 'create', 'nalloc'])).trim(), 'yes');
    assert.match(await ok(['auth', 'whoami']), /Username +admin/);
    assert.match(await ok(['version']), /Server Version: v1\.\d+\.0\+bitvisor-standalone/);
  });

  test('deleting a namespace waits until its content is gone', async () => {
    await ok(['create', 'namespace', 'leaving']);
    await ok(['create', 'configmap', 'inside', '-n', 'leaving']);
    await ok(['delete', 'namespace', 'leaving', '--timeout=20s']);
    assert.match(await refused(['get', 'configmap', 'inside', '-n', 'leaving']), /not found/);
  });
});

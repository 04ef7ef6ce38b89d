/**
 * From commits of a real git repository to objects of the API: what is applied, what is kept, what is pruned.
 */
import assert from 'node:assert/strict';
import { symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { computeEnvironments, configMaps, nodeAllocations } from '../../controller/api/meta.ts';
import { KubeError } from '../../controller/kube/port.ts';
import {
  allocationYaml,
  baseFiles,
  environmentYaml,
  gitIsHere,
  names,
  namespaceYaml,
  problemsOf,
  specOf,
  started,
  statusData,
} from './support.ts';

const skip = gitIsHere ? false : 'there is no git on this machine';

// Most of the time is git's: the tests share nothing and may overlap.
describe('sync', { concurrency: 4 }, () => {
  test('a commit becomes objects, in any order of files, and nothing is written at rest', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    const commit = repository.commit({
      'a.yaml': allocationYaml('cfd'),
      'b/env.yml': environmentYaml('rocky'),
      'z.json': JSON.stringify({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'team-a' } }),
    });
    const first = await sync();
    assert.deepEqual([first.result, first.commit, first.counts.created], ['Synced', commit, 3]);
    assert.deepEqual(names(kube, nodeAllocations), ['cfd']);
    assert.equal((await statusData(kube)).result, 'Synced');
    kube.writes = 0;
    const second = await sync();
    assert.deepEqual([second.result, second.counts.unchanged, kube.writes], ['Synced', 3, 0]);
    repository.commit({ 'a.yaml': allocationYaml('cfd', 8) });
    assert.equal((await sync()).counts.changed, 1);
    assert.equal(specOf(kube, nodeAllocations, 'cfd').replicas, 8);
    repository.commit({ 'a.yaml': undefined });
    const last = await sync();
    assert.deepEqual([last.result, last.counts.pruned], ['Synced', 1], last.message);
    assert.deepEqual(names(kube, nodeAllocations), []);
  });

  test('a field that git names for the first time replaces the default', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit(baseFiles);
    await sync();
    repository.commit({ 'cfd.yaml': allocationYaml('cfd', 4, '  devirtualize: Never\n') });
    const result = await sync();
    assert.equal(specOf(kube, nodeAllocations, 'cfd').devirtualize, 'Never', problemsOf(result).join('\n'));
  });

  const key = { namespace: 'team-a', name: 'cfd' };

  test('what somebody else changed is reported and left; both changed is a conflict and is not applied', {
    skip,
  }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit(baseFiles);
    await sync();
    await kube.patch(nodeAllocations, key, { spec: { replicas: 6 } }, { type: 'merge' });
    const drift = await sync();
    assert.equal(drift.result, 'Synced');
    assert.match(
      problemsOf(drift).join('\n'),
      /cfd\.yaml:8 spec\.replicas changed by somebody else: 4 here, 6 in the cluster/,
    );
    repository.commit({ 'cfd.yaml': allocationYaml('cfd', 9) });
    const conflict = await sync();
    assert.equal(conflict.result, 'Partial');
    assert.match(
      problemsOf(conflict).join('\n'),
      /spec\.replicas changed here and by somebody else: 9 here, 6 in the cluster/,
    );
    assert.equal(specOf(kube, nodeAllocations, 'cfd').replicas, 6);
    await kube.patch(nodeAllocations, key, { spec: { replicas: 4 } }, { type: 'merge' });
    assert.equal((await sync()).result, 'Synced');
    assert.equal(specOf(kube, nodeAllocations, 'cfd').replicas, 9);
  });

  const badAllocations: Record<string, [string, RegExp]> = {
    'a misspelt field': [
      allocationYaml('cfd').replace('replicas:', 'replcas:'),
      /cfd\.yaml:8 spec\.replcas there is no such field did you mean "replicas"\?/,
    ],
    'a wrong type': [allocationYaml('cfd', '"four"'), /cfd\.yaml:8 spec\.replicas .*must be of type integer/],
    'a count of 0': [allocationYaml('cfd', 0), /cfd\.yaml:8 spec\.replicas .*greater than or equal to 1/],
    'a count of a million': [
      allocationYaml('cfd', 1_000_000),
      /cfd\.yaml:8 spec\.replicas .*less than or equal to 100000/,
    ],
    'YAML that does not parse': [`${allocationYaml('cfd')}  bad: [\n`, /cfd\.yaml:\d+ {2}not valid YAML/],
    'a misspelt kind': [
      allocationYaml('cfd').replace('NodeAllocation', 'NodeAlocation'),
      /kind .* did you mean "NodeAllocation"\?/,
    ],
    'aliases that explode': [
      [
        'a: &a [x,x,x,x,x,x,x,x,x]',
        ...'bcdefghi'
          .split('')
          .map((letter, i) => `${letter}: &${letter} [${Array(9).fill(`*${'abcdefgh'[i]}`).join(',')}]`),
      ].join('\n'),
      /cfd\.yaml:1 {2}its aliases expand to more than is read/,
    ],
    'nesting without end': [
      `a: ${'['.repeat(200_000)}`,
      /cfd\.yaml:\d+ {2}(the file is nested too deeply|not valid YAML|nested deeper)/,
    ],
    'a file of 100 MB': ['#'.repeat(100 * 1024 * 1024), /cfd\.yaml: {2}the file has 100\.0 MiB, more than the 1.0 MiB/],
    'bytes that are no text': ['\u0000\ud800', /cfd\.yaml/],
  };

  for (const [what, [content, message]] of Object.entries(badAllocations)) {
    test(`${what} is reported with its line, keeps the last good state, and stops nothing else`, {
      skip,
    }, async (t) => {
      const { repository, kube, sync } = started(t);
      repository.commit(baseFiles);
      await sync();
      repository.commit({
        'cfd.yaml': content,
        'other.yaml': allocationYaml('other', 2),
        'gone.yaml': allocationYaml('gone'),
      });
      const result = await sync();
      assert.equal(result.result, 'Partial');
      assert.match(problemsOf(result).join('\n'), message);
      assert.deepEqual(names(kube, nodeAllocations), ['cfd', 'gone', 'other']);
      assert.equal(specOf(kube, nodeAllocations, 'cfd').replicas, 4);
      repository.commit({ 'gone.yaml': undefined });
      await sync();
      assert.deepEqual(
        names(kube, nodeAllocations),
        ['cfd', 'other'],
        'an old broken file must not hold back a prune elsewhere',
      );
      assert.match((await statusData(kube)).problems ?? '', /cfd\.yaml/);
    });
  }

  test('a digest that is not one names the field and the way to get one', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit({ ...baseFiles, 'env.yaml': environmentYaml('rocky').replace(/sha256: .*/, 'sha256: abc') });
    const text = problemsOf(await sync()).join('\n');
    assert.match(text, /env\.yaml:11 spec\.image\.sha256 .*sha256sum/);
    assert.deepEqual([names(kube, computeEnvironments), names(kube, nodeAllocations)], [[], ['cfd']]);
  });

  test('an object that moves into a file that cannot be read is not pruned', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit(baseFiles);
    await sync();
    repository.commit({ 'cfd.yaml': undefined, 'moved/cfd.yaml': `${allocationYaml('cfd')}  bad: [` });
    const result = await sync();
    assert.deepEqual([result.result, result.counts.pruned], ['Partial', 0]);
    assert.match(result.message, /nothing is pruned until moved\/cfd\.yaml can be read/);
    await sync();
    assert.deepEqual(names(kube, nodeAllocations), ['cfd']);
    repository.commit({ 'moved/cfd.yaml': allocationYaml('cfd') });
    assert.equal((await sync()).result, 'Synced');
    assert.deepEqual(names(kube, nodeAllocations), ['cfd']);
  });

  test('an object that moves into a file that cannot be read, out of one with an error, is not pruned', {
    skip,
  }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit({ ...baseFiles, 'pair.yaml': `${allocationYaml('one')}---\n${allocationYaml('two')}` });
    await sync();
    repository.commit({ 'pair.yaml': allocationYaml('one', 'many'), 'moved.yaml': `${allocationYaml('two')}  x: [` });
    await sync();
    repository.commit({ 'pair.yaml': allocationYaml('one') });
    const result = await sync();
    assert.match(result.message, /nothing is pruned until moved.yaml can be read/);
    assert.deepEqual(names(kube, nodeAllocations), ['cfd', 'one', 'two']);
  });

  test('symbolic links and hidden folders are not followed, and nothing below a link is pruned', {
    skip,
  }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit({ ...baseFiles, 'tenants/x.yaml': allocationYaml('x'), '.github/w.yaml': 'on: push\n' });
    assert.equal((await sync()).result, 'Synced');
    repository.commit({ tenants: undefined, 'elsewhere/x.yaml': '# nothing\n' });
    symlinkSync('elsewhere', join(repository.at, 'tenants'));
    symlinkSync('../../../etc/passwd', join(repository.at, 'secret.yaml'));
    repository.commit();
    const text = problemsOf(await sync()).join('\n');
    assert.match(text, /secret\.yaml: {2}a symbolic link out of the repository/);
    assert.match(text, /tenants: {2}a symbolic link to another place/);
    assert.deepEqual(names(kube, nodeAllocations), ['cfd', 'x']);
  });

  test('two files that define one object: both places are named, the last good state stays', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit(baseFiles);
    await sync();
    repository.commit({ 'cfd.yaml': allocationYaml('cfd', 5), 'copy.yaml': `---\n${allocationYaml('cfd', 7)}` });
    const text = problemsOf(await sync()).join('\n');
    assert.match(text, /cfd\.yaml:1 {2}also defined at copy\.yaml:2/);
    assert.match(text, /copy\.yaml:2 {2}also defined at cfd\.yaml:1/);
    assert.equal(specOf(kube, nodeAllocations, 'cfd').replicas, 4);
  });

  test('never pruned: what others made, and what took the place of what was applied', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit({ ...baseFiles, 'x.yaml': allocationYaml('x') });
    await sync();
    const spec = { environmentRef: { name: 'rocky' }, replicas: 1 };
    await kube.create(nodeAllocations, { metadata: { name: 'manual', namespace: 'team-a' }, spec } as never);
    await kube.delete(nodeAllocations, { namespace: 'team-a', name: 'x' });
    await kube.create(nodeAllocations, { metadata: { name: 'x', namespace: 'team-a' }, spec } as never);
    repository.commit({ 'x.yaml': undefined });
    const result = await sync();
    assert.equal(result.counts.pruned, 0);
    assert.deepEqual(names(kube, nodeAllocations), ['cfd', 'manual', 'x']);
  });

  test('a namespace that is missing fails its objects alone, and they follow when it is there', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit({ ...baseFiles, 'b.yaml': allocationYaml('b').replaceAll('team-a', 'team-b') });
    const first = await sync();
    assert.match(problemsOf(first).join('\n'), /b\.yaml:1 .*"team-b" not found.*define the Namespace team-b/);
    assert.deepEqual(names(kube, nodeAllocations), ['cfd']);
    repository.commit({ 'nsb.yaml': namespaceYaml('team-b') });
    assert.equal((await sync()).result, 'Synced');
  });

  test('busy, unanswered and lost writes are read again and end in one object', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit(baseFiles);
    const create = kube.create;
    let calls = 0;
    kube.create = (async (gvk, object, options) => {
      calls += 1;
      if (calls % 3 === 1) throw new KubeError('TooManyRequests', 'busy', { status: 429, retryAfterMs: 1 });
      const made = await create(gvk, object, options);
      if (gvk === nodeAllocations) throw new KubeError('Unknown', 'the connection broke');
      return made;
    }) as typeof kube.create;
    kube.create = kube.create.bind(kube);
    await assert.doesNotReject(async () => {
      // The inventory itself is met by the first 429: the next pass begins anew.
      await sync().catch(() => undefined);
      kube.create = create;
      assert.equal((await sync()).result, 'Synced');
    });
    assert.deepEqual(names(kube, nodeAllocations), ['cfd']);
  });

  test('a damaged inventory holds everything', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit(baseFiles);
    await sync();
    await kube.patch(
      configMaps,
      { namespace: 'operator', name: 'site-inventory-0' },
      { data: { objects: '[{' } },
      { type: 'merge' },
    );
    repository.commit({ 'cfd.yaml': undefined });
    const result = await sync();
    assert.equal(result.result, 'Held');
    assert.match(result.message, /site-inventory-0: data\.objects is damaged/);
    assert.deepEqual(names(kube, nodeAllocations), ['cfd']);
  });
});

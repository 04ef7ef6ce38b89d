/**
 * What a sync does not delete until a person confirms it, or until it can be read what the repository defines, and how it says so.
 */
import assert from 'node:assert/strict';
import { renameSync } from 'node:fs';
import { describe, test } from 'node:test';
import { computeEnvironments, configMaps, namespaces, nodeAllocations } from '../../controller/api/meta.ts';
import type { SyncResult } from '../../controller/gitops/status.ts';
import { syncOnce } from '../../controller/gitops/sync.ts';
import { type KubeClient, KubeError } from '../../controller/kube/port.ts';
import {
  allocationYaml,
  baseFiles,
  environmentYaml,
  gitIsHere,
  names,
  problemsOf,
  specOf,
  started,
} from './support.ts';

const skip = gitIsHere ? false : 'there is no git on this machine';

const confirm = (kube: KubeClient, commit: string): Promise<unknown> =>
  kube.patch(
    configMaps,
    { namespace: 'operator', name: 'site-sync' },
    { metadata: { annotations: { 'bitvisor.io/confirm-prune': commit } } },
    { type: 'merge' },
  );

// Most of the time is git's: the tests share nothing and may overlap.
describe('what a sync holds back', { concurrency: 4 }, () => {
  test('an emptied path prunes nothing until a person confirms that commit', { skip }, async (t) => {
    const { repository, kube, sync } = started(t, 'live');
    repository.commit(Object.fromEntries(Object.entries(baseFiles).map(([path, text]) => [`live/${path}`, text])));
    await sync();
    const commit = repository.commit({ live: undefined });
    const held = await sync();
    assert.deepEqual([held.result, held.counts.pruned], ['Held', 0]);
    assert.match(
      held.message,
      new RegExp(`annotate --overwrite configmap site-sync bitvisor.io/confirm-prune=${commit}`),
    );
    await confirm(kube, 'f'.repeat(40));
    assert.equal((await sync()).result, 'Held');
    assert.deepEqual(names(kube, nodeAllocations), ['cfd']);
    await confirm(kube, commit);
    assert.equal((await sync()).counts.pruned, 2);
    assert.deepEqual([names(kube, nodeAllocations), names(kube, computeEnvironments)], [[], []]);
    assert.deepEqual(names(kube, namespaces), ['team-a'], 'a Namespace is never pruned');
  });

  test('what was there before the repository named it goes only when a person confirms it', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit(baseFiles);
    await sync();
    const spec = { environmentRef: { name: 'rocky' }, replicas: 2 };
    const mine = { apiVersion: 'bitvisor.io/v1alpha1', kind: 'NodeAllocation' };
    await kube.create(nodeAllocations, { ...mine, metadata: { name: 'mine', namespace: 'team-a' }, spec } as never);
    repository.commit({ 'mine.yaml': allocationYaml('mine', 9) });
    assert.equal((await sync()).counts.changed, 1);
    const commit = repository.commit({ 'mine.yaml': undefined });
    const held = await sync();
    assert.deepEqual([held.result, held.counts.pruned], ['Held', 0]);
    assert.match(held.message, /they were there before the repository named them; to delete them: .*confirm-prune/);
    assert.deepEqual(held.notPruned, ['NodeAllocation team-a/mine (mine.yaml): waits for a confirmation']);
    repository.commit({ 'note.txt': 'another commit' });
    assert.deepEqual([(await sync()).result, names(kube, nodeAllocations)], ['Held', ['cfd', 'mine']]);
    await confirm(kube, commit);
    assert.equal((await sync()).result, 'Held', 'another commit was confirmed');
    await confirm(kube, repository.commit({ 'note.txt': 'one more' }));
    assert.equal((await sync()).result, 'Synced');
    assert.deepEqual(names(kube, nodeAllocations), ['cfd']);
  });

  test('what a late request brings back after it was pruned is reported, and not deleted', {
    skip,
  }, async (t) => {
    const { repository, kube, options } = started(t);
    let nowMs = 1_000_000_000_000;
    const clock = { ...options.clock, now: () => nowMs };
    const sync = (): Promise<SyncResult> => syncOnce({ ...options, clock });
    repository.commit({ ...baseFiles, 'late.yaml': allocationYaml('late') });
    await sync();
    const { metadata, ...late } = await kube.get(nodeAllocations, { namespace: 'team-a', name: 'late' });
    const { name, namespace = '', annotations = {} } = metadata;
    repository.commit({ 'late.yaml': undefined });
    assert.equal((await sync()).counts.pruned, 1);
    assert.equal((await sync()).result, 'Synced');
    const arrive = () => kube.create(nodeAllocations, { ...late, metadata: { name, namespace, annotations } });
    await arrive();
    const told = await sync();
    assert.deepEqual([told.result, told.counts.pruned], ['Partial', 0]);
    assert.match(problemsOf(told).join('\n'), /^late.yaml: .*stands there again; left as it is delete it or define/);
    nowMs += 1_800_001;
    kube.writes = 0;
    assert.deepEqual([(await sync()).result, kube.writes], ['Partial', 0], 'said for as long as it is there');
    await kube.delete(nodeAllocations, { namespace, name }, {});
    assert.equal((await sync()).result, 'Synced');
    await arrive();
    kube.writes = 0;
    assert.deepEqual([(await sync()).result, kube.writes], ['Synced', 0], 'forgotten after half an hour');
    assert.deepEqual(names(kube, nodeAllocations), ['cfd', 'late']);
  });

  test('a deletion that arrives late, after the object was defined again, does nothing', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit({ ...baseFiles, 'late.yaml': allocationYaml('late') });
    await sync();
    const { delete: send } = kube;
    let arrive = async (): Promise<unknown> => undefined;
    kube.delete = async (...args) => {
      arrive = () => send(...args);
      throw new KubeError('Unknown', 'no answer');
    };
    repository.commit({ 'late.yaml': undefined });
    assert.match(problemsOf(await sync()).join('\n'), /late.yaml: .*not pruned: no answer; it is tried again/);
    kube.delete = send;
    repository.commit({ 'late.yaml': allocationYaml('late', 5) });
    assert.equal((await sync()).result, 'Synced');
    await assert.rejects(arrive(), { reason: 'Conflict' });
    assert.deepEqual(names(kube, nodeAllocations), ['cfd', 'late']);
  });

  test('what somebody writes to right before it is pruned is pruned by the next pass', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit({ ...baseFiles, 'x.yaml': allocationYaml('x') });
    await sync();
    const { delete: send } = kube;
    kube.delete = async (gvk, key, options) => {
      kube.delete = send;
      await kube.patch(gvk, key, { metadata: { labels: { a: 'b' } } }, { type: 'merge' });
      await send(gvk, key, options);
    };
    repository.commit({ 'x.yaml': undefined });
    const told = await sync();
    assert.deepEqual([told.result, told.counts.pruned], ['Partial', 0]);
    assert.match(problemsOf(told).join('\n'), /somebody wrote to it meanwhile; it is tried again/);
    assert.equal((await sync()).counts.pruned, 1);
    assert.deepEqual(names(kube, nodeAllocations), ['cfd']);
  });

  test('more than half at once waits for a confirmation', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    const many = Object.fromEntries(['a', 'b', 'c', 'd', 'e'].map((name) => [`${name}.yaml`, allocationYaml(name)]));
    repository.commit({ ...baseFiles, ...many });
    await sync();
    repository.commit(Object.fromEntries(Object.keys(many).map((path) => [path, undefined])));
    const held = await sync();
    assert.deepEqual([held.result, held.notPruned.length], ['Held', 5]);
    assert.equal(names(kube, nodeAllocations).length, 6);
  });

  test('what waits for a confirmation waits on when some of the rest is put back', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    const files = Object.fromEntries([1, 2, 3, 4].map((n) => [`${n}.yaml`, allocationYaml(`a${n}`)]));
    repository.commit({ ...baseFiles, ...files });
    await sync();
    repository.commit({ '1.yaml': undefined, '2.yaml': undefined, '3.yaml': undefined, '4.yaml': undefined });
    assert.equal((await sync()).result, 'Held');
    const commit = repository.commit({ '1.yaml': allocationYaml('a1'), '2.yaml': allocationYaml('a2') });
    assert.equal((await sync()).result, 'Held');
    assert.deepEqual(names(kube, nodeAllocations), ['a1', 'a2', 'a3', 'a4', 'cfd']);
    await confirm(kube, commit);
    assert.equal((await sync()).result, 'Synced');
    assert.deepEqual(names(kube, nodeAllocations), ['a1', 'a2', 'cfd']);
  });

  test('the status says of each object whether it waits for a confirmation or is kept for an error', {
    skip,
  }, async (t) => {
    const { repository, kube, sync } = started(t);
    const files = Object.fromEntries([1, 2, 3].map((n) => [`${n}.yaml`, allocationYaml(`a${n}`)]));
    const two = `${allocationYaml('b1')}---\n${allocationYaml('b2')}`;
    repository.commit({ ...baseFiles, ...files, 'two.yaml': two });
    await sync();
    const away = { 'env.yaml': undefined, 'cfd.yaml': undefined };
    repository.commit({ ...away, '1.yaml': undefined, '2.yaml': undefined, '3.yaml': undefined });
    assert.equal((await sync()).result, 'Held');
    repository.commit({ ...baseFiles, 'two.yaml': allocationYaml('b2', 2, '  bogus: 1\n') });
    const both = await sync();
    assert.equal(both.result, 'Held');
    assert.match(both.message, /; 1 object left the repository and is kept: objects of files with errors [^;]*;/);
    assert.match(both.message, /; 3 objects left the repository and wait for a confirmation: [^;]*; to delete them: /);
    assert.deepEqual(both.notPruned, [
      'NodeAllocation team-a/b1 (two.yaml): kept while a file with an error may define it',
      ...[1, 2, 3].map((n) => `NodeAllocation team-a/a${n} (${n}.yaml): waits for a confirmation`),
    ]);
    repository.commit({ 'new.yaml': 'kind: [' });
    const unread = await sync();
    assert.doesNotMatch(unread.message, /wait for a confirmation/);
    assert.ok(
      unread.notPruned.includes(
        'NodeAllocation team-a/a1 (1.yaml): kept while a file with an error may define it, and then waits for a confirmation',
      ),
    );
    repository.commit({ 'new.yaml': undefined, 'two.yaml': allocationYaml('b2') });
    assert.equal((await sync()).counts.pruned, 1);
    assert.deepEqual(names(kube, nodeAllocations), ['a1', 'a2', 'a3', 'b2', 'cfd']);
  });

  test('a repository that is gone, has no branch, or was replaced changes nothing until it is back', {
    skip,
  }, async (t) => {
    const { repository, kube, sync } = started(t);
    const good = repository.commit(baseFiles);
    await sync();
    renameSync(repository.at, `${repository.at}.away`);
    const away = await sync();
    assert.deepEqual([away.result, away.commit], ['Unreachable', good]);
    renameSync(`${repository.at}.away`, repository.at);
    repository.git('branch', '--move', 'main', 'other');
    assert.match((await sync()).message, /has no branch "main"/);
    repository.git('checkout', '--quiet', '--orphan', 'main');
    repository.commit({ 'cfd.yaml': undefined, 'env.yaml': environmentYaml('rocky', '  boot: { firmware: Bios }\n') });
    const replaced = await sync();
    assert.equal(replaced.result, 'Held');
    assert.match(replaced.message, /shares no history/);
    assert.deepEqual(names(kube, nodeAllocations), ['cfd']);
    assert.deepEqual(specOf(kube, computeEnvironments, 'rocky').boot, {
      firmware: 'Uefi',
      ...Object(specOf(kube, computeEnvironments, 'rocky').boot),
    });
    repository.git('checkout', '--quiet', '-B', 'main', good);
    assert.equal((await sync()).result, 'Synced');
  });

  test('a rewritten branch is followed, but what it removes waits', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit({ 'ns.yaml': baseFiles['ns.yaml'], 'env.yaml': baseFiles['env.yaml'] });
    repository.commit({ 'cfd.yaml': allocationYaml('cfd') });
    await sync();
    repository.git('reset', '--quiet', '--hard', 'HEAD~1');
    repository.commit({ 'new.yaml': allocationYaml('new') });
    const held = await sync();
    assert.match(held.message, /the branch was rewritten/);
    await sync();
    assert.deepEqual(names(kube, nodeAllocations), ['cfd', 'new']);
  });

  test('what a rewritten branch brought waits as well when the branch is rewritten again', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    const first = repository.commit({ 'ns.yaml': baseFiles['ns.yaml'], 'env.yaml': baseFiles['env.yaml'] });
    const newest = repository.commit({ 'cfd.yaml': allocationYaml('cfd') });
    await sync();
    repository.git('reset', '--quiet', '--hard', first);
    repository.commit({ 'new.yaml': allocationYaml('new') });
    await sync();
    repository.git('reset', '--quiet', '--hard', newest);
    repository.commit({ 'other.yaml': allocationYaml('other') });
    const held = await sync();
    assert.match(held.message, /the branch was rewritten/);
    assert.match((await sync()).message, /they wait since an earlier commit.*annotate/);
    assert.deepEqual(names(kube, nodeAllocations), ['cfd', 'new', 'other']);
    repository.commit({ 'new.yaml': allocationYaml('new') });
    assert.equal((await sync()).result, 'Synced');
    repository.commit({ 'new.yaml': undefined });
    await sync();
    assert.deepEqual(names(kube, nodeAllocations), ['cfd', 'other'], 'with everything accounted for it is as ever');
  });

  test('what a commit brought waits when its pass was cut off and the branch was then set back', {
    skip,
  }, async (t) => {
    const { repository, kube, sync } = started(t);
    repository.commit(baseFiles);
    await sync();
    repository.commit({ 'late.yaml': allocationYaml('late') });
    const { patch } = kube;
    // The intent is written, the object made, and what was made can no longer be written down.
    kube.patch = (gvk, key, ...rest) =>
      gvk === configMaps && names(kube, nodeAllocations).includes('late')
        ? Promise.reject(new KubeError('Unavailable', 'the connection broke'))
        : patch(gvk, key, ...rest);
    await assert.rejects(sync(), { reason: 'Unavailable' });
    kube.patch = patch;
    repository.git('reset', '--quiet', '--hard', 'HEAD~1');
    repository.commit({ 'note.txt': 'a commit that knows nothing of it' });
    const held = await sync();
    assert.deepEqual([held.result, held.counts.pruned], ['Held', 0], held.message);
    assert.deepEqual(names(kube, nodeAllocations), ['cfd', 'late']);
  });

  test('a rewritten branch is still one when a file of it could not be read at first', { skip }, async (t) => {
    const { repository, kube, sync } = started(t);
    const first = repository.commit({ 'ns.yaml': baseFiles['ns.yaml'], 'env.yaml': baseFiles['env.yaml'] });
    repository.commit({ 'cfd.yaml': allocationYaml('cfd') });
    await sync();
    repository.git('reset', '--quiet', '--hard', first);
    repository.commit({ 'broken.yaml': 'a: [' });
    await sync();
    repository.commit({ 'broken.yaml': undefined });
    assert.match((await sync()).message, /they wait since an earlier commit/);
    assert.deepEqual(names(kube, nodeAllocations), ['cfd']);
  });
});

/** The check without a server, the addresses that git is given, the inventory's shards, and the loop. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseFile } from '../../controller/gitops/documents.ts';
import { folderSource } from '../../controller/gitops/folder-source.ts';
import { follow } from '../../controller/gitops/follow.ts';
import { checkBranch, parseGitAddress } from '../../controller/gitops/git-address.ts';
import { GitCommand } from '../../controller/gitops/git-command.ts';
import { type InventoryEntry, InventoryStore } from '../../controller/gitops/inventory.ts';
import { formatProblem } from '../../controller/gitops/problems.ts';
import type { SyncResult } from '../../controller/gitops/status.ts';
import { validatePaths } from '../../controller/gitops/validate.ts';
import { silentLogger } from '../../controller/runtime/log.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { settle, VirtualClock } from '../support/virtual-clock.ts';
import { allocationYaml, crds, environmentYaml, server } from './support.ts';

test('validate names file, line, field and what was meant, across files', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'validate-'));
  t.after(() => rmSync(folder, { recursive: true }));
  mkdirSync(join(folder, 'b'));
  writeFileSync(
    join(folder, 'a.yaml'),
    `${environmentYaml('rocky')}---\n${allocationYaml('cfd').replace('replicas', 'replcas')}`,
  );
  writeFileSync(join(folder, 'b/x.yml'), allocationYaml('x').replace('{ name: rocky }', '{ name: rokky }'));
  writeFileSync(join(folder, 'b/y.yml'), `${allocationYaml('x')}`);
  writeFileSync(join(folder, 'c.yaml'), allocationYaml('c').replace('{ name: rocky }', '{ name: rokky }'));
  writeFileSync(join(folder, 'notes.txt'), 'not: [read');
  symlinkSync('/etc/passwd', join(folder, 'link.yaml'));
  const { problems, objects } = await validatePaths([folder, join(folder, 'absent')], { crds });
  const text = problems.map((problem) => formatProblem(problem).replaceAll(`${folder}/`, '')).join('\n');
  assert.match(
    text,
    /^a\.yaml:20:3: NodeAllocation team-a\/cfd: spec\.replcas: there is no such field \(did you mean "replicas"\?\)$/m,
  );
  assert.match(text, /^b\/x\.yml:1: .*also defined at .*b\/y\.yml:1/m);
  assert.match(
    text,
    /^c\.yaml:7:.*warning: .*no ComputeEnvironment team-a\/rokky is among these files \(there are rocky\)$/m,
  );
  assert.match(text, /^link\.yaml: a symbolic link out of the repository/m);
  assert.match(text, /^absent: there is no such file/m);
  assert.equal(objects, 2);
});

test('a hostlist that does not parse is named before a server sees it', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'validate-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const agent = (nodes: string, commission: string): string =>
    `apiVersion: bitvisor.io/v1alpha1
kind: BitVisorAgent
metadata: { name: t2r00 }
spec:
  endpoint: https://agent.example
  location: { site: gsic, rack: t2r00 }
  nodes: "${nodes}"
  commission: { storeId: store-0, nodes: "${commission}" }
`;
  writeFileSync(join(folder, 'agent.yaml'), agent('t2r[00-n0', 't2r00n[31-00]'));
  writeFileSync(join(folder, 'job.yaml'), `${allocationYaml('job').trimEnd()}\n  release: "t2r0[0"\n`);
  const { problems } = await validatePaths([folder], { crds });
  const text = problems.map((problem) => formatProblem(problem).replaceAll(`${folder}/`, '')).join('\n');
  assert.match(text, /^agent\.yaml:7:3: BitVisorAgent t2r00: spec\.nodes: hostlist, at character \d+: /m);
  assert.match(text, /^agent\.yaml:8:\d+: BitVisorAgent t2r00: spec\.commission\.nodes: hostlist, at character \d+: /m);
  assert.match(text, /^job\.yaml:\d+:3: .*spec\.release: hostlist, at character 5: this "\[" is never closed/m);
});

test('a List is unrolled with its lines; a repeated field and a terminal escape are refused or made harmless', () => {
  const list = 'apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata:\n    name: one\n';
  const [document] = parseFile('l.yaml', Buffer.from(list)).documents;
  assert.deepEqual([document?.name, document?.line, document?.placeOf(['metadata', 'name']).line], ['one', 4, 7]);
  const twice = parseFile('t.yaml', Buffer.from('a: 1\nb: 2\na: 3\n'));
  assert.deepEqual([twice.problems[0]?.line, twice.unread], [3, true]);
  const shown = formatProblem({ file: 'a\u001b[2J.yaml', severity: 'error', reason: 'x\ny' });
  assert.equal(shown, 'a [2J.yaml: x y');
});

test('addresses: paths, https and ssh pass; options, helpers, credentials and other protocols do not', () => {
  const good = [
    '/srv/site.git',
    'https://git.example/site.git',
    'ssh://git@git.example:2222/site',
    'git@git.example:site.git',
  ];
  assert.deepEqual(
    good.map((text) => parseGitAddress(text).protocol),
    ['file', 'https', 'ssh', 'ssh'],
  );
  const bad = [
    '-oProxyCommand=x',
    'ext::sh -c id',
    'https://u:p@h/x',
    'https://token@h/x',
    'http://h/x',
    'git://h/x',
    'ssh://-oX/y',
    '',
    'a\nb',
  ];
  for (const text of bad) assert.throws(() => parseGitAddress(text), { name: 'GitAddressError' }, text);
  for (const text of ['-x', 'a..b', 'a.lock', 'a//b', 'a b', ''])
    assert.throws(() => checkBranch(text), { name: 'GitAddressError' }, text);
});

test('the password is given to git for the expected host alone, and stands in no environment variable', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'askpass-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const passwordFile = join(folder, 'token');
  writeFileSync(passwordFile, 's3cret');
  const address = parseGitAddress('https://git.example:8443/site.git');
  const options = { address, credentials: { passwordFile }, environment: process.env, silenceMs: 1_000 };
  await GitCommand.prepare(options, join(folder, 'cache'));
  const env = {
    PATH: process.env.PATH ?? '',
    BITVISOR_GIT_HOST: address.host,
    BITVISOR_GIT_USERNAME: 'git',
    BITVISOR_GIT_PASSWORD_FILE: passwordFile,
  };
  const ask = (prompt: string): string => {
    const { status, stdout } = spawnSync(join(folder, 'cache', 'askpass'), [prompt], { env, encoding: 'utf8' });
    return `${status} ${stdout.trim()}`;
  };
  assert.equal(ask("Username for 'https://git.example:8443': "), '0 git');
  assert.equal(ask("Password for 'https://git@git.example:8443': "), '0 s3cret');
  assert.equal(ask("Password for 'https://git@evil.example': "), '1 ');
  assert.equal(ask("Password for 'https://git.example:8443.evil.example': "), '1 ');
});

test('the inventory survives growing over several ConfigMaps', async () => {
  const kube = server();
  const entries = Array.from({ length: 9_000 }, (_, i): InventoryEntry => {
    const name = `object-${String(i).padStart(6, '0')}`;
    return {
      key: `bitvisor.io/NodeAllocation/team-a/${name}`,
      group: 'bitvisor.io',
      version: 'v1alpha1',
      kind: 'NodeAllocation',
      plural: 'nodeallocations',
      namespace: 'team-a',
      name,
      uid: 'u',
      file: 'a.yaml',
      hash: 'f'.repeat(64),
    };
  });
  const write = async (some: InventoryEntry[]): Promise<void> => {
    const store = new InventoryStore(kube, 'operator', 'site');
    await store.read();
    await store.write({ entries: some, commit: 'c', unread: {} });
  };
  for (const count of [10, 9_000, 20]) {
    await write(entries.slice(0, count));
    const { entries: read, commit } = await new InventoryStore(kube, 'operator', 'site').read();
    assert.deepEqual([read.length, commit], [count, 'c']);
  }
});

test('a folder changes its commit with its content', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'folder-'));
  t.after(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, 'a.yaml'), 'a: 1');
  const source = folderSource({ folder });
  const first = await source.fetch(undefined);
  assert.deepEqual([first.history, (await source.fetch(first.commit)).history], ['First', 'Same']);
  writeFileSync(join(folder, 'a.yaml'), 'a: 2');
  assert.equal((await source.fetch(first.commit)).history, 'Descendant');
  await assert.rejects(folderSource({ folder: join(folder, 'absent') }).fetch(undefined), { reason: 'Unreachable' });
});

test('the loop: one pass at a time, a trigger during a pass brings one more, a failure is retried, stop ends it', async () => {
  const clock = new VirtualClock();
  let passes = 0;
  let running = 0;
  let finish = (): void => {};
  const pass = async (): Promise<SyncResult> => {
    passes += 1;
    running += 1;
    assert.equal(running, 1);
    await new Promise<void>((resolve) => {
      finish = resolve;
    });
    running -= 1;
    if (passes === 2) throw new Error('the server is away');
    return { result: 'Synced' } as SyncResult;
  };
  let token = 'a';
  const results: string[] = [];
  const follower = follow({
    pass,
    changeToken: async () => token,
    clock,
    random: seededRandom(1),
    log: silentLogger,
    onResult: (one) => results.push(one.result),
  });
  const ended = async (): Promise<void> => {
    finish();
    await settle();
  };
  await settle();
  follower.trigger();
  follower.trigger();
  await ended();
  assert.equal(passes, 2, 'one more pass for both triggers');
  await ended();
  assert.equal(passes, 2, 'a failure waits');
  await clock.advance(1_500);
  await settle();
  assert.equal(passes, 3);
  await ended();
  token = 'b';
  await clock.advance(1_100);
  await settle();
  assert.equal(passes, 4, 'a new head is seen within a second');
  const stopped = follower.stop();
  await ended();
  await stopped;
  assert.deepEqual(results, ['Synced', 'Synced', 'Synced']);
});

/**
 * The whole program on a small site: from nothing to bare metal, an edit and a commit, ends of every kind, and a next start that goes on.
 * Whether a disk was written is read from the simulated machines' own record.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { after, test } from 'node:test';
import { until } from '../support/until.ts';
import { Program, run } from './program.ts';

const scratch = mkdtempSync(join(tmpdir(), 'bitvisor-standalone-'));
after(() => rmSync(scratch, { recursive: true, force: true }));
const dataDir = join(scratch, 'data');
const repository = join(dataDir, 'repository');
const words = [
  'standalone',
  '--data-dir',
  dataDir,
  '--port',
  '0',
  '--example',
  'test/cli/site',
  '--time-factor',
  '600',
];

/** What was done to disks and power, by machine. */
function record(event: string): string[] {
  const database = new DatabaseSync(join(dataDir, 'agents/racks/small/room.sqlite'), { readOnly: true });
  try {
    const rows = database.prepare('SELECT node FROM history WHERE event = ? ORDER BY node').all(event);
    return rows.map(({ node }) => String(node));
  } finally {
    database.close();
  }
}

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    // A process that ended and was not waited for yet still has its number.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
};

test('a first start makes bare metal of what the example asks for', async () => {
  const { code, stdout, stderr } = await run(...words, '--until-ready', '--timeout', '40');
  assert.equal(code, 0, stdout + stderr);
  assert.match(stdout, /every allocation has what its spec asks for/);
  assert.match(stdout, /kubeconfig +\S+kubeconfig/);
  assert.equal(stderr, '');
  assert.equal(record('imaged').length, 3);
});

test('a second start follows commits, shows mistakes by line, re-images nothing, and Ctrl-C ends it cleanly', async (t) => {
  const before = record('imaged');
  const program = new Program(words);
  t.after(() => program.process.kill('SIGKILL'));
  await program.said(/every allocation has what its spec asks for/);
  const tenant = join(repository, 'tenant.yaml');
  const text = readFileSync(tenant, 'utf8');
  const commit = (changed: string): void => {
    writeFileSync(tenant, changed);
    const person = ['-c', 'user.name=A Tenant', '-c', 'user.email=tenant@example'];
    execFileSync('git', ['-C', repository, ...person, 'commit', '-qam', 'A change']);
  };
  commit(text.replace('replicas: 3', 'replicas: many'));
  await program.said(/tenant\.yaml:\d+.*spec\.replicas/);
  commit(text.replace('replicas: 3', 'replicas: 4'));
  await program.said(/team\/job: BareMetal: 4 of 4 nodes/);
  program.process.kill('SIGINT');
  const { code, stderr } = await program.ended;
  assert.equal(code, 0, stderr);
  assert.equal(stderr, '');
  const imaged = record('imaged');
  assert.equal(imaged.length, before.length + 1);
  assert.equal(new Set(imaged).size, imaged.length, 'no machine was imaged twice');
});

test('after SIGKILL the agents end too, and the next start goes on, at another port where one was taken', async (t) => {
  const before = record('imaged');
  const program = new Program(words);
  t.after(() => program.process.kill('SIGKILL'));
  await program.said(/every allocation has what its spec asks for/);
  const parent = program.process.pid ?? 0;
  const children = readFileSync(`/proc/${parent}/task/${parent}/children`, 'utf8').trim().split(' ').map(Number);
  assert.ok(children.length > 0 && children.every(isAlive));
  program.process.kill('SIGKILL');
  await program.ended;
  await until('the agents end with the program', () => !children.some(isAlive));

  const endpoint = /127\.0\.0\.1:(\d+)/.exec(readFileSync(join(repository, 'rack.yaml'), 'utf8'))?.[1];
  const squatter = createServer().listen(Number(endpoint), '127.0.0.1');
  try {
    const { code, stdout, stderr } = await run(...words, '--until-ready', '--timeout', '40');
    assert.equal(code, 0, stdout + stderr);
    assert.match(stdout, /listen at other ports/);
  } finally {
    squatter.close();
  }
  const subject = execFileSync('git', ['-C', repository, 'log', '-1', '--format=%s'], { encoding: 'utf8' });
  assert.match(subject, /ports that are free/);
  assert.deepEqual(record('imaged'), before, 'nothing was imaged again');
});

test('what cannot be had in time is explained', async () => {
  const example = join(scratch, 'too-large');
  execFileSync('cp', ['-r', 'test/cli/site', example]);
  const tenant = join(example, 'tenant.yaml');
  writeFileSync(tenant, readFileSync(tenant, 'utf8').replace('replicas: 3', 'replicas: 99'));
  const other = ['standalone', '--data-dir', join(scratch, 'other'), '--port', '0', '--example', example];
  const { code, stdout } = await run(...other, '--time-factor', '600', '--until-ready', '--timeout', '10');
  assert.equal(code, 1, stdout);
  assert.match(stdout, /team\/job: .*99/);
});

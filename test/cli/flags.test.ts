/** Help teaches, mistakes are named by their flag, and `validate` judges files as a commit would be judged. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { after, test } from 'node:test';
import { Program, run } from './program.ts';

const scratch = mkdtempSync(join(tmpdir(), 'bitvisor-cli-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

function file(name: string, text: string): string {
  const path = join(scratch, name);
  writeFileSync(path, text);
  return path;
}

for (const command of ['standalone', 'controller', 'agent', 'validate', 'lab']) {
  test(`the help of ${command} shows a command that can be copied`, async () => {
    const { code, stdout } = await run(command, '--help');
    assert.equal(code, 0);
    assert.match(stdout, new RegExp(`^ {2}.*bitvisor-operator ${command} \\S`, 'm'));
  });
}

const mistakes: readonly [string, string[], RegExp][] = [
  ['a port that is none', ['standalone', '--port', '99999'], /'--port <port>'.*from 0 to 65535/],
  ['a factor that is none', ['standalone', '--time-factor', 'fast'], /'--time-factor <n>'.*'fast'/],
  ['a share above 1', ['controller', '--agents-tls', '.', '--hold-share', '2'], /'--hold-share <share>'.*from 0 to 1/],
  ['a misspelt flag', ['standalone', '--until-redy'], /'--until-redy'[\s\S]*--until-ready/],
  ['a missing flag', ['controller'], /'--agents-tls <dir>' not specified/],
  [
    'a missing directory',
    ['controller', '--agents-tls', join(scratch, 'no')],
    /--agents-tls: .*no\/ca\.crt.*must hold ca\.crt/,
  ],
  ['a missing file', ['agent', '--config', join(scratch, 'no.yaml')], /--config: cannot read .*no\.yaml/],
  [
    'a missing example',
    ['standalone', '--port', '0', '--data-dir', join(scratch, 'd'), '--example', '/nowhere'],
    /--example: .*\/nowhere/,
  ],
];
for (const [what, words, expected] of mistakes) {
  test(`${what} is named`, async () => {
    const { code, stderr } = await run(...words);
    assert.equal(code, 1);
    assert.match(stderr, expected);
    assert.doesNotMatch(stderr, /^\s+at /m, 'a mistake of the person shows no stack');
  });
}

test('a host without QEMU is told what to install, before anything is started', async () => {
  const dataDir = join(scratch, 'lab');
  const { code, stdout, stderr } = await new Program(['lab', '--data-dir', dataDir], { ...process.env, PATH: scratch })
    .ended;
  assert.equal(code, 1);
  assert.match(
    stderr,
    /the lab needs qemu-system-x86_64, qemu-img.*: apt-get install qemu-system-x86 ipxe-qemu qemu-utils/,
  );
  assert.equal(stdout, '');
});

test('rates of faults are checked by what they count, and an unknown fault is answered with those there are', async () => {
  const racks = 'racks: [{ name: r, site: s, rack: r, nodes: "n[0-3]" }]\n';
  const head = 'tls: { ca: a, certificate: b, key: c }\n';
  const config = file('faults.yaml', `${head}room: { faultRates: { bmcHang: 2, reset: 3, rest: 1 } }\n${racks}`);
  const { code, stderr } = await run('agent', '--config', config);
  assert.equal(code, 1);
  assert.match(stderr, /room\.faultRates\.bmcHang must be <= 1/);
  assert.match(stderr, /room\.faultRates .*"rest"; there are bmcHang, .*reset/);
  assert.doesNotMatch(stderr, /faultRates\.reset/);
});

test('a mistake in the configuration of agents names the field', async () => {
  const config = file(
    'room.yaml',
    'tls: { ca: a, certificate: b, key: c }\nracks: [{ name: r, site: s, rack: r, nodes: "n[0-3]", prot: 1 }]\n',
  );
  const { code, stderr } = await run('agent', '--config', config);
  assert.equal(code, 1);
  assert.match(stderr, /room\.yaml: racks\[0\] .*"prot"/);
});

test('validate accepts the examples', async () => {
  const { code, stdout } = await run('validate', 'examples/tsubame2', 'test/cli/site');
  assert.equal(code, 0, stdout);
  assert.match(stdout, /6 files, \d+ valid objects, 0 errors\n$/);
});

test('validate shows file, line and field of each mistake, and ends with 1', async () => {
  const bad = file(
    'bad.yaml',
    `apiVersion: bitvisor.io/v1alpha1
kind: NodeAllocation
metadata: { name: job, namespace: team }
spec:
  environmentRef: { name: debian }
  replicas: many
  devirtualise: Never
`,
  );
  const broken = file('broken.yaml', 'a: [1, 2\n');
  const { code, stdout } = await run('validate', bad, broken, join(scratch, 'absent.yaml'));
  assert.equal(code, 1);
  assert.match(stdout, /bad\.yaml:6(:\d+)?: .*spec\.replicas/);
  assert.match(stdout, /bad\.yaml:7(:\d+)?: .*devirtualise.*devirtualize/);
  assert.match(stdout, /broken\.yaml:\d+/);
  assert.match(stdout, /absent\.yaml: there is no such file/);
  assert.match(stdout, /[4-9] errors\n$/);
});

/** `npm run lab` as a person starts it, with one machine, until its allocation has what it asks for; and what is left then. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { namesOf } from '../../agent/drivers/qemu/rack.ts';
import { Program } from '../cli/program.ts';
import { labOptions } from './needs.ts';
import { imageDirectory } from './one-machine.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

test('the command brings up its site and leaves nothing but its directory', labOptions(400), async (t) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'lab-command-'));
  t.after(() => rmSync(dataDir, { recursive: true, force: true }));
  // Built once for all tests.
  await buildLabImages(imageDirectory);
  symlinkSync(imageDirectory, join(dataDir, 'images'));
  const flags = ['--data-dir', dataDir, '--nodes', '1', '--port', '0', '--until-ready', '--timeout', '360'];
  const child = spawn(process.execPath, ['controller/main.ts', 'lab', ...flags], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let printed = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => (printed += chunk.toString()));
  const code = await new Promise((resolve) => child.once('exit', resolve));
  assert.equal(code, 0, printed);
  assert.match(printed, /1 nodes that QEMU plays/);
  assert.match(printed, /red\/compute: .*1 ready/);
  const { netns, runDirectory } = namesOf(join(dataDir, 'agents', 'racks', 'lab'), tmpdir());
  assert.ok(!execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' }).includes(netns), 'no namespace');
  assert.ok(!existsSync(runDirectory), 'no sockets');
});

test('what is missing is named with its package, and a TPM asks for more', async () => {
  const said = async (...flags: readonly string[]): Promise<string> => {
    const lab = new Program(['lab', ...flags], { PATH: '/nowhere' });
    const { code, stderr } = await lab.ended;
    assert.equal(code, 1);
    return stderr;
  };
  assert.match(await said(), /the lab needs qemu-system-x86_64, .*: apt-get install qemu-system-x86 (?!.*swtpm)/);
  assert.match(await said('--tpm'), /the lab needs qemu-system-x86_64, .*swtpm.*: apt-get install .* swtpm/);
});

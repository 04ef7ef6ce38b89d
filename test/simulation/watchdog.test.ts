/** A run that hangs where no timer can see it is ended from outside, and says where it was. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { test } from 'node:test';

const hangs = `
  import { startWatchdog } from ${JSON.stringify(new URL('watchdog.ts', import.meta.url).href)};
  startWatchdog(400).begins(4711);
  async function goesRound() { for (;;) await undefined; }
  await goesRound();
`;

test('promises that never wait end the process, with the seed and the stack', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'watchdog-test-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, 'hangs.mjs');
  writeFileSync(file, hangs);
  const child = spawn(process.execPath, [file], {
    stdio: ['ignore', 'ignore', 'pipe'],
    timeout: 60_000,
    killSignal: 'SIGABRT',
  });
  let said = '';
  child.stderr.on('data', (chunk) => (said += String(chunk)));
  const signal = await new Promise((resolve) => child.on('close', (_code, name) => resolve(name)));
  assert.equal(signal, 'SIGKILL', said);
  assert.match(said, /^seed 4711: /);
  assert.match(said, /at goesRound \(/);
});

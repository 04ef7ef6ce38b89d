/** A run that hangs where no timer can see it is ended from outside, and says where it was. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { type TestContext, test } from 'node:test';

const hangs = `
  import { startWatchdog } from ${JSON.stringify(new URL('watchdog.ts', import.meta.url).href)};
  startWatchdog(400).begins(4711);
  async function goesRound() { for (;;) await undefined; }
  await goesRound();
`;

/** Six runs of which none ever waits, one behind the other. */
const goesOn = `
  import { startWatchdog } from ${JSON.stringify(new URL('watchdog.ts', import.meta.url).href)};
  const watchdog = startWatchdog(2000);
  for (let run = 1; run <= 6; run++) {
    watchdog.begins(run);
    for (const until = Date.now() + 600; Date.now() < until; ) await undefined;
  }
`;

async function endOf(t: TestContext, program: string): Promise<{ signal: string | null; said: string }> {
  const folder = mkdtempSync(join(tmpdir(), 'watchdog-test-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, 'program.mjs');
  writeFileSync(file, program);
  const child = spawn(process.execPath, [file], {
    stdio: ['ignore', 'ignore', 'pipe'],
    timeout: 60_000,
    killSignal: 'SIGABRT',
  });
  let said = '';
  child.stderr.on('data', (chunk) => (said += String(chunk)));
  const signal = await new Promise<string | null>((resolve) => child.on('close', (_code, name) => resolve(name)));
  return { signal, said };
}

test('promises that never wait end the process, with the seed and the stack', async (t) => {
  const { signal, said } = await endOf(t, hangs);
  assert.equal(signal, 'SIGKILL', said);
  assert.match(said, /^seed 4711: /);
  assert.match(said, /at goesRound \(/);
});

test('runs that follow one another at once are no run that hangs', async (t) => {
  assert.deepEqual(await endOf(t, goesOn), { signal: null, said: '' });
});

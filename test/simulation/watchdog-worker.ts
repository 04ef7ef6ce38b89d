/** The thread of watchdog.ts: it looks now and then whether the run goes on, and ends the process where it does not. */
import { writeSync } from 'node:fs';
import { Session } from 'node:inspector/promises';
import process from 'node:process';
import { workerData } from 'node:worker_threads';

const { beats, seeds, patienceMs } = workerData as { beats: Int32Array; seeds: BigInt64Array; patienceMs: number };

const looks = 4;
let seen = -1;
let unchanged = 0;

const end = (): void => void process.kill(process.pid, 'SIGKILL');

async function sayWhere(): Promise<void> {
  const seed = Atomics.load(seeds, 0);
  writeSync(2, `seed ${seed}: for ${patienceMs} ms nothing waited for anything; the thread is here:\n`);
  const session = new Session();
  const files = new Map<string, string>();
  session.connectToMainThread();
  session.on('Debugger.scriptParsed', ({ params }) => files.set(params.scriptId, params.url));
  session.on('Debugger.paused', ({ params }) => {
    for (const { functionName, location } of params.callFrames) {
      const place = `${files.get(location.scriptId) ?? ''}:${location.lineNumber + 1}`;
      writeSync(2, `    at ${functionName || '(anonymous)'} (${place})\n`);
    }
    end();
  });
  await session.post('Debugger.enable');
  await session.post('Debugger.pause');
}

setInterval(() => {
  const now = Atomics.load(beats, 0);
  unchanged = now === seen ? unchanged + 1 : 0;
  seen = now;
  if (unchanged === looks) void sayWhere();
  // A thread that cannot even be asked where it is.
  if (unchanged > 2 * looks) end();
}, patienceMs / looks);

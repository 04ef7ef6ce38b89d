/** One process of several (`jobs.ts`): takes seeds from its parent, one at a time, and answers each. Its arguments are kinds of faults. */
import process from 'node:process';
import type { JobAnswer } from './jobs.ts';
import { runSeed } from './run.ts';
import { patienceMs, startWatchdog } from './watchdog.ts';

const faults = process.argv.slice(2);
const watchdog = startWatchdog(patienceMs);

process.on('message', async (seed: number) => {
  const before = process.cpuUsage();
  watchdog.begins(seed);
  const { recent: _shown, traceLines: _counted, ...result } = await runSeed({ seed, faults });
  const { user, system } = process.cpuUsage(before);
  const answer: JobAnswer = { result, cpuSeconds: (user + system) / 1e6 };
  process.send?.(answer);
});

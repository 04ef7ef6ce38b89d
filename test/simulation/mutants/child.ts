/**
 * A process of the runner: runs seeds, with the mutant of the environment until one finds what the mutant breaks, or without a mutant
 * all of them. Its argument is a JSON array of SeedRun; it says what it found of each in a line of JSON (SeedVerdict).
 */
import process from 'node:process';
import { HotLoopError } from '../../support/virtual-clock.ts';
import { runSeed } from '../run.ts';
import { startWatchdog } from '../watchdog.ts';
import type { SeedRun, SeedVerdict } from './runner.ts';
import { mutantNamed } from './table.ts';

const name = process.env.SIMULATION_MUTANT;
const mutant = name === undefined ? undefined : mutantNamed(name);
const watchdog = startWatchdog(60_000);

for (const { seed, faults } of JSON.parse(process.argv[2] ?? '[]') as SeedRun[]) {
  const mode = faults.length === 0 || faults.includes('none') ? {} : ({ mode: 'Asked' } as const);
  watchdog.begins(seed);
  const { violations } = await runSeed({ seed, faults, ...mode });
  const found = violations.map(({ rule, message }) => ({
    // An exception is no checker's word. A loop in which no time passes is one of rule 8's.
    rule: rule === 0 && message.includes(HotLoopError.name) ? 8 : rule,
    message: message.slice(0, 500),
  }));
  const verdict: SeedVerdict = { seed, violations: found.slice(0, 20) };
  process.stdout.write(`${JSON.stringify(verdict)}\n`);
  if (mutant !== undefined && found.some(({ rule }) => mutant.rules.includes(rule))) break;
}
// What the last run left pending keeps nobody waiting.
process.exit();

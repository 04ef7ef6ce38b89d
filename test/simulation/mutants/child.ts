/**
 * The process of one mutant: runs seeds until a rule is found broken that the mutant breaks. Arguments: the seeds, separated by
 * commas; the mutant is that of the environment. Says what it found of each seed in a line of JSON (SeedVerdict in runner.ts).
 */
import process from 'node:process';
import { HotLoopError } from '../../support/virtual-clock.ts';
import { runSeed } from '../run.ts';
import { mutantNamed } from './table.ts';

const mutant = mutantNamed(process.env.SIMULATION_MUTANT ?? '');

for (const seed of (process.argv[2] ?? '').split(',').map(Number)) {
  const { violations } = await runSeed({ seed, ...(mutant.faults === undefined ? {} : { faults: mutant.faults }) });
  // An exception is no checker's word. A loop in which no time passes is one of rule 8's.
  const found = violations.map(({ rule, message }) => ({
    rule: rule === 0 && message.includes(HotLoopError.name) ? 8 : rule,
    message,
  }));
  process.stdout.write(`${JSON.stringify({ seed, violations: found })}\n`);
  if (found.some(({ rule }) => mutant.rules.includes(rule))) break;
}
process.exit();

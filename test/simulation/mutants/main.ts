/**
 * `npm run simulate:mutants` runs every mutant over seeds until it is caught and writes results/mutants.json, from which
 * docs/safety.md is generated; with names, these alone. `npm run test:mutants` (`--recorded`) begins with the seed that caught it
 * before, writes nothing, and fails where one is no longer caught.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import process from 'node:process';
import { Command, InvalidArgumentError } from 'commander';
import { type MutantResult, runMutants } from './runner.ts';
import { mutantNamed, mutants } from './table.ts';

interface Flags {
  readonly seeds: number;
  readonly processes: number;
  readonly secondsPerSeed: number;
  readonly recorded?: boolean;
}

const file = new URL('../results/mutants.json', import.meta.url);
const say = (text: string): void => void process.stdout.write(`${text}\n`);

function positive(text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1 && value <= 100_000) return value;
  throw new InvalidArgumentError('It must be a whole number from 1 to 100000.');
}

function recordedResults(): MutantResult[] {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as MutantResult[];
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

function lineOf({ name, seedsTried, caught, trouble }: MutantResult): string {
  const what =
    caught === undefined
      ? `NOT CAUGHT by ${seedsTried} seeds${trouble === undefined ? '' : ` (${trouble})`}`
      : `rule ${caught.rule}${caught.seed === undefined ? '' : `, seed ${caught.seed} (${seedsTried} tried)`}: ${caught.message.split('\n', 1)[0]}`;
  return `${name}: ${what}`.slice(0, 240);
}

/** The results of before, those of this run in their place, in the order of the table. */
function merged(results: readonly MutantResult[]): MutantResult[] {
  const known = new Map([...recordedResults(), ...results].map((result) => [result.name, result]));
  return mutants.flatMap(({ name }) => known.get(name) ?? []);
}

async function main(names: readonly string[], flags: Flags): Promise<void> {
  const chosen = names.length === 0 ? mutants : names.map(mutantNamed);
  const before = recordedResults();
  const first = new Map(
    flags.recorded
      ? before.flatMap(({ name, caught }) => (caught?.seed === undefined ? [] : [[name, caught.seed] as const]))
      : [],
  );
  const startedAt = performance.now();
  const results = await runMutants(chosen, {
    seeds: Array.from({ length: flags.seeds }, (_, index) => index + 1),
    first,
    processes: flags.processes,
    secondsPerSeed: flags.secondsPerSeed,
    onResult: (result) => say(lineOf(result)),
  });
  const missed = results.filter(({ caught }) => caught === undefined);
  const seconds = Math.round((performance.now() - startedAt) / 1000);
  say(`${results.length - missed.length} of ${results.length} mutants were caught, in ${seconds} s`);
  mkdirSync(new URL('.', file), { recursive: true });
  if (!flags.recorded) writeFileSync(file, `${JSON.stringify(merged(results), undefined, 2)}\n`);
  if (missed.length === 0) return;
  say(`not caught: ${missed.map(({ name }) => name).join(', ')}`);
  process.exitCode = 1;
}

await new Command('simulate:mutants')
  .argument('[names...]', 'of mutants; default: all')
  .option('--seeds <count>', 'seeds, from 1, before a mutant counts as missed', positive, 50)
  .option('--processes <count>', 'at once', positive, 2)
  .option('--seconds-per-seed <seconds>', 'after which a child counts as hung', positive, 120)
  .option('--recorded', 'begin with the recorded seed, write nothing')
  .action(main)
  .parseAsync();

/**
 * Runs mutants, each in a process of its own, until a checker of a rule that the mutant should break finds it.
 *
 * Invariants:
 * 1. A mutant is caught by a checker alone: a process that died, hung or said nothing proved nothing.
 * 2. A seed that was recorded comes first, the others after it in order: the same code catches the same mutants again.
 * 3. No more than `processes` run at once, each in a session that ends with this one.
 */
import { spawn } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Mutant } from './mutant.ts';

/** What the child says of one seed; a line of JSON each. */
export interface SeedVerdict {
  readonly seed: number;
  readonly violations: readonly { readonly rule: number; readonly message: string }[];
}

export interface MutantResult {
  readonly name: string;
  /** Seeds that were run, the one that caught it included. */
  readonly seedsTried: number;
  readonly caught?: {
    /** Absent where a test found it. */
    readonly seed?: number;
    readonly rule: number;
    readonly message: string;
  };
  /** Why there is no more to say: a child that died or hung. */
  readonly trouble?: string;
}

export interface RunOptions {
  readonly seeds: readonly number[];
  /** Seeds by name of mutant that come first. */
  readonly first: ReadonlyMap<string, number>;
  readonly processes: number;
  readonly secondsPerSeed: number;
  readonly onResult: (result: MutantResult) => void;
}

const root = fileURLToPath(new URL('../../../', import.meta.url));
const hook = fileURLToPath(new URL('load-hook.ts', import.meta.url));
const child = fileURLToPath(new URL('child.ts', import.meta.url));
/** Compiled production code is the same for every child. */
const compileCache = join(tmpdir(), 'bitvisor-operator-mutants');

/** Runs the seeds in one child until it is caught. */
async function runMutant(mutant: Mutant, seeds: readonly number[], secondsPerSeed: number): Promise<MutantResult> {
  const { name, rules } = mutant;
  const running = spawn(process.execPath, ['--import', hook, child, seeds.join()], {
    env: { ...process.env, SIMULATION_MUTANT: name, NODE_COMPILE_CACHE: compileCache },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const end = (): void => void running.kill('SIGKILL');
  process.once('exit', end);
  let timer: NodeJS.Timeout | undefined;
  let trouble: string | undefined;
  const watch = (): void => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      trouble = `seed ${seeds[seedsTried]} was not over after ${secondsPerSeed} s`;
      end();
    }, secondsPerSeed * 1000);
  };
  let seedsTried = 0;
  let caught: MutantResult['caught'];
  let errors = '';
  running.stderr.on('data', (chunk) => {
    errors = (errors + String(chunk)).slice(-2_000);
  });
  const ended = new Promise<number | null>((resolve) => running.on('close', resolve));
  watch();
  for await (const line of createInterface({ input: running.stdout })) {
    watch();
    const { seed, violations } = JSON.parse(line) as SeedVerdict;
    seedsTried++;
    const found = violations.find(({ rule }) => rules.includes(rule));
    if (found !== undefined) caught ??= { seed, ...found };
  }
  const code = await ended;
  clearTimeout(timer);
  process.off('exit', end);
  if (caught === undefined && code !== 0) trouble ??= `the process ended with ${code}: ${errors.trim()}`;
  return {
    name,
    seedsTried,
    ...(caught === undefined ? {} : { caught }),
    ...(trouble === undefined ? {} : { trouble }),
  };
}

/** The test fails with the mutant; that it passes without is what `npm test` says. */
async function runTest({ name, rules }: Mutant, file: string, pattern: string): Promise<MutantResult> {
  const running = spawn(process.execPath, ['--import', hook, `--test-name-pattern=${pattern}`, join(root, file)], {
    cwd: root,
    env: { ...process.env, SIMULATION_MUTANT: name, NODE_COMPILE_CACHE: compileCache },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [running.stdout, running.stderr]) stream.on('data', (chunk) => (output += String(chunk)));
  const code = await new Promise<number | null>((resolve) => running.on('close', resolve));
  const failed = /^\s*✖ (.+) \([\d.]+ms\)$/m.exec(output)?.[1];
  if (code === 0 || failed === undefined || !output.includes('AssertionError')) {
    const trouble = code === 0 ? 'the test passes' : `no test failed, and yet: ${output.slice(-500)}`;
    return { name, seedsTried: 0, trouble };
  }
  return { name, seedsTried: 0, caught: { rule: rules[0] ?? 0, message: `${file}: ${failed}` } };
}

/** In the order of `mutants`. */
export async function runMutants(mutants: readonly Mutant[], options: RunOptions): Promise<MutantResult[]> {
  const results = new Map<string, MutantResult>();
  const queue = mutants.values();
  const work = async (): Promise<void> => {
    for (const mutant of queue) {
      const recorded = options.first.get(mutant.name);
      const rest = options.seeds.filter((seed) => seed !== recorded);
      const seeds = recorded === undefined ? rest : [recorded, ...rest];
      const { test } = mutant;
      const result =
        test === undefined
          ? await runMutant(mutant, seeds, options.secondsPerSeed)
          : await runTest(mutant, test.file, test.name);
      results.set(mutant.name, result);
      options.onResult(result);
    }
  };
  await Promise.all(Array.from({ length: options.processes }, work));
  return mutants.flatMap(({ name }) => results.get(name) ?? []);
}

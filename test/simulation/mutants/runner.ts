/**
 * Runs mutants, each in a process of its own, until a checker of a rule that the mutant should break finds it.
 *
 * Invariants:
 * 1. A mutant is caught by a checker alone: a process that died, hung or said nothing proved nothing.
 * 2. A seed that finds something without the mutant as well proves nothing: another one is looked for.
 * 3. A seed that was recorded comes first, the others after it in order: the same code catches the same mutants again.
 */
import { spawn } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Mutant } from './mutant.ts';

export interface SeedRun {
  readonly seed: number;
  /** Families or kinds; empty: all. */
  readonly faults: readonly string[];
}

export interface SeedVerdict {
  readonly seed: number;
  /** Rule 0: an error that no rule names. */
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

interface Run {
  readonly verdicts: readonly SeedVerdict[];
  readonly trouble: string | undefined;
}

/** One child: these seeds, with the mutant or without one. */
async function runChild(name: string | undefined, runs: readonly SeedRun[], secondsPerSeed: number): Promise<Run> {
  const { SIMULATION_MUTANT: _other, ...env } = process.env;
  const running = spawn(process.execPath, ['--import', hook, child, JSON.stringify(runs)], {
    env: { ...env, ...(name === undefined ? {} : { SIMULATION_MUTANT: name }), NODE_COMPILE_CACHE: compileCache },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const end = (): void => void running.kill('SIGKILL');
  process.once('exit', end);
  const verdicts: SeedVerdict[] = [];
  let trouble: string | undefined;
  let timer: NodeJS.Timeout | undefined;
  const watch = (): void => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      trouble = `seed ${runs[verdicts.length]?.seed} was not over after ${secondsPerSeed} s`;
      end();
    }, secondsPerSeed * 1000);
  };
  let errors = '';
  running.stderr.on('data', (chunk) => {
    errors = (errors + String(chunk)).slice(-2_000);
  });
  const ended = new Promise<number | null>((resolve) => running.on('close', resolve));
  watch();
  for await (const line of createInterface({ input: running.stdout })) {
    watch();
    verdicts.push(JSON.parse(line) as SeedVerdict);
  }
  const code = await ended;
  clearTimeout(timer);
  process.off('exit', end);
  if (code !== 0) trouble ??= `the process ended with ${code}: ${errors.trim()}`;
  return { verdicts, trouble };
}

/** Which seeds find something although nothing was changed. */
class Baseline {
  readonly #known = new Map<string, Promise<boolean>>();
  readonly #secondsPerSeed: number;

  constructor(secondsPerSeed: number) {
    this.#secondsPerSeed = secondsPerSeed;
  }

  isClean(run: SeedRun): Promise<boolean> {
    const key = JSON.stringify(run);
    const known =
      this.#known.get(key) ??
      runChild(undefined, [run], this.#secondsPerSeed).then(
        ({ verdicts, trouble }) => trouble === undefined && verdicts[0]?.violations.length === 0,
      );
    this.#known.set(key, known);
    return known;
  }
}

async function runMutant(
  mutant: Mutant,
  seeds: readonly number[],
  baseline: Baseline,
  secondsPerSeed: number,
): Promise<MutantResult> {
  const { name, rules, faults = [] } = mutant;
  let left = seeds.map((seed): SeedRun => ({ seed, faults }));
  let seedsTried = 0;
  let trouble: string | undefined;
  while (left.length > 0) {
    const run = await runChild(name, left, secondsPerSeed);
    seedsTried += run.verdicts.length;
    const last = run.verdicts.at(-1);
    const found = last?.violations.find(({ rule }) => rules.includes(rule));
    if (last !== undefined && found !== undefined && (await baseline.isClean({ seed: last.seed, faults }))) {
      return { name, seedsTried, caught: { seed: last.seed, ...found } };
    }
    trouble ??= run.trouble;
    // The seed at which a child died or hung is left out.
    left = left.slice(run.verdicts.length + (found === undefined ? 1 : 0));
  }
  return { name, seedsTried, ...(trouble === undefined ? {} : { trouble }) };
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
  const { first, seeds, processes, secondsPerSeed, onResult } = options;
  const baseline = new Baseline(secondsPerSeed);
  const results = new Map<string, MutantResult>();
  const queue = mutants.values();
  const work = async (): Promise<void> => {
    for (const mutant of queue) {
      const { name, test } = mutant;
      const recorded = first.get(name);
      const rest = seeds.filter((seed) => seed !== recorded);
      const ordered = recorded === undefined ? rest : [recorded, ...rest];
      const result =
        test === undefined
          ? await runMutant(mutant, ordered, baseline, secondsPerSeed)
          : await runTest(mutant, test.file, test.name);
      results.set(name, result);
      onResult(result);
    }
  };
  await Promise.all(Array.from({ length: processes }, work));
  return mutants.flatMap(({ name }) => results.get(name) ?? []);
}

/**
 * The page of what the operator promises (docs/safety.md): the text is written by hand in safety-template.md, every figure comes from
 * the files that the simulator wrote (test/simulation/results/*.json), the tables from the lists of faults, mutants and bugs found.
 *
 * Invariant: the page follows from committed files alone.
 */
import type { MutantResult } from '../test/simulation/mutants/runner.ts';
import { mutants } from '../test/simulation/mutants/table.ts';
import type { SummaryJson } from '../test/simulation/summary.ts';
import { faultText } from './safety-faults.ts';

/** A bug that the simulator found; a line of found.json. */
export interface FoundBug {
  readonly seed: number;
  /** Those that it was run with; empty: all. */
  readonly faults: readonly string[];
  /** What was wrong, in a sentence. */
  readonly found: string;
  /** The commit that mended it. */
  readonly fixedBy: string;
}

export interface SafetyInput {
  readonly template: string;
  /** Fault kinds by `family.kind`. */
  readonly kinds: readonly string[];
  readonly longRun: SummaryJson | undefined;
  readonly mutantResults: readonly MutantResult[];
  readonly found: readonly FoundBug[];
}

/** A cell of a table: no line breaks, no column of its own. */
const cell = (text: string | number): string => String(text).replaceAll('|', '\\|').replaceAll('\n', ' ');

function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const line = (cells: readonly (string | number)[]): string => `| ${cells.map(cell).join(' | ')} |`;
  return [line(head), `|${head.map(() => '---').join('|')}|`, ...rows.map(line)].join('\n');
}

const grouped = (value: number): string => value.toLocaleString('en-US');

function longRunText(run: SummaryJson | undefined): string {
  if (run === undefined) return 'No long run is recorded yet.';
  const { seeds, virtualHours, tenancies, cpuSeconds, tenanciesPerCpuSecond, violations, faults } = run;
  const struck = Object.values(faults).reduce((sum, count) => sum + count, 0);
  const years = virtualHours / 24 / 365.25;
  const failed = run.failed.map(({ seed }) => seed).join(', ');
  return [
    'The newest long run:',
    '',
    table(
      ['', ''],
      [
        ['seeds', `${grouped(seeds.count)} (${seeds.first} to ${seeds.last})`],
        ['simulated time', `${years.toFixed(1)} years`],
        ['node-tenancies', grouped(tenancies)],
        ['faults that struck', grouped(struck)],
        [
          'CPU',
          `${(cpuSeconds / 3600).toFixed(2)} h, ${grouped(tenanciesPerCpuSecond)} node-tenancies per second of CPU`,
        ],
        ['violations', violations === 0 ? '0' : `${violations}, in seeds ${failed}`],
      ],
    ),
    '',
    'The same again:',
    '',
    '```sh',
    `npm run simulate -- --seeds ${seeds.first}..${seeds.last}`,
    '```',
  ].join('\n');
}

function faultTable(kinds: readonly string[], run: SummaryJson | undefined): string {
  const families = Map.groupBy(kinds, (kind) => kind.split('.', 1)[0] ?? '');
  const rows = [...families].flatMap(([family, members]) =>
    members.map((kind) => [
      family,
      kind.slice(family.length + 1),
      faultText(kind),
      run === undefined ? '' : grouped(run.faults[kind] ?? 0),
    ]),
  );
  const text =
    'Each kind strikes with a rate of its own, drawn from the seed; some seeds have one kind or one family alone. Counts are those of the long run.';
  return `${text}\n\n${table(['family', 'fault', 'what happens', 'struck'], rows)}`;
}

function mutantTable(results: readonly MutantResult[]): string {
  const known = new Map(results.map((result) => [result.name, result]));
  const rows = mutants.map(({ name, mistake, test }) => {
    const { caught, seedsTried = 0 } = known.get(name) ?? {};
    if (caught === undefined) return [`\`${name}\``, mistake, '', `not in ${seedsTried}`, ''];
    if (test !== undefined) return [`\`${name}\``, mistake, caught.rule, '', `\`${test.file}\``];
    return [`\`${name}\``, mistake, caught.rule, seedsTried, caught.seed ?? ''];
  });
  const caught = mutants.filter(({ name }) => known.get(name)?.caught !== undefined).length;
  const byTest = mutants.filter(({ test }) => test !== undefined).length;
  const summary =
    `${caught} of ${mutants.length} mistakes are found, ${byTest} of them by a test of their own, because the simulator does not reach ` +
    'the code. Rule is the number of the promise whose checker spoke first.';
  return `${summary}\n\n${table(['mutant', 'mistake', 'rule', 'seeds needed', 'found by seed'], rows)}`;
}

function foundTable(found: readonly FoundBug[]): string {
  if (found.length === 0) return 'Nothing yet.';
  const rows = found.map(({ seed, faults, found: bug, fixedBy }) => [
    bug,
    faults.length === 0 ? seed : `${seed}, ${faults.join(', ')}`,
    fixedBy === '' ? 'not yet' : `\`${fixedBy}\``,
  ]);
  const text =
    'Each with the seed that showed it then, and the faults that it was run with where not all. A seed stands for another run once the simulator has changed.';
  return `${text}\n\n${table(['bug', 'seed', 'mended by'], rows)}`;
}

/** @throws Error where the template asks for a part that nobody makes */
export function safetyPage({ template, kinds, longRun, mutantResults, found }: SafetyInput): string {
  const parts: Readonly<Record<string, string>> = {
    'long-run': longRunText(longRun),
    faults: faultTable(kinds, longRun),
    mutants: mutantTable(mutantResults),
    found: foundTable(found),
  };
  const page = template.replaceAll(/<!-- ([a-z-]+) -->/g, (_marker, name: string) => {
    const part = parts[name];
    if (part === undefined) throw new Error(`safety-template.md asks for ${name}, which nobody makes`);
    return part;
  });
  return `<!-- Generated from safety-template.md and test/simulation by docs/generate.ts: run "npm run generate". -->\n\n${page}`;
}

/**
 * The page of what the operator promises (docs/safety.md): the text is written by hand in safety-template.md, every figure comes from
 * the files that the simulator wrote (test/simulation/results/*.json) and from the lists of mutants and of what was found.
 *
 * Invariant: the page follows from committed files alone.
 */
import type { MutantResult } from '../test/simulation/mutants/runner.ts';
import { mutants } from '../test/simulation/mutants/table.ts';

export interface SafetyInput {
  readonly template: string;
  readonly mutantResults: readonly MutantResult[];
}

/** A cell of a table: no line breaks, no column of its own. */
const cell = (text: string | number): string => String(text).replaceAll('|', '\\|').replaceAll('\n', ' ');

function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const line = (cells: readonly (string | number)[]): string => `| ${cells.map(cell).join(' | ')} |`;
  return [line(head), `|${head.map(() => '---').join('|')}|`, ...rows.map(line)].join('\n');
}

function mutantTable(results: readonly MutantResult[]): string {
  const known = new Map(results.map((result) => [result.name, result]));
  const rows = mutants.map(({ name, mistake, test }) => {
    const result = known.get(name);
    const caught = result?.caught;
    return [
      `\`${name}\``,
      mistake,
      caught === undefined ? '' : caught.rule,
      caught === undefined
        ? `not in ${result?.seedsTried ?? 0}`
        : caught.seed === undefined
          ? ''
          : (result?.seedsTried ?? ''),
      caught === undefined ? '' : (caught.seed ?? `\`${test?.file}\``),
    ];
  });
  const caught = mutants.filter(({ name }) => known.get(name)?.caught !== undefined).length;
  const summary = `${caught} of ${mutants.length} mistakes are found.`;
  return `${summary}\n\n${table(['mutant', 'mistake', 'found by rule', 'seeds needed', 'seed'], rows)}`;
}

export function safetyPage({ template, mutantResults }: SafetyInput): string {
  const parts: Readonly<Record<string, string>> = {
    mutants: mutantTable(mutantResults),
  };
  const page = template.replaceAll(/<!-- ([a-z-]+) -->/g, (_marker, name: string) => {
    const part = parts[name];
    if (part === undefined) throw new Error(`safety-template.md asks for ${name}, which nobody makes`);
    return part;
  });
  return `<!-- Generated from safety-template.md and test/simulation/results by docs/generate.ts: run "npm run generate". -->\n\n${page}`;
}

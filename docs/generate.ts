/**
 * Makes the pages that are generated: `node docs/generate.ts` writes them; with `--check` it exits with 1 when one is stale.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { parse } from 'yaml';
import type { CustomResourceDefinition } from '../controller/standalone/schema/index.ts';
import { allFamilies } from '../test/simulation/faults/families.ts';
import { generate } from '../tools/generated.ts';
import { apiPage } from './api-page.ts';
import { recordingSvg } from './recording.ts';
import { safetyPage } from './safety-page.ts';
import { statesPage } from './states-page.ts';

const directory = new URL('../crds/', import.meta.url);
const crds = readdirSync(directory)
  .filter((file) => file.endsWith('.yaml'))
  .sort()
  .map((file) => parse(readFileSync(new URL(file, directory), 'utf8')) as CustomResourceDefinition);

const recorded = (file: string): string => readFileSync(new URL(file, import.meta.url), 'utf8');

/** What a run of the simulator wrote, or `absent` where none was recorded. */
function recordedBy<T>(file: string, absent: T): T {
  const url = new URL(`../test/simulation/${file}`, import.meta.url);
  return existsSync(url) ? (JSON.parse(readFileSync(url, 'utf8')) as T) : absent;
}

generate({
  'docs/api.md': apiPage(crds),
  'docs/safety.md': safetyPage({
    template: readFileSync(new URL('safety-template.md', import.meta.url), 'utf8'),
    kinds: allFamilies.flatMap(({ kinds }) => kinds.map(({ name }) => name)),
    longRun: recordedBy('results/long-run.json', undefined),
    mutantResults: recordedBy('results/mutants.json', []),
    found: recordedBy('found.json', []),
  }),
  'docs/states.md': statesPage(),
  'docs/start.svg': recordingSvg(recorded('start.txt'), 'npm start: a commit becomes running nodes'),
  'docs/lab.svg': recordingSvg(recorded('lab.txt'), 'npm run lab: commits become guests on machines that QEMU plays'),
});

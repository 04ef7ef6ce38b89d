/**
 * Makes the pages that are generated: `node docs/generate.ts` writes them; with `--check` it exits with 1 when one is stale.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { parse } from 'yaml';
import type { CustomResourceDefinition } from '../controller/standalone/schema/index.ts';
import { generate } from '../tools/generated.ts';
import { apiPage } from './api-page.ts';
import { recordingSvg } from './recording.ts';
import { statesPage } from './states-page.ts';

const directory = new URL('../crds/', import.meta.url);
const crds = readdirSync(directory)
  .filter((file) => file.endsWith('.yaml'))
  .sort()
  .map((file) => parse(readFileSync(new URL(file, directory), 'utf8')) as CustomResourceDefinition);

const recorded = (file: string): string => readFileSync(new URL(file, import.meta.url), 'utf8');

generate({
  'docs/api.md': apiPage(crds),
  'docs/states.md': statesPage(),
  'docs/start.svg': recordingSvg(recorded('start.txt'), 'npm start: a commit becomes running nodes'),
  'docs/lab.svg': recordingSvg(recorded('lab.txt'), 'npm run lab: commits become guests on machines that QEMU plays'),
});

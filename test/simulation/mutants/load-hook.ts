/**
 * Given to node with `--import`: loads production code with the mistake of the mutant that the environment names.
 *
 * Invariant: a process that was to run a mutant and did not load one of its files ends with an error, because it proved nothing.
 */
import { registerHooks } from 'node:module';
import process from 'node:process';
import { filesOf, mutate } from './mutant.ts';
import { mutantNamed } from './table.ts';

const root = new URL('../../../', import.meta.url).href;
const name = process.env.SIMULATION_MUTANT;

if (name !== undefined) {
  const mutant = mutantNamed(name);
  const unloaded = new Set(filesOf(mutant));
  registerHooks({
    load(url, context, nextLoad) {
      const loaded = nextLoad(url, context);
      const file = url.startsWith(root) ? url.slice(root.length) : '';
      if (!mutant.edits.some((edit) => edit.file === file)) return loaded;
      unloaded.delete(file);
      return { ...loaded, source: mutate(mutant, file, String(loaded.source)), shortCircuit: true };
    },
  });
  process.on('exit', (code) => {
    if (code !== 0 || unloaded.size === 0) return;
    process.stderr.write(`mutant ${name}: ${[...unloaded].join(', ')} was never loaded\n`);
    process.exitCode = 1;
  });
}

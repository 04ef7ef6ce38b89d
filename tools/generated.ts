/**
 * Generated files: written, or with `--check` compared with what is committed.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = new URL('..', import.meta.url);

/** The text of a file, named relative to the root; undefined where there is none. */
function committed(path: string): string | undefined {
  try {
    return readFileSync(new URL(path, root), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/**
 * @param outputs text of each file, by its path relative to the root.
 * With `--check` on the command line nothing is written, and a stale file is named on stderr and makes the exit code 1.
 */
export function generate(outputs: Readonly<Record<string, string>>): void {
  const check = process.argv.includes('--check');
  for (const [path, text] of Object.entries(outputs)) {
    if (committed(path) === text) continue;
    if (check) {
      process.stderr.write(`${path} is stale: run "npm run generate" and commit it\n`);
      process.exitCode = 1;
      continue;
    }
    const target = fileURLToPath(new URL(path, root));
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, text);
  }
}

/** Small JSON files that survive the end of the process: written beside their place, then renamed. */
import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

/** The value, or undefined where there is no such file. @throws when it is no JSON */
export function readJsonFile<Value>(path: string): Value | undefined {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  return JSON.parse(text) as Value;
}

/**
 * Readable by the agent's own user alone: plans hold secrets of tenants. Durable when it returns: what is stored here permits what follows.
 * @throws when it cannot be; the value of before is then still there
 */
export function writeJsonFile(path: string, value: unknown): void {
  const directory = dirname(path);
  mkdirSync(directory, { recursive: true });
  writeFileSync(`${path}.new`, JSON.stringify(value), { mode: 0o600, flush: true });
  renameSync(`${path}.new`, path);
  const handle = openSync(directory, 'r');
  try {
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
}

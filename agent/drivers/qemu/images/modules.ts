/**
 * Finds kernel modules by name in an unpacked kernel package.
 */
import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';

/** Name and content, in the order asked for, which is the order of loading. Throws for a module that is not there. */
export async function moduleFiles(directory: string, names: readonly string[]): Promise<[string, Buffer][]> {
  const paths = new Map<string, string>();
  for (const path of await readdir(directory, { recursive: true })) {
    if (path.endsWith('.ko')) paths.set(basename(path, '.ko').replaceAll('-', '_'), join(directory, path));
  }
  const found: [string, Buffer][] = [];
  for (const name of names) {
    const path = paths.get(name);
    if (path === undefined) throw new Error(`the kernel package has no module ${name} below ${directory}`);
    found.push([name, await readFile(path)]);
  }
  return found;
}

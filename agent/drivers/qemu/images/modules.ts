/**
 * Kernel modules of an unpacked kernel package: found by name, and written for `modprobe`.
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

/** What a signed module ends with; before it lie the signature and, big-endian, its length (linux/module_signature.h). */
const signatureEnd = Buffer.from('~Module signature appended~\n');
const signatureInfoBytes = 12;

/** The module without the signature of its package, or as it is when it has none. */
export function unsignedModule(module: Buffer): Buffer {
  const info = module.length - signatureEnd.length - signatureInfoBytes;
  if (info < 0 || !module.subarray(-signatureEnd.length).equals(signatureEnd)) return module;
  const bytes = module.readUInt32BE(info + signatureInfoBytes - 4);
  if (bytes > info) throw new Error(`a module of ${module.length} bytes says that ${bytes} of them are its signature`);
  return module.subarray(0, info - bytes);
}

/** A modules.dep in which each module needs those before it, so that `modprobe` of the last one loads all, in this order. */
export function loadInOrder(names: readonly string[]): string {
  return names
    .map(
      (name, index) =>
        `${name}.ko:${names
          .slice(0, index)
          .reverse()
          .map((needed) => ` ${needed}.ko`)
          .join('')}\n`,
    )
    .join('');
}

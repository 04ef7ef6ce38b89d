/**
 * The trusted image of reclaim: an initramfs that holds all it runs, started over the network with the cloud kernel.
 *
 * Invariant: the bytes depend on the packages and this directory alone, so that a measured boot can be compared with them.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cpio, type Entry } from './cpio.ts';
import { bootModules, type Ingredients, lateModules } from './linux-image.ts';
import { moduleFiles } from './modules.ts';

export interface TrustedIngredients extends Ingredients {
  /** Roots of unpacked packages: a `cmp` that compares whole words, and the C library that it needs. */
  readonly diffutils: string;
  readonly libc: string;
}

const script = (name: string): Promise<Buffer> => readFile(new URL(`trusted/${name}`, import.meta.url));
const libraries = 'lib/x86_64-linux-gnu';

export async function makeTrustedInitrd(ingredients: TrustedIngredients): Promise<Buffer> {
  const directories = ['bin', 'dev', 'proc', 'sys', 'run', 'modules', 'lib', libraries, 'lib64'];
  const files: [string, number, Buffer][] = [
    ['init', 0o755, await script('init.sh')],
    ['udhcpc', 0o755, await script('udhcpc.sh')],
    ['bin/busybox', 0o755, await readFile(ingredients.busybox)],
    // busybox --install leaves what is there already.
    ['bin/cmp', 0o755, await readFile(join(ingredients.diffutils, 'usr/bin/cmp'))],
    [`${libraries}/libc.so.6`, 0o755, await readFile(join(ingredients.libc, libraries, 'libc.so.6'))],
    ['lib64/ld-linux-x86-64.so.2', 0o755, await readFile(join(ingredients.libc, libraries, 'ld-linux-x86-64.so.2'))],
    ['modules/order', 0o644, Buffer.from(`${bootModules.join('\n')}\n`)],
    ['modules/late', 0o644, Buffer.from(`${lateModules.join('\n')}\n`)],
  ];
  for (const [name, bytes] of await moduleFiles(ingredients.modules, [...bootModules, ...lateModules])) {
    files.push([`modules/${name}.ko`, 0o644, bytes]);
  }
  return cpio([
    ...directories.map((path): Entry => ({ path, kind: 'Directory' })),
    { path: 'dev/console', kind: 'Device', major: 5, minor: 1 },
    ...files.map(([path, mode, bytes]): Entry => ({ path, kind: 'File', mode, bytes })),
  ]);
}

/**
 * What the images take from Debian: a kernel with its modules, and programs, unpacked and never installed.
 *
 * Invariants:
 * 1. No file of a package runs here, except programs that are installed anyway; nothing of a package is in the repository.
 * 2. The kernel's version is found by name at run time: the newest that the cloud meta-package depends on.
 */
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './run.ts';

export interface UnpackedPackage {
  readonly name: string;
  /** Version and architecture, as Debian writes them: with the name the identity of the content. */
  readonly version: string;
  /** Directory that stands for the root of the file system. */
  readonly root: string;
}

/** The package that the meta-package of the cloud kernel stands for, as "linux-image-6.1.0-56-cloud-amd64". */
export async function kernelPackage(): Promise<string> {
  const meta = 'linux-image-cloud-amd64';
  const depends = await run('apt-cache', ['depends', '--important', meta]);
  const found = /Depends: (linux-image-[a-z0-9.+-]+)/.exec(depends)?.[1];
  if (found === undefined) throw new Error(`apt knows no package ${meta}: run apt-get update`);
  return found;
}

/** Downloads and unpacks packages below `directory`; what is there already is taken as it is. */
export async function unpackPackages(directory: string, names: readonly string[]): Promise<UnpackedPackage[]> {
  await mkdir(directory, { recursive: true });
  const found: UnpackedPackage[] = [];
  for (const name of names) found.push(await unpack(directory, name));
  return found;
}

async function unpack(directory: string, name: string): Promise<UnpackedPackage> {
  const version = await candidate(name);
  const root = join(directory, `${name}_${version.replace(/[^A-Za-z0-9.+~-]/g, '_')}`);
  const isThere = await readdir(root).then(
    () => true,
    () => false,
  );
  if (!isThere) {
    const scratch = await mkdtemp(join(directory, 'unpacking-'));
    try {
      await run('apt-get', ['download', '-q', '-o', 'APT::Sandbox::User=root', name], { cwd: scratch }).catch(
        (error: unknown) => {
          // The usual cause: apt's list names a version that a newer one has replaced.
          throw new Error(`${name} ${version} could not be downloaded: run apt-get update`, { cause: error });
        },
      );
      const archive = (await readdir(scratch)).find((file) => file.endsWith('.deb'));
      if (archive === undefined) throw new Error(`apt-get download ${name} left no package`);
      await run('dpkg', ['-x', join(scratch, archive), join(scratch, 'root')]);
      // Another build may have been faster; its result is the same.
      await rename(join(scratch, 'root'), root).catch(async (error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
      });
    } finally {
      await rm(scratch, { recursive: true, force: true });
    }
  }
  return { name, version, root };
}

async function candidate(name: string): Promise<string> {
  const shown = await run('apt-cache', ['show', '--no-all-versions', name]).catch(() => '');
  const version = /^Version: (\S+)$/m.exec(shown)?.[1];
  if (version === undefined) throw new Error(`apt knows no package ${name}: run apt-get update`);
  return version;
}

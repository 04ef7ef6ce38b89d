/**
 * A plain folder as a source, where there is no git: the hash of its contents stands for the commit.
 *
 * Invariants:
 * 1. No symbolic link is followed, also not when a file becomes one between being listed and being read.
 * 2. A file's size is looked at before it is read.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { lstat, open, readdir, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { tooLarge } from './documents.ts';
import {
  defaultSourceLimits,
  isHidden,
  isManifest,
  linkProblem,
  normalizedPath,
  type RefusedEntry,
  type Snapshot,
  type Source,
  SourceError,
  type SourceFile,
  type SourceLimits,
} from './source.ts';

export interface FolderContents {
  readonly files: SourceFile[];
  readonly refused: RefusedEntry[];
}

const hashOf = (data: string | Uint8Array): string => createHash('sha256').update(data).digest('hex');

/**
 * One file that was asked for by name.
 * @param path how it is called in problems
 */
export async function readOneFile(at: string, path: string, limits: SourceLimits): Promise<SourceFile | RefusedEntry> {
  const info = await lstat(at);
  if (info.isSymbolicLink()) {
    const target = await readlink(at);
    return { path, id: hashOf(`link ${target}`), problem: linkProblem(path, target) };
  }
  if (!info.isFile()) {
    return { path, id: 'special', problem: { file: path, severity: 'error', reason: 'not a regular file' } };
  }
  const refuse = (size: number): RefusedEntry => ({
    path,
    id: `size ${size} ${info.mtimeMs}`,
    problem: tooLarge(path, size, limits),
  });
  if (info.size > limits.fileBytes) return refuse(info.size);
  const file = await open(at, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const { size } = await file.stat();
    if (size > limits.fileBytes) return refuse(size);
    const bytes = await file.readFile();
    return { path, id: hashOf(bytes), bytes };
  } finally {
    await file.close();
  }
}

/** Every manifest below `root`. @throws SourceError when there are more than the limits allow */
export async function readFolder(root: string, limits: SourceLimits, shown = ''): Promise<FolderContents> {
  const contents: FolderContents = { files: [], refused: [] };
  let total = 0;
  const walk = async (relative: string): Promise<void> => {
    const entries = await readdir(join(root, relative), { withFileTypes: true });
    for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const inside = relative === '' ? entry.name : `${relative}/${entry.name}`;
      const path = shown === '' ? inside : `${shown}/${inside}`;
      if (isHidden(entry.name)) continue;
      if (entry.isDirectory()) {
        await walk(inside);
        continue;
      }
      if (!entry.isSymbolicLink() && !isManifest(entry.name)) continue;
      const read = await readOneFile(join(root, inside), path, limits);
      if ('bytes' in read) {
        contents.files.push(read);
        total += read.bytes.byteLength;
      } else {
        contents.refused.push(read);
      }
      if (contents.files.length > limits.files || total > limits.totalBytes) {
        throw new SourceError('Refused', `more than ${limits.files} files or ${limits.totalBytes} bytes of manifests`);
      }
    }
  };
  await walk('');
  const byPath = (a: { path: string }, b: { path: string }): number => (a.path < b.path ? -1 : 1);
  contents.files.sort(byPath);
  contents.refused.sort(byPath);
  return contents;
}

export interface FolderSourceOptions {
  readonly folder: string;
  /** Below the folder; the whole of it when absent. */
  readonly path?: string;
  readonly limits?: SourceLimits;
}

export function folderSource(options: FolderSourceOptions): Source {
  const limits = options.limits ?? defaultSourceLimits;
  const path = normalizedPath(options.path ?? '');
  return {
    description: options.folder,
    changeToken: async () => undefined,
    async fetch(previous): Promise<Snapshot> {
      try {
        await readdir(options.folder);
        const contents = await readFolder(join(options.folder, path), limits, path).catch((error: unknown) => {
          // A path that left the folder is an empty one.
          if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { files: [], refused: [] };
          throw error;
        });
        const ids = [...contents.files, ...contents.refused].map((entry) => `${entry.path}\0${entry.id}`);
        const commit = `folder-${hashOf(ids.join('\0')).slice(0, 40)}`;
        const history = previous === undefined ? 'First' : previous === commit ? 'Same' : 'Descendant';
        return { commit, history, ...contents };
      } catch (error) {
        if (error instanceof SourceError) throw error;
        throw new SourceError('Unreachable', `${options.folder} cannot be read: ${(error as Error).message}`, error);
      }
    },
  };
}

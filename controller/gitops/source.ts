/**
 * Where manifests come from, as the sync sees it: one consistent snapshot of a path.
 *
 * Invariants of every adapter:
 * 1. A snapshot is of one commit; nothing of the working state of a repository shows in it.
 * 2. No symbolic link and no submodule is followed; nothing larger than the limits is read. What is not read is named in `refused`.
 * 3. A failed fetch throws a `SourceError` and leaves the previous snapshot valid.
 */
import { defaultLimits, type ParseLimits } from './documents.ts';
import type { Problem } from './problems.ts';

/** How the commit follows the one that was applied last. */
export type History =
  | 'First' // nothing was applied before
  | 'Same'
  | 'Descendant'
  | 'Rewritten' // an older commit, or a branch that shares a past with it
  | 'Unrelated'; // no common past, or the former commit is nowhere to be found

export interface SourceFile {
  /** Below the repository's root, with forward slashes. */
  readonly path: string;
  /** Names the content: two files with equal ids are equal. */
  readonly id: string;
  readonly bytes: Uint8Array;
}

/** Something under the path that was not read: a link, a submodule, a file that is too large. */
export interface RefusedEntry {
  readonly path: string;
  readonly id: string;
  readonly problem: Problem;
}

export interface Snapshot {
  readonly commit: string;
  readonly history: History;
  /** Ordered by path. */
  readonly files: readonly SourceFile[];
  readonly refused: readonly RefusedEntry[];
}

export interface Source {
  /** For people, without credentials. */
  readonly description: string;
  /**
   * @param previous the commit that was applied last
   * @throws SourceError
   */
  fetch(previous: string | undefined, signal?: AbortSignal): Promise<Snapshot>;
  /** Cheap: changes when the branch's head does. Undefined where only `fetch` can tell. */
  changeToken(): Promise<string | undefined>;
}

export class SourceError extends Error {
  override readonly name = 'SourceError';
  /** `Unreachable`: worth a retry. `Missing`: the branch is not there. `Refused`: what is there is beyond the limits. */
  readonly reason: 'Unreachable' | 'Missing' | 'Refused';
  constructor(reason: 'Unreachable' | 'Missing' | 'Refused', message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.reason = reason;
  }
}

export interface SourceLimits extends ParseLimits {
  readonly files: number;
  readonly totalBytes: number;
}

export const defaultSourceLimits: SourceLimits = { ...defaultLimits, files: 10_000, totalBytes: 64 * 1024 * 1024 };

/** Whether the sync reads the file: by its ending, and not inside a directory whose name starts with a dot (.github). */
export function isManifest(path: string): boolean {
  return /\.(ya?ml|json)$/i.test(path) && !isHidden(path);
}

export function isHidden(path: string): boolean {
  return path.split('/').some((part) => part.startsWith('.') && part !== '.' && part !== '..');
}

/** `./tenants/` as `tenants`, the root as the empty string. @throws SourceError when it leads out of the repository */
export function normalizedPath(path: string): string {
  const parts = path.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..') || path.includes('\0') || path.includes('\\')) {
    throw new SourceError('Refused', `the path ${JSON.stringify(path)} leads out of the repository`);
  }
  return parts.join('/');
}

/** Whether a link at `path` with this target leaves the repository. */
function pointsOutside(path: string, target: string): boolean {
  if (target.startsWith('/')) return true;
  const place = path.split('/').slice(0, -1);
  for (const part of target.split('/')) {
    if (part === '' || part === '.') continue;
    if (part !== '..') place.push(part);
    else if (place.pop() === undefined) return true;
  }
  return false;
}

export function linkProblem(path: string, target: string): Problem {
  const where = pointsOutside(path, target) ? 'out of the repository' : 'to another place';
  const reason = `a symbolic link ${where} (${JSON.stringify(target.slice(0, 200))}); links are never followed`;
  return { file: path, severity: 'error', reason, hint: 'put the file itself here' };
}

export function submoduleProblem(path: string): Problem {
  const hint = 'put the files themselves here, or follow that repository by a sync of its own';
  return { file: path, severity: 'error', reason: 'a submodule; submodules are never followed', hint };
}

/**
 * The repository of a standalone site: made from an example at the first start, a person's own from then on.
 *
 * Invariants:
 * 1. It is there whole or not at all: a start that was killed while making it makes it again.
 * 2. After that the program changes one thing in it, the endpoints of simulated agents, and only by a commit of its own.
 */
import { execFile } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { folderSource } from '../gitops/folder-source.ts';
import { gitSource } from '../gitops/git-source.ts';
import type { Source } from '../gitops/source.ts';
import { CliError } from './arguments.ts';

type Environment = Readonly<Record<string, string | undefined>>;

const branch = 'main';

export interface Repository {
  readonly directory: string;
  /** False where git is not installed: the folder itself is followed. */
  readonly isGit: boolean;
  readonly isNew: boolean;
  readonly source: Source;
  /** Commits files of the work tree; nothing to do without git. */
  commit(paths: readonly string[], message: string): Promise<void>;
}

export interface RepositoryOptions {
  readonly directory: string;
  /** A folder of manifests; looked at only at the first start. */
  readonly example: string;
  readonly cacheDirectory: string;
  readonly environment: Environment;
}

const run = promisify(execFile);
const ownIdentity = ['-c', 'user.name=bitvisor-operator', '-c', 'user.email=bitvisor-operator@localhost'];
const ownSettings = ['-c', 'core.hooksPath=/dev/null', '-c', 'commit.gpgSign=false', '-c', 'core.autocrlf=false'];

/** Variables that would send git to another repository, as hooks and rebases set them, are left out. */
function withoutGit(environment: Environment): NodeJS.ProcessEnv {
  const kept = Object.entries(environment).filter(([name]) => !name.startsWith('GIT_'));
  return { ...Object.fromEntries(kept), LC_ALL: 'C', GIT_TERMINAL_PROMPT: '0' };
}

async function git(directory: string, environment: Environment, words: readonly string[]): Promise<string> {
  const options = { cwd: directory, env: withoutGit(environment), timeout: 60_000 };
  const { stdout } = await run('git', [...ownSettings, ...words], options);
  return stdout.trim();
}

async function hasGit(environment: Environment): Promise<boolean> {
  return git('.', environment, ['--version']).then(
    () => true,
    () => false,
  );
}

function copyExample(example: string, directory: string): void {
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  cpSync(example, directory, {
    recursive: true,
    filter: (from) => !basename(from).startsWith('.') && !/\.[cm]?[jt]s$/.test(from),
  });
}

async function firstCommit(directory: string, example: string, environment: Environment): Promise<void> {
  const call = (...words: string[]): Promise<string> => git(directory, environment, words);
  await call('init', '--quiet', `--initial-branch=${branch}`);
  // So that a clone may push to it, and its work tree follows.
  await call('config', 'receive.denyCurrentBranch', 'updateInstead');
  const known = await call('config', '--get', 'user.email').catch(() => '');
  if (known === '') {
    await call('config', 'user.name', 'you');
    await call('config', 'user.email', 'you@localhost');
  }
  await call('add', '--all');
  await call(...ownIdentity, 'commit', '--quiet', '--allow-empty', '-m', `The site of ${basename(example)}`);
}

/** @throws CliError that names `--example` or says what is wrong with git */
export async function openRepository(options: RepositoryOptions): Promise<Repository> {
  const { directory, example, cacheDirectory, environment } = options;
  const isGit = await hasGit(environment);
  const isNew = !existsSync(directory);
  if (isNew) {
    if (!existsSync(example)) throw new CliError(`--example: there is no folder ${example}`);
    const unfinished = `${directory}.new`;
    copyExample(example, unfinished);
    if (isGit) await firstCommit(unfinished, example, environment);
    await rename(unfinished, directory);
  } else if (isGit && !existsSync(join(directory, '.git'))) {
    await firstCommit(directory, directory, environment);
  }
  const source = isGit
    ? gitSource({ repository: directory, branch, cacheDirectory, environment })
    : folderSource({ folder: directory });
  return {
    directory,
    isGit,
    isNew,
    source,
    async commit(paths, message) {
      if (!isGit || paths.length === 0) return;
      await git(directory, environment, [...ownIdentity, 'commit', '--quiet', '-m', message, '--', ...paths]);
    },
  };
}

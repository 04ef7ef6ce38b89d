import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { folderSource } from '../../controller/gitops/folder-source.ts';
import { gitSource } from '../../controller/gitops/git-source.ts';
import { type SourceHarness, sourceContract } from '../contract/source.ts';
import { counterpart } from '../support/counterpart.ts';

function fill(folder: string, files: Readonly<Record<string, string>>): void {
  mkdirSync(folder, { recursive: true });
  for (const name of readdirSync(folder)) if (name !== '.git') rmSync(join(folder, name), { recursive: true });
  for (const [path, text] of Object.entries(files)) {
    const target = join(folder, path);
    mkdirSync(dirname(target), { recursive: true });
    if (text.startsWith('-> ')) symlinkSync(text.slice(3), target);
    else writeFileSync(target, text);
  }
}

function openFolder(): SourceHarness {
  const home = mkdtempSync(join(tmpdir(), 'source-'));
  const folder = join(home, 'site');
  return {
    source: (path) => folderSource({ folder, ...(path === undefined ? {} : { path }) }),
    put: (files) => fill(folder, files),
    destroy: () => rmSync(folder, { recursive: true }),
    close: () => rmSync(home, { recursive: true, force: true }),
  };
}

function openGit(): SourceHarness {
  const home = mkdtempSync(join(tmpdir(), 'source-'));
  const repository = join(home, 'site');
  const git = (...words: string[]): void => void execFileSync('git', ['-C', repository, ...words], { stdio: 'pipe' });
  return {
    source: (path) =>
      gitSource({
        repository,
        branch: 'main',
        cacheDirectory: join(home, 'cache'),
        environment: process.env,
        ...(path === undefined ? {} : { path }),
      }),
    put: (files) => {
      mkdirSync(repository, { recursive: true });
      git('init', '-q', '-b', 'main');
      fill(repository, files);
      git('add', '-A');
      git('-c', 'user.name=Tenant', '-c', 'user.email=tenant@example', 'commit', '-q', '--allow-empty', '-m', 'change');
    },
    destroy: () => rmSync(repository, { recursive: true }),
    close: () => rmSync(home, { recursive: true, force: true }),
  };
}

sourceContract('a folder', openFolder, {});
const { skip } = counterpart('git', spawnSync('git', ['--version']).status === 0);
sourceContract('a git repository', openGit, skip === undefined ? {} : { skip });

/** A repository behind https with a password and behind ssh with a key, served by git's and OpenSSH's own servers. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { GitCredentials } from '../../controller/gitops/git-command.ts';
import { gitSource } from '../../controller/gitops/git-source.ts';
import { type Source, SourceError } from '../../controller/gitops/source.ts';
import { counterpart } from '../support/counterpart.ts';
import { type GitRemote, serveGitHttps, serveGitSsh } from '../support/git-remotes.ts';
import { makeTestCa } from '../support/test-ca.ts';

const password = 'correct horse battery';

class Site {
  readonly home = mkdtempSync(join(tmpdir(), 'remotes-'));
  readonly directory = join(this.home, 'repositories');
  readonly repository = join(this.directory, 'site');

  constructor() {
    mkdirSync(this.repository, { recursive: true });
    this.#git('init', '-q', '-b', 'main');
    this.commit('a: 1\n');
  }

  commit(text: string): void {
    writeFileSync(join(this.repository, 'a.yaml'), text);
    this.#git('add', '-A');
    this.#git('-c', 'user.name=Tenant', '-c', 'user.email=tenant@example', 'commit', '-q', '-m', 'change');
  }

  file(name: string, text: string): string {
    writeFileSync(join(this.home, name), text, { mode: 0o600 });
    return join(this.home, name);
  }

  source(remote: GitRemote, credentials: GitCredentials, environment: Record<string, string> = {}): Source {
    return gitSource({
      repository: remote.url('site'),
      branch: 'main',
      cacheDirectory: mkdtempSync(join(this.home, 'cache-')),
      environment: { ...process.env, ...environment },
      credentials,
    });
  }

  #git(...words: string[]): void {
    execFileSync('git', ['-C', this.repository, ...words], { stdio: 'pipe' });
  }
}

async function follows(site: Site, source: Source): Promise<void> {
  const first = await source.fetch(undefined);
  assert.equal(Buffer.from(first.files[0]?.bytes ?? []).toString(), 'a: 1\n');
  site.commit('a: 2\n');
  const second = await source.fetch(first.commit);
  assert.equal(second.history, 'Descendant');
  assert.equal(Buffer.from(second.files[0]?.bytes ?? []).toString(), 'a: 2\n');
}

const unreachable =
  (what: RegExp) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof SourceError && error.reason === 'Unreachable', String(error));
    assert.match(error.message, what);
    assert.doesNotMatch(String(error.cause ?? '') + error.message, new RegExp(password));
    return true;
  };

const git = counterpart('git', spawnSync('git', ['--version']).status === 0);
const sshdPath = ['/usr/sbin/sshd', '/usr/local/sbin/sshd'].find((path) => existsSync(path));
const sshd = counterpart('sshd', sshdPath !== undefined, 'install openssh-server');

describe('a repository behind https', git, () => {
  test('is followed with a password from a file and a CA of its own, and refused with another', async () => {
    const site = new Site();
    const ca = await makeTestCa();
    const remote = await serveGitHttps(site.directory, await ca.issue('localhost', ['localhost']), {
      username: 'follower',
      password,
    });
    try {
      const trusted = { SSL_CERT_FILE: site.file('ca.pem', ca.caPem) };
      const passwordFile = site.file('password', `${password}\n`);
      await follows(site, site.source(remote, { username: 'follower', passwordFile }, trusted));
      const wrong = site.source(remote, { username: 'follower', passwordFile: site.file('wrong', 'guess') }, trusted);
      await assert.rejects(wrong.fetch(undefined), unreachable(/Authentication failed/));
      const nobody = site.source(remote, {}, trusted);
      await assert.rejects(nobody.fetch(undefined), unreachable(/could not read Username|Authentication failed/));
      await site.source(remote, { username: 'follower', passwordFile, caFile: trusted.SSL_CERT_FILE }).fetch(undefined);
      const untrusting = site.source(remote, { username: 'follower', passwordFile });
      await assert.rejects(untrusting.fetch(undefined), unreachable(/certificate/));
    } finally {
      await remote.close();
      rmSync(site.home, { recursive: true, force: true });
    }
  });
});

describe('a repository behind ssh', { ...git, ...sshd }, () => {
  test('is followed with a key, and not with another or on a host whose key is another', async () => {
    const site = new Site();
    const remote = await serveGitSsh(site.directory, join(site.home, 'ssh'), sshdPath ?? '');
    try {
      const { keyFile: sshKeyFile, strangerKeyFile, knownHostsFile } = remote;
      await follows(site, site.source(remote, { sshKeyFile, knownHostsFile }));
      const stranger = site.source(remote, { sshKeyFile: strangerKeyFile, knownHostsFile });
      await assert.rejects(stranger.fetch(undefined), unreachable(/Permission denied|Could not read/));
      const elsewhere = site.source(remote, { sshKeyFile, knownHostsFile: site.file('none', '') });
      await assert.rejects(elsewhere.fetch(undefined), unreachable(/[Hh]ost key|Could not read/));
    } finally {
      await remote.close();
      rmSync(site.home, { recursive: true, force: true });
    }
  });
});

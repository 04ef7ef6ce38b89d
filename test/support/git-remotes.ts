/**
 * Git servers for tests: git's own `http-backend` behind TLS with a password, and OpenSSH's server, each on a free port of the
 * loopback, over repositories in one directory.
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { connect, createServer } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import type { TestIdentity } from './test-ca.ts';

export interface GitRemote {
  /** Of a repository below the directory. */
  url(repository: string): string;
  close(): Promise<void>;
}

/** Answers one request as a CGI program does (RFC 3875). */
function answer(directory: string, request: IncomingMessage, response: ServerResponse): void {
  const url = new URL(request.url ?? '/', 'https://localhost');
  const backend = spawn('git', ['http-backend'], {
    env: {
      PATH: process.env.PATH,
      GIT_PROJECT_ROOT: directory,
      GIT_HTTP_EXPORT_ALL: '1',
      // The repositories may belong to another user than the one that runs the tests.
      GIT_CONFIG_COUNT: '1',
      GIT_CONFIG_KEY_0: 'safe.directory',
      GIT_CONFIG_VALUE_0: '*',
      REQUEST_METHOD: request.method,
      PATH_INFO: url.pathname,
      QUERY_STRING: url.search.slice(1),
      CONTENT_TYPE: request.headers['content-type'] ?? '',
      HTTP_CONTENT_ENCODING: request.headers['content-encoding'] ?? '',
      HTTP_GIT_PROTOCOL: String(request.headers['git-protocol'] ?? ''),
    },
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  request.pipe(backend.stdin);
  const chunks: Buffer[] = [];
  backend.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  backend.once('close', () => {
    const output = Buffer.concat(chunks);
    const end = output.indexOf('\r\n\r\n');
    for (const line of output.toString('latin1', 0, end).split('\r\n')) {
      const [name = '', value = ''] = line.split(/: (.*)/);
      if (name.toLowerCase() === 'status') response.statusCode = Number.parseInt(value, 10);
      else response.setHeader(name, value);
    }
    response.end(output.subarray(end + 4));
  });
}

/** Serves https://localhost:PORT/REPOSITORY to whoever knows the password; `requests` are the paths that were let in. */
export async function serveGitHttps(
  directory: string,
  identity: TestIdentity,
  { username, password }: { readonly username: string; readonly password: string },
): Promise<GitRemote> {
  const expected = `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
  const server = createHttpsServer({ cert: identity.certPem, key: identity.keyPem }, (request, response) => {
    if (request.headers.authorization === expected) answer(directory, request, response);
    else response.writeHead(401, { 'WWW-Authenticate': 'Basic realm="git"' }).end();
  });
  await new Promise<void>((resolve) => server.listen(0, 'localhost', resolve));
  const { port } = server.address() as { port: number };
  return {
    url: (repository) => `https://localhost:${port}/${repository}`,
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

/** Resolves when somebody accepts connections there. */
function listening(port: number): Promise<void> {
  return new Promise((resolve) => {
    const attempt = (): void => {
      const socket = connect(port, '127.0.0.1');
      socket.once('connect', () => {
        socket.destroy();
        resolve();
      });
      socket.once('error', () => setTimeout(attempt, 20));
    };
    attempt();
  });
}

export interface SshRemote extends GitRemote {
  /** Private key that is let in. */
  readonly keyFile: string;
  /** One that is not. */
  readonly strangerKeyFile: string;
  readonly knownHostsFile: string;
}

/** Serves ssh://USER@127.0.0.1:PORT/... as the user that runs the tests; `home` is a directory of its own for keys. */
export async function serveGitSsh(directory: string, home: string, sshd: string): Promise<SshRemote> {
  mkdirSync(home, { recursive: true, mode: 0o700 });
  const key = (name: string): string => {
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(home, name)]);
    return join(home, name);
  };
  const [hostKey, keyFile, strangerKeyFile] = [key('host'), key('client'), key('stranger')];
  const port = await freePort();
  writeFileSync(
    join(home, 'sshd_config'),
    [
      `Port ${port}`,
      'ListenAddress 127.0.0.1',
      `HostKey ${hostKey}`,
      `AuthorizedKeysFile ${keyFile}.pub`,
      `PidFile ${join(home, 'pid')}`,
      'StrictModes no',
      'UsePAM no',
      'PasswordAuthentication no',
      'PermitRootLogin prohibit-password',
      '',
    ].join('\n'),
  );
  const hostPublic = execFileSync('ssh-keygen', ['-y', '-f', hostKey], { encoding: 'utf8' });
  const knownHostsFile = join(home, 'known_hosts');
  writeFileSync(knownHostsFile, `[127.0.0.1]:${port} ${hostPublic}`);
  // As root the server wants this directory to be there, as its service makes it.
  if (process.getuid?.() === 0) mkdirSync('/run/sshd', { recursive: true });
  const server = spawn(sshd, ['-D', '-f', join(home, 'sshd_config')], { stdio: 'ignore' });
  const ended = new Promise<void>((resolve) => server.once('exit', () => resolve()));
  await listening(port);
  return {
    url: (repository) => `ssh://${userInfo().username}@127.0.0.1:${port}${join(directory, repository)}`,
    keyFile,
    strangerKeyFile,
    knownHostsFile,
    close: async () => {
      server.kill();
      await ended;
    },
  };
}

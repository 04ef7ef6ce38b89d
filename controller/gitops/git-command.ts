/**
 * How git is run: with an environment and a configuration of our own, so that nothing of the machine's or the repository's decides.
 *
 * Invariants:
 * 1. Secrets reach git through files that a script of ours prints when asked, for the expected host alone: they are in no argument, no
 *    environment variable, no message.
 * 2. No hook runs, no submodule is fetched, no protocol but the address's own is spoken, no prompt waits for an answer.
 */
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type SimpleGit, simpleGit } from 'simple-git';
import type { GitAddress } from './git-address.ts';

export interface GitCredentials {
  /** For https. Default: `git`. */
  readonly username?: string;
  /** File with the password or token for https, and nothing else. */
  readonly passwordFile?: string;
  /** PEM of the authorities that sign https servers, in place of the machine's own. */
  readonly caFile?: string;
  /** Private key for ssh; it must have no passphrase. */
  readonly sshKeyFile?: string;
  /** Host keys for ssh; without it the ones that ssh itself finds. An unknown host is always refused. */
  readonly knownHostsFile?: string;
}

export interface GitCommandOptions {
  readonly address: GitAddress;
  readonly credentials?: GitCredentials;
  /** Of this process; only the names in `inherited` are handed on. */
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** git is ended when it has said nothing for this long. */
  readonly silenceMs: number;
}

const inherited = ['PATH', 'HOME', 'TMPDIR', 'SSH_AUTH_SOCK', 'HTTPS_PROXY', 'https_proxy', 'NO_PROXY', 'no_proxy'];

/** Answers git's two questions, and only those about the host that the secret is for. */
const askpassScript = `#!/bin/sh
case "$1" in
  *"'https://$BITVISOR_GIT_HOST'"* | *"'https://$BITVISOR_GIT_HOST/"* | *"@$BITVISOR_GIT_HOST'"* | *"@$BITVISOR_GIT_HOST/"*) ;;
  *) exit 1 ;;
esac
case "$1" in
  Username*) printf '%s\\n' "$BITVISOR_GIT_USERNAME" ;;
  Password*) exec cat -- "$BITVISOR_GIT_PASSWORD_FILE" ;;
  *) exit 1 ;;
esac
`;

const configuration = [
  'core.hooksPath=/dev/null',
  'core.fsmonitor=false',
  'credential.helper=',
  // The cache can be fetched again: waiting for the disk buys nothing.
  'core.fsync=none',
  'gc.auto=0',
  'maintenance.auto=false',
  'fetch.recurseSubmodules=false',
  'http.followRedirects=initial',
];

const shellQuoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

function sshCommand(credentials: GitCredentials): string {
  const words = ['ssh', '-o', 'BatchMode=yes', '-o', 'StrictHostKeyChecking=yes', '-o', 'ConnectTimeout=20'];
  if (credentials.sshKeyFile !== undefined) words.push('-o', 'IdentitiesOnly=yes', '-i', credentials.sshKeyFile);
  if (credentials.knownHostsFile !== undefined) words.push('-o', `UserKnownHostsFile=${credentials.knownHostsFile}`);
  return words.map(shellQuoted).join(' ');
}

export class GitCommand {
  readonly #options: GitCommandOptions;
  readonly #directory: string;
  readonly #environment: Record<string, string>;

  private constructor(options: GitCommandOptions, directory: string, environment: Record<string, string>) {
    this.#options = options;
    this.#directory = directory;
    this.#environment = environment;
  }

  /** @param directory where git runs and the askpass script lies: ours alone */
  static async prepare(options: GitCommandOptions, directory: string): Promise<GitCommand> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const { address, credentials = {} } = options;
    const environment: Record<string, string> = {
      LC_ALL: 'C',
      GIT_TERMINAL_PROMPT: '0',
      GIT_CONFIG_NOSYSTEM: '1',
      GIT_CONFIG_GLOBAL: '/dev/null',
      GIT_ALLOW_PROTOCOL: address.protocol,
      GIT_OPTIONAL_LOCKS: '0',
    };
    for (const name of inherited) {
      const value = options.environment[name];
      if (value !== undefined) environment[name] = value;
    }
    // OpenSSL's own variable means nothing to a git that was built with another library.
    const caFile = credentials.caFile ?? options.environment.SSL_CERT_FILE;
    if (address.protocol === 'https' && caFile !== undefined) environment.GIT_SSL_CAINFO = caFile;
    if (address.protocol === 'ssh') environment.GIT_SSH_COMMAND = sshCommand(credentials);
    if (address.protocol === 'https' && credentials.passwordFile !== undefined) {
      const script = join(directory, 'askpass');
      await writeFile(script, askpassScript, { mode: 0o700 });
      await chmod(script, 0o700);
      environment.GIT_ASKPASS = script;
      environment.BITVISOR_GIT_HOST = address.host;
      environment.BITVISOR_GIT_USERNAME = credentials.username ?? 'git';
      environment.BITVISOR_GIT_PASSWORD_FILE = credentials.passwordFile;
    }
    return new GitCommand(options, directory, environment);
  }

  /** @param input what git reads on its standard input */
  git(signal: AbortSignal | undefined, input?: string): SimpleGit {
    const git = simpleGit({
      baseDir: this.#directory,
      config: configuration,
      allowEnvironment: Object.keys(this.#environment).filter((name) => name.startsWith('GIT_')),
      timeout: { block: this.#options.silenceMs },
      unsafe: {
        allowUnsafeHooksPath: true,
        allowUnsafeFsMonitor: true,
        allowUnsafeCredentialHelper: true,
        allowUnsafeConfigPaths: true,
        allowUnsafeAskPass: true,
        allowUnsafeSshCommand: true,
      },
      ...(signal === undefined ? {} : { abort: signal }),
      ...(input === undefined ? {} : { input: () => input }),
    });
    return git.env(this.#environment);
  }
}

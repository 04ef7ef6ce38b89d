/**
 * A branch of a git repository as a source: fetched into a bare repository of ours, read from its objects, never checked out.
 *
 * Invariants:
 * 1. Sizes come from the tree before any content is read; a file beyond the limits is never read.
 * 2. The cache is ours alone and holds nothing that cannot be fetched again; when git finds it broken it is made anew, once.
 * 3. The commit that was applied last is kept in the cache, so that a rewritten branch is seen as such.
 */
import { createHash } from 'node:crypto';
import { readFile, rm, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { scrub } from '../runtime/log.ts';
import { tooLarge } from './documents.ts';
import { checkBranch, type GitAddress, parseGitAddress } from './git-address.ts';
import { GitCommand, type GitCredentials } from './git-command.ts';
import {
  defaultSourceLimits,
  type History,
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
  submoduleProblem,
} from './source.ts';

export interface GitSourceOptions {
  /** Absolute path, https:// or ssh://. */
  readonly repository: string;
  readonly branch: string;
  /** Below the repository's root; the whole of it when absent. */
  readonly path?: string;
  /** A directory of ours; survives restarts where it can, but need not. */
  readonly cacheDirectory: string;
  readonly credentials?: GitCredentials;
  /** Of this process (process.env): PATH, HOME and a few more are handed to git. */
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly limits?: SourceLimits;
  /** git is ended when it has said nothing for this long. Default 60 s. */
  readonly silenceMs?: number;
}

interface TreeEntry {
  readonly mode: string;
  readonly type: string;
  readonly id: string;
  readonly size: number;
  readonly path: string;
}

const followed = 'refs/bitvisor/followed';
const applied = 'refs/bitvisor/applied';
/** Targets of links are only shown. */
const longestLinkBytes = 4096;

function parseTree(output: string): TreeEntry[] {
  return output
    .split('\0')
    .filter((line) => line !== '')
    .map((line) => {
      const tab = line.indexOf('\t');
      const [mode = '', type = '', id = '', size = ''] = line.slice(0, tab).split(/ +/);
      return { mode, type, id, size: size === '-' ? 0 : Number(size), path: line.slice(tab + 1) };
    });
}

/** The answer of `git cat-file --batch`, in the order of the request. */
function parseBatch(output: Buffer): Map<string, Buffer> {
  const contents = new Map<string, Buffer>();
  for (let at = 0; at < output.length; ) {
    const end = output.indexOf(0x0a, at);
    if (end < 0) break;
    const [id = '', type = '', size = ''] = output.toString('latin1', at, end).split(' ');
    at = end + 1;
    if (type !== 'blob') continue;
    contents.set(id, output.subarray(at, at + Number(size)));
    at += Number(size) + 1;
  }
  return contents;
}

class GitSource implements Source {
  readonly description: string;
  readonly #options: GitSourceOptions;
  readonly #address: GitAddress;
  readonly #branch: string;
  readonly #path: string;
  readonly #limits: SourceLimits;
  readonly #directory: string;
  /** Of the commit read last: a branch that rests is not read again. */
  #contents: { readonly commit: string; readonly files: SourceFile[]; readonly refused: RefusedEntry[] } | undefined;

  constructor(options: GitSourceOptions) {
    this.#options = options;
    const address = parseGitAddress(options.repository);
    // git runs in the cache: a relative path is meant from where this process stands.
    this.#address = address.protocol === 'file' ? { ...address, url: resolve(address.url) } : address;
    this.#branch = checkBranch(options.branch);
    this.#path = normalizedPath(options.path ?? '');
    this.#limits = options.limits ?? defaultSourceLimits;
    this.description = `${this.#address.url}@${this.#branch}${this.#path === '' ? '' : `:${this.#path}`}`;
    const name = createHash('sha256').update(this.#address.url).digest('hex').slice(0, 16);
    this.#directory = join(options.cacheDirectory, `${name}.git`);
  }

  async fetch(previous: string | undefined, signal?: AbortSignal): Promise<Snapshot> {
    const command = await this.#prepare();
    const commit = await this.#fetchHead(command, signal).catch(async (error: unknown) => {
      const broken =
        /\.lock|not a git repository|bad object|corrupt|unable to read|invalid sha1|missing blob|missing tree/i;
      if (
        signal?.aborted ||
        !broken.test(String(error)) ||
        /does not appear to be a git repository/.test(String(error))
      ) {
        throw this.#explained(error);
      }
      await rm(this.#directory, { recursive: true, force: true });
      return this.#fetchHead(await this.#prepare(), signal).catch((again: unknown) => {
        throw this.#explained(again);
      });
    });
    try {
      const history = await this.#history(command, previous, commit, signal);
      if (this.#contents?.commit !== commit)
        this.#contents = { commit, ...(await this.#read(command, commit, signal)) };
      const { files, refused } = this.#contents;
      return { commit, history, files, refused };
    } catch (error) {
      throw this.#explained(error);
    }
  }

  #prepare(): Promise<GitCommand> {
    const { credentials, environment, silenceMs = 60_000 } = this.#options;
    const shared = { address: this.#address, environment, silenceMs };
    return GitCommand.prepare(credentials === undefined ? shared : { ...shared, credentials }, this.#directory);
  }

  async #fetchHead(command: GitCommand, signal: AbortSignal | undefined): Promise<string> {
    const git = command.git(signal);
    const isMade = await stat(join(this.#directory, 'HEAD')).catch(() => undefined);
    if (isMade === undefined) await git.raw(['init', '--quiet', '--bare']);
    const refspec = `+refs/heads/${this.#branch}:${followed}`;
    await git.raw(['fetch', '--quiet', '--no-tags', '--no-write-fetch-head', '--', this.#address.url, refspec]);
    return (await git.raw(['rev-parse', '--verify', `${followed}^{commit}`])).trim();
  }

  #explained(error: unknown): SourceError {
    if (error instanceof SourceError) return error;
    const text = scrub(error instanceof Error ? error.message : String(error));
    const line =
      text.split('\n').find((candidate) => /^(fatal|error|ssh|Host key)/i.test(candidate)) ?? text.split('\n')[0] ?? '';
    if (/couldn't find remote ref/i.test(text)) {
      return new SourceError('Missing', `the repository has no branch ${JSON.stringify(this.#branch)}`, error);
    }
    const hint = /dubious ownership/.test(text) ? ': the repository belongs to another user' : '';
    return new SourceError('Unreachable', `${this.#address.url}: ${line.slice(0, 300)}${hint}`, error);
  }

  async #history(
    command: GitCommand,
    previous: string | undefined,
    commit: string,
    signal?: AbortSignal,
  ): Promise<History> {
    if (previous === undefined) return 'First';
    if (previous === commit) return 'Same';
    if (!/^[0-9a-f]{40,64}$/.test(previous)) return 'Unrelated';
    const git = command.git(signal);
    const known = await git.raw(['update-ref', applied, previous]).then(
      () => true,
      () => false,
    );
    if (!known) return 'Unrelated';
    const common = (await git.raw(['merge-base', previous, commit]).catch(() => '')).trim();
    if (common === '') return 'Unrelated';
    return common === previous ? 'Descendant' : 'Rewritten';
  }

  async #read(
    command: GitCommand,
    commit: string,
    signal?: AbortSignal,
  ): Promise<{ files: SourceFile[]; refused: RefusedEntry[] }> {
    const scope = this.#path === '' ? [] : ['--', this.#path];
    const listing = await command.git(signal).raw(['ls-tree', '-r', '-l', '-z', '--full-tree', commit, ...scope]);
    const prefix = this.#path === '' ? '' : `${this.#path}/`;
    const entries = parseTree(listing).filter(({ path }) => {
      return (path.startsWith(prefix) || path === this.#path) && !isHidden(path.slice(prefix.length));
    });
    const links = entries.filter((entry) => entry.mode === '120000');
    const manifests = entries.filter(
      (entry) => entry.type === 'blob' && entry.mode !== '120000' && isManifest(entry.path.slice(prefix.length)),
    );
    const [wanted, large] = [
      manifests.filter((entry) => entry.size <= this.#limits.fileBytes),
      manifests.filter((entry) => entry.size > this.#limits.fileBytes),
    ];
    this.#checkTotals(wanted, links);
    const shownLinks = links.filter((entry) => entry.size <= longestLinkBytes);
    const contents = await this.#blobs(command, [...wanted, ...shownLinks], signal);
    const refused: RefusedEntry[] = [
      ...large.map(({ path, id, size }) => ({ path, id, problem: tooLarge(path, size, this.#limits) })),
      ...links.map(({ path, id }) => ({ path, id, problem: linkProblem(path, contents.get(id)?.toString() ?? '...') })),
      ...entries
        .filter((entry) => entry.type === 'commit')
        .map(({ path, id }) => ({ path, id, problem: submoduleProblem(path) })),
    ];
    const files = wanted.map(({ path, id }) => {
      const bytes = contents.get(id);
      if (bytes === undefined)
        throw new SourceError('Unreachable', `the content of ${path} is missing in the repository`);
      return { path, id, bytes };
    });
    return { files, refused };
  }

  #checkTotals(wanted: readonly TreeEntry[], links: readonly TreeEntry[]): void {
    const { files, totalBytes } = this.#limits;
    const total = wanted.reduce((sum, entry) => sum + entry.size, 0);
    if (wanted.length + links.length > files || total > totalBytes) {
      throw new SourceError('Refused', `the path holds more than ${files} files or ${totalBytes} bytes of manifests`);
    }
  }

  async #blobs(command: GitCommand, entries: readonly TreeEntry[], signal?: AbortSignal): Promise<Map<string, Buffer>> {
    if (entries.length === 0) return new Map();
    const request = [...new Set(entries.map((entry) => entry.id))].map((id) => `${id}\n`).join('');
    const output: unknown = await command.git(signal, request).binaryCatFile(['--batch']);
    if (!Buffer.isBuffer(output)) throw new SourceError('Unreachable', 'git gave no content');
    return parseBatch(output);
  }

  async changeToken(): Promise<string | undefined> {
    if (this.#address.protocol !== 'file') return undefined;
    for (const directory of [join(this.#address.url, '.git'), this.#address.url]) {
      const loose = await readFile(join(directory, 'refs', 'heads', this.#branch), 'utf8').catch(() => undefined);
      const packed = await stat(join(directory, 'packed-refs')).catch(() => undefined);
      if (loose !== undefined || packed !== undefined) return `${loose?.slice(0, 100) ?? ''} ${packed?.mtimeMs ?? ''}`;
    }
    return undefined;
  }
}

/** @throws GitAddressError for an address or branch that may not be used; SourceError for a path outside of the repository */
export function gitSource(options: GitSourceOptions): Source {
  return new GitSource(options);
}

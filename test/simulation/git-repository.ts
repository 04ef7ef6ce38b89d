/**
 * A git repository in memory, as far as a sync can see one: commits, a branch that moves, and whether it can be reached.
 *
 * Invariants:
 * 1. What a commit says is known from how it was made, never from parsing it: checkers judge by it.
 * 2. Commits, their ids and the times at which the branch moved follow from the run alone.
 */
import { createHash } from 'node:crypto';
import { type History, type Snapshot, type Source, SourceError } from '../../controller/gitops/source.ts';
import { sleep } from '../../controller/runtime/clock.ts';
import type { VirtualClock } from '../support/virtual-clock.ts';
import type { ProcessClock } from './process-clock.ts';

/** What a file says of one object. */
export interface Statement {
  readonly kind: 'ComputeEnvironment' | 'NodeAllocation';
  readonly name: string;
  readonly spec: Readonly<Record<string, unknown>>;
  readonly valid: boolean;
}

export interface RepositoryFile {
  readonly text: string;
  readonly statements: readonly Statement[];
  /** Of some of it nobody can say which object it is. */
  readonly unread: boolean;
}

export type Tree = ReadonlyMap<string, RepositoryFile>;

/** What a commit asks for. Objects by `Kind/name`. */
export interface Said {
  readonly valid: ReadonlyMap<string, { readonly spec: Statement['spec']; readonly path: string }>;
  /** Named in a way that cannot be applied. */
  readonly named: ReadonlySet<string>;
  /** Paths with an error. */
  readonly failing: ReadonlySet<string>;
  /** Texts, by path, that hide which objects they define. */
  readonly unread: ReadonlyMap<string, string>;
}

export interface Commit {
  readonly id: string;
  readonly parent: Commit | undefined;
  readonly tree: Tree;
  readonly said: Said;
}

export const statementKey = ({ kind, name }: { readonly kind: string; readonly name: string }): string =>
  `${kind}/${name}`;

function saidBy(tree: Tree): Said {
  const valid = new Map<string, { spec: Statement['spec']; path: string }>();
  const named = new Set<string>();
  const failing = new Set<string>();
  const unread = new Map<string, string>();
  const first = new Map<string, string>();
  for (const [path, file] of tree) {
    if (file.unread) unread.set(path, file.text);
    if (file.unread || file.statements.some((one) => !one.valid)) failing.add(path);
    for (const statement of file.statements) {
      const key = statementKey(statement);
      const before = first.get(key);
      if (before !== undefined) {
        // Two definitions: neither counts.
        for (const one of [before, path]) failing.add(one);
        valid.delete(key);
        named.add(key);
        continue;
      }
      first.set(key, path);
      if (statement.valid) valid.set(key, { spec: statement.spec, path });
      else named.add(key);
    }
  }
  return { valid, named, failing, unread };
}

/** The commit and everything before it, newest first. */
export function pastOf(commit: Commit): Commit[] {
  const past: Commit[] = [];
  for (let one: Commit | undefined = commit; one !== undefined; one = one.parent) past.push(one);
  return past;
}

const descendsFrom = (commit: Commit, from: Commit): boolean => pastOf(commit).includes(from);

export const rootOf = (commit: Commit): Commit => pastOf(commit).at(-1) ?? commit;

/** When the branch stood at a commit, in monotonic milliseconds. */
interface Stand {
  readonly commit: Commit;
  untilMs: number;
}

const travelMs = 200;

export class Repository {
  readonly stands: Stand[] = [];
  /** Ids of commits whose prune a person confirmed. */
  readonly confirmed = new Set<string>();
  state: 'Reachable' | 'Unreachable' | 'NoBranch' = 'Reachable';
  readonly #clock: VirtualClock;
  readonly #seed: number;
  readonly #commits = new Map<string, Commit>();

  constructor(seed: number, clock: VirtualClock, tree: Tree) {
    this.#seed = seed;
    this.#clock = clock;
    this.startOver(tree);
  }

  get head(): Commit {
    const stand = this.stands.at(-1);
    if (stand === undefined) throw new Error('a repository has a commit from the start');
    return stand.commit;
  }

  #make(tree: Tree, parent: Commit | undefined): Commit {
    const id = createHash('sha1').update(`${this.#seed} ${this.#commits.size}`).digest('hex');
    const commit: Commit = { id, parent, tree: new Map([...tree].sort(byPath)), said: saidBy(tree) };
    this.#commits.set(id, commit);
    return commit;
  }

  commit(tree: Tree): Commit {
    return this.push(this.#make(tree, this.head));
  }

  /** Moves the branch, by force where the commit does not follow the head. */
  push(commit: Commit): Commit {
    const last = this.stands.at(-1);
    if (last !== undefined) last.untilMs = this.#clock.monotonic();
    this.stands.push({ commit, untilMs: Number.POSITIVE_INFINITY });
    return commit;
  }

  /** The repository is made anew: a first commit without a past. */
  startOver(tree: Tree): Commit {
    return this.push(this.#make(tree, undefined));
  }

  /** Where the branch stood within the last so many milliseconds, newest first. */
  stoodAt(withinMs: number): Commit[] {
    const sinceMs = this.#clock.monotonic() - withinMs;
    return this.stands
      .filter(({ untilMs }) => untilMs >= sinceMs)
      .map(({ commit }) => commit)
      .reverse();
  }

  #history(previous: string | undefined, head: Commit): History {
    if (previous === undefined) return 'First';
    const before = this.#commits.get(previous);
    if (before === head) return 'Same';
    if (before === undefined || rootOf(before) !== rootOf(head)) return 'Unrelated';
    return descendsFrom(head, before) ? 'Descendant' : 'Rewritten';
  }

  #snapshot(previous: string | undefined): Snapshot {
    if (this.state === 'Unreachable') throw new SourceError('Unreachable', 'simulated: the repository does not answer');
    if (this.state === 'NoBranch') throw new SourceError('Missing', 'the repository has no branch "main"');
    const { head } = this;
    const files = [...head.tree].map(([path, { text }]) => {
      const bytes = new TextEncoder().encode(text);
      return { path, id: createHash('sha1').update(text).digest('hex'), bytes };
    });
    return { commit: head.id, history: this.#history(previous, head), files, refused: [] };
  }

  /** As a process with this clock reaches it. */
  source(clock: ProcessClock): Source {
    const afterTravel = async <T>(read: () => T): Promise<T> => {
      await sleep(this.#clock, travelMs);
      return read();
    };
    return {
      description: 'simulated',
      fetch: (previous) => clock.receive(afterTravel(() => this.#snapshot(previous))),
      changeToken: async () => (this.state === 'Reachable' ? this.head.id : undefined),
    };
  }
}

const byPath = ([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number => (a < b ? -1 : 1);

/**
 * Rules 6 and 9, what left the repository: the sync deletes only what it applied, and only where a commit at which the branch stood a short
 * while ago leaves no doubt that its people took it out; a person confirms what is more likely a mistake.
 *
 * Doubt (rule 6): the object's file, or one in which the object may stand now, cannot be read; the commit has no past with the object in it.
 * A mistake (rule 9): nothing is defined any more, or more than half of everything is gone at once.
 */
import { type Commit, pastOf, type Repository, statementKey } from '../git-repository.ts';
import type { Truth } from '../truth.ts';
import type { Checker, Report } from './checker.ts';

/** A pass may go on so long after it looked at the branch: its process may stand still for ten minutes, and every call be slow. */
export const staleMs = 1_500_000;
/** As `defaultPruneSettings` of controller/gitops/prune.ts says it; a checker has its own word. */
const largestShare = 0.5;
const smallestHeld = 4;

interface Wrong {
  readonly rule: number;
  readonly why: string;
}

/** Whether a person confirmed this commit, or one before it that had given the object up as well. */
function isConfirmed(repository: Repository, commit: Commit, key: string): boolean {
  return pastOf(commit).some(({ id, said }) => repository.confirmed.has(id) && !said.valid.has(key));
}

const isDefined = ({ said }: Commit, key: string): boolean => said.valid.has(key) || said.named.has(key);

/** Why the commit does not say that the object is to go; undefined: it does. */
function doubt(repository: Repository, commit: Commit, key: string): string | undefined {
  const { said } = commit;
  if (isDefined(commit, key)) return 'it is defined there';
  const before = repository.stands.map((one) => one.commit).filter((one) => one.said.valid.has(key));
  const sound = before.filter((one) => !said.failing.has(one.said.valid.get(key)?.path ?? ''));
  if (sound.length === 0) return 'the file in which it stood has an error';
  const placed = repository.stands.map((one) => one.commit).filter((one) => isDefined(one, key));
  const hidden = placed.filter((one) => [...said.unread].every(([path, text]) => one.said.unread.get(path) === text));
  if (hidden.length === 0) return 'it may have moved into a file that cannot be read';
  if (isConfirmed(repository, commit, key)) return undefined;
  const follows = pastOf(commit).some((one) => before.includes(one));
  return follows ? undefined : 'that commit does not follow any that defined it, and nobody confirmed it';
}

export function pruned(report: Report): Checker {
  /** Of the objects that the sync applied, their keys by uid. */
  const applied = new Map<string, string>();
  /** Keys of what the sync applied and did not prune. */
  const listed = new Set<string>();
  /** What people were told to wait for them, with where the branch stood next after the commit that it is about. */
  const promised = new Map<string, number>();
  let restoredAtMs = Number.NEGATIVE_INFINITY;

  /** A restored API server knows of no promise, and not of what was applied since. */
  function forgetRestored(truth: Truth): void {
    if (truth.restoredAtMs <= restoredAtMs) return;
    restoredAtMs = truth.restoredAtMs;
    promised.clear();
    const there = truth.ground.tenantObjects();
    for (const key of listed) if (!there.has(key)) listed.delete(key);
  }

  /** What somebody else deleted before the repository gave it up, and the sync had nothing left to do about: it does not go with what goes later. */
  function forgetDeleted(truth: Truth, followed: Commit, notPruned: string): void {
    const there = truth.ground.tenantObjects();
    for (const key of listed) {
      const isLive = there.has(key) && there.get(key)?.metadata.deletionTimestamp === undefined;
      const isLeft = notPruned.includes(`${key.replace('/', ' cfd/')} (`);
      if (!isLive && !isLeft && !isDefined(followed, key)) listed.delete(key);
    }
  }

  function wrong(repository: Repository, commit: Commit, key: string): Wrong | undefined {
    const why = doubt(repository, commit, key);
    if (why !== undefined) return { rule: 6, why };
    if (isConfirmed(repository, commit, key)) return undefined;
    const since = promised.get(key);
    const wasDefined = repository.stands.slice(since ?? 0).some((one) => isDefined(one.commit, key));
    if (since !== undefined && !wasDefined) return { rule: 9, why: 'people were told that it waits for them' };
    const { valid, named } = commit.said;
    if (valid.size + named.size === 0)
      return { rule: 9, why: 'nothing is defined any more, and nobody confirmed that' };
    const missing = [...listed].filter((one) => doubt(repository, commit, one) === undefined).length;
    const all = new Set([...listed, ...repository.stoodAt(staleMs).flatMap((one) => [...one.said.valid.keys()])]);
    if (missing < smallestHeld || missing <= all.size * largestShare) return undefined;
    return { rule: 9, why: `${missing} of ${all.size} objects are gone at once, and nobody confirmed that` };
  }

  return {
    rule: 6,
    told({ commit, notPruned = '' }, truth) {
      forgetRestored(truth);
      const stands = truth.ground.repository()?.stands ?? [];
      const stood = stands.findLastIndex((one) => one.commit.id === commit);
      const followed = stands[stood]?.commit;
      if (followed === undefined) return;
      forgetDeleted(truth, followed, notPruned);
      for (const [, kind = '', name = ''] of notPruned.matchAll(
        /^(\w+) cfd\/([\w-]+) .* waits for a confirmation$/gm,
      )) {
        promised.set(statementKey({ kind, name }), stood + 1);
      }
    },
    synced(write, truth) {
      forgetRestored(truth);
      const key = statementKey(write);
      if (write.verb !== 'delete') {
        applied.set(write.uid, key);
        listed.add(key);
        return;
      }
      const repository = truth.ground.repository();
      if (repository === undefined) return;
      if (applied.get(write.uid) !== key) report(6, `${key} is pruned, and the sync never applied that object`);
      const wrongs = repository.stoodAt(staleMs).map((commit) => ({ commit, found: wrong(repository, commit, key) }));
      listed.delete(key);
      promised.delete(key);
      const [newest] = wrongs;
      if (newest?.found === undefined || wrongs.some(({ found }) => found === undefined)) return;
      report(newest.found.rule, `${key} is pruned, and of commit ${newest.commit.id.slice(0, 7)}: ${newest.found.why}`);
    },
  };
}

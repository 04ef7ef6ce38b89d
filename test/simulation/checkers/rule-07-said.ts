/**
 * Rule 7, never guess, of what the sync writes: every field that it sets is what a sound definition of that object said when the branch was
 * last looked at, of a repository that is followed; and nobody else's word is overwritten.
 */
import { deepEqual } from '../../../controller/kube/json.ts';
import type { KubeObject } from '../../../controller/kube/port.ts';
import { type Commit, type Repository, rootOf, statementKey } from '../git-repository.ts';
import type { SyncWrite } from '../git-sync.ts';
import type { Checker, Report } from './checker.ts';
import { staleMs } from './rule-06-pruned.ts';

type Spec = Readonly<Record<string, unknown>>;

const specOf = (object: KubeObject | undefined): Spec => (object as { spec?: Spec } | undefined)?.spec ?? {};

/** The fields that the write changed. */
function changed({ old, object }: SyncWrite): string[] {
  const [before, after] = [specOf(old), specOf(object)];
  return Object.keys({ ...before, ...after }).filter((field) => !deepEqual(before[field], after[field]));
}

/** Whether any commit ever gave the field of the object this value. */
function everSaid(repository: Repository, key: string, field: string, value: unknown): boolean {
  return repository.stands.some(({ commit }) => deepEqual(commit.said.valid.get(key)?.spec[field], value));
}

export function said(report: Report): Checker {
  /** First commits of the repositories that were followed, or confirmed. */
  const roots = new Set<Commit>();
  /** UIDs of what was applied: where nothing of it is left, nothing is lost by following another repository. */
  const applied = new Set<string>();

  const isFollowed = (repository: Repository, commit: Commit): boolean =>
    roots.has(rootOf(commit)) || isOfConfirmed(repository, commit);

  /** The branch may be set back behind the commit that was confirmed: it is the same repository. */
  const isOfConfirmed = (repository: Repository, commit: Commit): boolean =>
    repository.stands.some(({ commit: one }) => repository.confirmed.has(one.id) && rootOf(one) === rootOf(commit));

  return {
    rule: 7,
    synced(write, truth) {
      const repository = truth.ground.repository();
      if (repository === undefined) return;
      if (write.verb === 'delete') {
        // What a confirmed repository took away shows as well as what it gave that the sync follows it from now on.
        for (const commit of repository.stoodAt(staleMs)) if (isFollowed(repository, commit)) roots.add(rootOf(commit));
        return;
      }
      const key = statementKey(write);
      const others = [...truth.ground.tenantObjects().values()].filter(
        ({ metadata: { uid = '', deletionTimestamp } }) => {
          return uid !== write.uid && deletionTimestamp === undefined && applied.has(uid);
        },
      );
      if (others.length === 0 && write.verb === 'create') roots.clear();
      applied.add(write.uid);
      const after = specOf(write.object);
      const stood = repository.stoodAt(staleMs);
      if (roots.size === 0) for (const commit of stood) roots.add(rootOf(commit));
      const fields = changed(write);
      const sources = stood.filter(({ said: { valid } }) => {
        const spec = valid.get(key)?.spec;
        return spec !== undefined && fields.every((field) => deepEqual(spec[field], after[field]));
      });
      if (sources.length === 0) {
        report(7, `${key}: the sync sets ${fields} to ${JSON.stringify(after)}, which no sound definition says`);
        return;
      }
      const followed = sources.filter((commit) => isFollowed(repository, commit));
      for (const commit of followed) roots.add(rootOf(commit));
      if (followed.length === 0)
        report(6, `${key}: the sync follows a repository without a common past, and nobody confirmed that`);
      if (write.old === undefined) return;
      const before = specOf(write.old);
      for (const field of fields) {
        if (before[field] === undefined || everSaid(repository, key, field, before[field])) continue;
        report(7, `${key}: the sync overwrites ${field}, ${JSON.stringify(before[field])}, which is somebody else's`);
      }
    },
  };
}

/**
 * Rule 8, it ends, for the repository: at rest the API server holds what the branch says, or the status of the sync names the object or the
 * file that is not so; and what the sync applied and the branch does not say any more is gone, or named there as well.
 */
import { deepEqual } from '../../../controller/kube/json.ts';
import type { KubeObject } from '../../../controller/kube/port.ts';
import { type Commit, rootOf, type Statement } from '../git-repository.ts';
import type { Truth } from '../truth.ts';
import type { Checker, Report } from './checker.ts';

type Live = KubeObject & { readonly spec?: Readonly<Record<string, unknown>> };

const differing = (spec: Statement['spec'], live: Live): string[] =>
  Object.keys(spec).filter((field) => !deepEqual(spec[field], live.spec?.[field]));

/** As people find an object in the status: `NodeAllocation cfd/g0`. */
const titleOf = (key: string): string => key.replace('/', ' cfd/');

export function gitSays(report: Report): Checker {
  const applied = new Set<string>();

  function compare(head: Commit, live: ReadonlyMap<string, Live>, told: string): void {
    const { valid, named, failing } = head.said;
    const isTold = (key: string): boolean => new RegExp(`${titleOf(key)}(?![\\w-])`).test(told);
    for (const [key, { spec }] of valid) {
      const object = live.get(key);
      const there = object !== undefined && object.metadata.deletionTimestamp === undefined;
      const fields = there ? differing(spec, object) : [];
      if ((there && fields.length === 0) || isTold(key)) continue;
      report(
        8,
        `${key}: ${there ? `${fields} are not as` : 'it is not there, as'} the branch says, and the sync does not say why`,
      );
    }
    for (const [key, { metadata }] of live) {
      const stays = valid.has(key) || named.has(key) || metadata.deletionTimestamp !== undefined;
      if (stays || !applied.has(metadata.uid ?? '') || isTold(key)) continue;
      report(8, `${key} left the branch and is there, and the sync does not say why`);
    }
    for (const path of failing)
      if (!told.includes(path)) report(8, `${path} has an error, and the sync does not say so`);
  }

  return {
    rule: 8,
    synced({ verb, uid }) {
      if (verb !== 'delete') applied.add(uid);
    },
    atRest(truth: Truth) {
      const head = truth.ground.repository()?.head;
      if (head === undefined) return;
      const { result, commit, message, problems, notPruned } = truth.ground.syncStatus() ?? {};
      if (result === undefined) {
        report(8, 'the repository was never followed');
        return;
      }
      if (commit === head.id) {
        compare(head, truth.ground.tenantObjects(), `${problems}\n${notPruned}`);
        return;
      }
      // Held: nothing of it is applied, which a person must be told.
      const root = truth.ground.repository()?.stands.find((one) => one.commit.id === commit)?.commit;
      const isHeld = result === 'Held' && root !== undefined && rootOf(root) !== rootOf(head);
      if (!isHeld || message?.includes(head.id) !== true)
        report(8, `the sync stands at ${commit?.slice(0, 7)} (${result}), the branch at ${head.id.slice(0, 7)}`);
    },
  };
}

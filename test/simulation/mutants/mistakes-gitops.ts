/** Mistakes between the repository and the API server, which the simulator does not reach: the tests of GitOps must find them. */
import { edit, type Mutant } from './mutant.ts';

const prune = 'controller/gitops/prune.ts';
const sync = 'controller/gitops/sync.ts';

export const gitopsMistakes: readonly Mutant[] = [
  {
    name: 'prune-on-empty-clone',
    mistake: 'a repository in which nothing is left deletes all that was applied from it',
    rules: [6, 9],
    test: { file: 'test/gitops/sync.test.ts', name: 'an emptied path prunes nothing' },
    edits: [
      edit(
        prune,
        "if (desired.valid.size + desired.named.size === 0) return 'the path defines no objects any more';",
        '',
      ),
      edit(
        prune,
        'if (candidates >= settings.smallestHeld && candidates > total * settings.largestShare) {',
        'if (candidates >= settings.smallestHeld && candidates > total) {',
      ),
    ],
  },
  {
    name: 'prune-what-cannot-be-read',
    mistake: 'an object is deleted because its file has an error',
    rules: [6],
    test: { file: 'test/gitops/sync.test.ts', name: 'a misspelt kind is reported' },
    edits: [
      edit(
        prune,
        'const kept = missing.filter((entry) => isBelow(entry.file, desired.failing));',
        "const kept = missing.filter((entry) => entry.file === '' && isBelow(entry.file, desired.failing));",
      ),
    ],
  },
  {
    name: 'follow-an-unrelated-history',
    mistake: 'a repository without a common past is followed as if it were the same',
    rules: [6],
    test: { file: 'test/gitops/sync.test.ts', name: 'a repository that is gone' },
    edits: [
      edit(
        sync,
        "if (history === 'Unrelated' && inventory.entries.length > 0 && !isConfirmed(confirmed, commit)) {",
        "if (history === 'Unrelated' && inventory.entries.length < 0 && !isConfirmed(confirmed, commit)) {",
      ),
    ],
  },
];

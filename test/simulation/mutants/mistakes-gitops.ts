/** Mistakes between the repository and the API server. */
import { edit, type Mutant } from './mutant.ts';

const prune = 'controller/gitops/prune.ts';
const merge = 'controller/gitops/merge.ts';
const apply = 'controller/gitops/apply.ts';
const sync = 'controller/gitops/sync.ts';

export const gitopsMistakes: readonly Mutant[] = [
  {
    name: 'prune-on-empty-clone',
    mistake: 'a repository in which nothing is left deletes all that was applied from it',
    rules: [6, 9],
    faults: ['git'],
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
    faults: ['git'],
    edits: [
      edit(
        prune,
        'const failing = missing.filter((entry) => isBelow(entry.file, desired.failing));',
        "const failing = missing.filter((entry) => entry.file === '' && isBelow(entry.file, desired.failing));",
      ),
    ],
  },
  {
    name: 'follow-an-unrelated-history',
    mistake: 'a repository without a common past is followed as if it were the same',
    rules: [6],
    faults: ['git'],
    edits: [
      edit(
        sync,
        "if (history === 'Unrelated' && inventory.entries.length > 0 && !isConfirmed(confirmed, commit)) {",
        "if (history === 'Unrelated' && inventory.entries.length < 0 && !isConfirmed(confirmed, commit)) {",
      ),
    ],
  },
  {
    name: 'follow-a-force-push',
    mistake: 'what is missing on a rewritten branch is taken for removed',
    rules: [6, 9],
    faults: ['git'],
    edits: [
      edit(
        prune,
        "history === 'Rewritten' || history === 'Unrelated';",
        "history === 'Unrelated' && history === undefined;",
      ),
    ],
  },
  {
    name: 'forget-what-waits',
    mistake: 'what waits for a confirmation is deleted as soon as the next commit looks harmless',
    rules: [6, 9],
    faults: ['git'],
    edits: [
      edit(prune, 'const waiting = candidates.filter((entry) => entry.held);', 'const waiting: InventoryEntry[] = [];'),
      edit(prune, 'prune: candidates.filter((entry) => !entry.held),', 'prune: candidates,'),
    ],
  },
  {
    name: 'prune-past-an-unread-file',
    mistake: 'an object is deleted although it may have moved into a file that cannot be read',
    rules: [6],
    faults: ['git'],
    edits: [edit(prune, 'if (suspects.length > 0) {', 'if (suspects.length > 1_000) {')],
  },
  {
    name: 'forget-what-may-hide',
    mistake: 'an object whose file has an error is no longer looked for in other files that cannot be read',
    rules: [6],
    faults: ['git'],
    edits: [edit(prune, 'unread: accountedFor(unreadNow, inventory, kept) };', 'unread: unreadNow };')],
  },
  {
    name: 'overwrite-somebody-elses-word',
    mistake: 'a field that git and somebody else changed takes what git says',
    rules: [7],
    faults: ['git'],
    edits: [
      edit(merge, "    report('Conflict');\n    return 'conflict';", "    report('Conflict');\n    return 'apply';"),
    ],
  },
  {
    name: 'intent-without-its-commit',
    mistake: 'what a commit brings is remembered before it is applied, and not of which commit it is',
    rules: [6, 9],
    edits: [edit(sync, '...inventory, entries: intended, commit });', '...inventory, entries: intended });')],
  },
  {
    name: 'forget-what-was-pruned',
    mistake: 'what was pruned and stands there again, because its creation came late, is named nowhere',
    rules: [8],
    edits: [edit(sync, 'this.#pruned.set(entry.key, { ...entry, prunedAtMs: this.#context.clock.now() });', '')],
    test: { file: 'test/gitops/sync-waits.test.ts', name: 'what a late request brings back' },
  },
  {
    name: 'no-intent-at-all',
    mistake: 'what a commit brings is remembered once it was applied',
    rules: [6, 8, 9],
    edits: [edit(sync, '    if (isNew) {', "    if (isNew && commit === '') {")],
    test: { file: 'test/gitops/sync-waits.test.ts', name: 'its pass was cut off' },
  },
  {
    name: 'confirm-any-commit',
    mistake: 'a confirmation of one commit counts for every later one',
    rules: [6, 9],
    faults: ['git'],
    edits: [
      edit(
        prune,
        'confirmed.length >= 7 && commit.startsWith(confirmed)',
        'confirmed.length >= 7 && commit.length > 0',
      ),
    ],
  },
  {
    name: 'prune-what-was-adopted',
    mistake: 'an object that was there before the repository named it is deleted with it unasked',
    rules: [6, 9],
    edits: [
      edit(apply, '[adoptedAnnotation] !== undefined && !isConfirmed)', "[adoptedAnnotation] === '' && !isConfirmed)"),
    ],
    test: { file: 'test/gitops/sync-waits.test.ts', name: 'goes only when a person confirms it' },
  },
  {
    name: 'prune-whoever-has-the-name',
    mistake: 'an object that took the place of the one that was applied is deleted in its stead',
    rules: [6],
    edits: [
      edit(apply, "if (uid === '' || (entry.uid !== undefined && entry.uid !== uid)) {", "if (uid === '') {"),
      edit(
        apply,
        'if (live.metadata.annotations?.[appliedByAnnotation] !== context.sync) {',
        "if (live.metadata.name === '') {",
      ),
    ],
    test: { file: 'test/gitops/sync.test.ts', name: 'what took the place of what was applied' },
  },
];

/** Mistakes in what is done where the records of operator and agent disagree, are old, or are gone. */
import { edit, type Mutant } from './mutant.ts';

const conflicts = 'controller/domain/node-conflicts.ts';
const word = 'controller/reconcilers/owner-word.ts';
const guards = 'controller/reconcilers/guards.ts';
const terms = 'controller/reconcilers/terms.ts';

const lostStatus = ['people.nodeStatusLost', 'people.backupRestored', 'people.nodeForced'];

const conflictsOfRecords: readonly Mutant[] = [
  {
    name: 'newer-epoch-not-noticed',
    mistake: 'an agent that knows of a newer epoch than the record here is no conflict',
    rules: [1, 2, 3, 6, 7, 8],
    faults: lostStatus,
    edits: [edit(conflicts, 'if (seenEpoch(facts) > epoch && (record', 'if (record.epoch < 0 && (record')],
  },
];

const oldCaches: readonly Mutant[] = [
  {
    name: 'old-word-of-the-owner',
    mistake: 'a record is written by the word of an allocation that the cache has from before',
    rules: [1, 6, 7, 8, 9],
    edits: [edit(word, 'if (present === cached) return undefined;', "if (present !== '') return undefined;")],
    test: { file: 'test/reconcilers/stale-cache.test.ts', name: 'an end that is over does not end the tenancy' },
  },
  {
    name: 'term-not-raised',
    mistake: 'a leader does not take a term above the ones that agents have seen',
    rules: [5, 7, 8],
    faults: ['operator.leaseGone', 'people.backupRestored', 'operator.killed'],
    edits: [edit(terms, 'if (highestTerm < term) return;', 'if (highestTerm >= 0) return;')],
  },
];

const forgottenBounds: readonly Mutant[] = [
  {
    name: 'hold-forgotten',
    mistake: 'a deletion that waits goes through once the others of its moment are confirmed or over',
    rules: [6, 9],
    edits: [
      edit(
        guards,
        'const heldBefore = isShown || (seen.get(uid)?.heldBefore ?? allocation.status?.conditions === undefined);',
        'const heldBefore = isShown && uid === undefined;',
      ),
    ],
    test: { file: 'test/reconcilers/guards.test.ts', name: 'stays held when its status is taken away' },
  },
  {
    name: 'ended-deletions-forgotten',
    mistake: 'what was deleted and is over counts no more for the deletions of its moment after a restart',
    rules: [6, 9],
    edits: [edit(guards, 'if (!recalled) for (const', 'if (now < 0) for (const')],
    test: { file: 'test/reconcilers/guards.test.ts', name: 'and the operator was restarted wait all the same' },
  },
  {
    name: 'blast-forgotten-at-restart',
    mistake: 'what failure handling took out before a restart of the operator is not counted',
    rules: [9],
    edits: [edit(guards, 'blast ??= recallBlast(fleet, clock.now());', 'blast ??= new Map();')],
    test: { file: 'test/reconcilers/guards.test.ts', name: 'handled as failed still count' },
  },
];

export const recordMistakes: readonly Mutant[] = [...conflictsOfRecords, ...oldCaches, ...forgottenBounds];

/** Mistakes in what is done where the records of operator and agent disagree, are old, or are gone. */
import { edit, type Mutant } from './mutant.ts';

const conflicts = 'controller/domain/node-conflicts.ts';
const life = 'controller/domain/node-life.ts';
const adoption = 'controller/domain/node-adoption.ts';
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
  {
    name: 'lost-log-not-noticed',
    mistake: 'an agent that comes back with an empty log is believed as if it had always known nothing',
    rules: [1, 2, 3, 4, 6, 7],
    edits: [
      edit(
        conflicts,
        'if (committed && status.storeId !== undefined && storeId !== undefined && status.storeId !== storeId) {',
        'if (committed && status.storeId !== undefined && storeId === undefined) {',
      ),
    ],
    test: { file: 'test/domain/held-nodes.test.ts', name: 'comes with another log is held' },
  },
  {
    name: 'unrecorded-guest-not-noticed',
    mistake: 'a hypervisor that runs although the log knows of no start is no conflict',
    rules: [1, 2, 3, 4, 6, 7, 8],
    edits: [edit(conflicts, 'if (!end && !record.guestStarted && showsGuest(facts)) {', 'if (end === null) {')],
    test: { file: 'test/reconcilers/forgetful-log.test.ts', name: 'before the start of its own tenancy' },
  },
  {
    name: 'guest-without-claim-not-noticed',
    mistake: 'a guest that was started on a node without a claim is no conflict',
    rules: [1, 2, 3, 6, 7],
    edits: [edit(conflicts, 'if (!committed && record.guestStarted) {', 'if (!committed && record.epoch < 0) {')],
    test: { file: 'test/domain/held-nodes.test.ts', name: 'a guest on a node without a claim' },
  },
  {
    name: 'forgotten-guest-not-noticed',
    mistake: 'an agent that forgot the guest that was seen to run is believed',
    rules: [1, 2, 3, 4, 6, 7],
    edits: [
      edit(
        conflicts,
        'if (claim && !end && (committedIn || claim.started) && forgotten) {',
        'if (claim && !end && (committedIn || claim.started) && forgotten && record.epoch < 0) {',
      ),
    ],
    test: { file: 'test/reconcilers/forgetful-log.test.ts', name: 're-images no guest that is Resident' },
  },
  {
    name: 'uncertain-commit-not-held',
    mistake:
      'a node whose record says that the hypervisor was told to leave goes on although its agent does not know of it',
    rules: [1, 2, 4, 6, 7, 8],
    edits: [
      edit(
        life,
        '    status.commitSent?.epoch === epoch &&\n    !facts.record.commitSent &&',
        '    status.commitSent?.epoch === epoch &&\n    facts.record.epoch < 0 &&',
      ),
      edit(conflicts, 'const committedIn = status.commitSent?.epoch === claim?.epoch;', 'const committedIn = false;'),
    ],
    test: { file: 'test/domain/held-nodes.test.ts', name: 'a commit on record of which the agent does not know' },
  },
  {
    name: 'swapped-machine-not-noticed',
    mistake: 'another machine behind the name of a node that a tenant has is no conflict',
    rules: [1, 6],
    edits: [
      edit(
        conflicts,
        'if (committed && status.systemUuid !== undefined && status.systemUuid !== facts.systemUuid) {',
        'if (committed && status.systemUuid === facts.systemUuid && facts.record.epoch < 0) {',
      ),
    ],
    test: { file: 'test/domain/held-nodes.test.ts', name: 'another machine answers' },
  },
  {
    name: 'unlisted-node-is-released',
    mistake: 'a claimed node that its allocation does not list is released instead of orphaned',
    rules: [6],
    edits: [
      edit(
        life,
        "  if (owner.role === 'Unlisted') {\n    return held(",
        "  if (owner.role === 'Unlisted') {\n    if (claim.epoch > 0) return endRecord(input, status, 'Released', 'Quick');\n    return held(",
      ),
    ],
    test: { file: 'test/domain/held-nodes.test.ts', name: 'its allocation does not list' },
  },
  {
    name: 'reclaim-of-a-claimed-node',
    mistake: "a person's Reclaim, which is for nodes that nobody claims, ends a claim",
    rules: [6, 7],
    edits: [edit(life, "if (decision.action === 'Reclaim' && status.claim && !status.end) return undefined;", '')],
    test: { file: 'test/domain/held-nodes.test.ts', name: 'Reclaim ends no claim' },
  },
  {
    name: 'adopt-of-another-epoch',
    mistake: "a person's Adopt of one epoch gives the guest of a later one away",
    rules: [1, 6, 7],
    edits: [
      edit(
        adoption,
        "decision?.action !== 'Adopt' || decision.epoch !== epoch) return undefined;",
        "decision?.action !== 'Adopt') return undefined;",
      ),
    ],
    test: { file: 'test/domain/held-nodes.test.ts', name: 'of the epoch that it names' },
  },
  {
    name: 'seen-epoch-not-noticed',
    mistake: 'what an agent was asked for under a newer epoch than the record here, and has not begun, is no conflict',
    rules: [2, 7],
    edits: [edit(conflicts, 'if (seenEpoch(facts) > epoch && (record', 'if (record.epoch > epoch && (record')],
    test: { file: 'test/reconcilers/isolation-kept.test.ts', name: 'seen a newer epoch than a restored record knows' },
  },
  {
    name: 'begins-again-what-began',
    mistake: "a person's Adopt begins an update again although the guest of that update was started",
    rules: [6],
    edits: [edit(adoption, ' || hasBegun(facts, claim.epoch)', '')],
    test: { file: 'test/domain/held-nodes.test.ts', name: 'no update again of which anything began' },
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

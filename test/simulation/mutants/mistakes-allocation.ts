/** Mistakes in what the operator decides about an allocation, and in the bounds on what happens without a person. */
import { edit, type Mutant } from './mutant.ts';

const steps = 'controller/domain/allocation-steps.ts';
const allocation = 'controller/domain/allocation.ts';
const guards = 'controller/reconcilers/guards.ts';

const owners: readonly Mutant[] = [
  {
    name: 'update-nobody-asked-for',
    mistake: 'a changed environment rolls over allocations whose owners did not ask for it',
    rules: [6],
    faults: ['none'],
    edits: [
      edit(
        steps,
        "const wanted = policy === 'Rolling' || asked === environment.revision || draft.nodes.size === 0;",
        'const wanted = policy !== undefined || asked === environment.revision || draft.nodes.size === 0;',
      ),
      // The line of defence behind it: nodes in use are looked at once more.
      edit(steps, "return policy === 'Rolling' || revision === status.revision;", 'return policy !== undefined;'),
    ],
  },
  {
    name: 'update-all-at-once',
    mistake: 'an update takes more nodes from its tenant at once than maxUnavailable',
    rules: [6],
    faults: ['none'],
    edits: [edit(steps, '    if (runs.has(view) && room <= 0) continue;\n', '')],
  },
  {
    name: 'expiry-without-grace',
    mistake: 'an allocation ends at the end of its window, without its grace period',
    rules: [6],
    faults: ['none'],
    edits: [edit(steps, 'const overMs = endMs + graceMs;', 'const overMs = endMs + 0 * graceMs;')],
  },
  {
    name: 'deletion-without-grace',
    mistake: 'the nodes of a deleted allocation are taken back at once, without its grace period',
    rules: [6],
    faults: ['none'],
    edits: [
      edit(
        steps,
        'iso(Math.max(deletedAt, heldUntil(draft) ?? deletedAt) + graceMs) };',
        'iso(Math.max(deletedAt, heldUntil(draft) ?? deletedAt) + 0 * graceMs) };',
      ),
    ],
  },
  {
    name: 'retain-is-ignored',
    mistake: 'a deletion ends the nodes although deletionPolicy is Retain',
    rules: [6],
    faults: ['none'],
    edits: [
      edit(steps, "    if (spec.deletionPolicy === 'Retain') return;\n", ''),
      edit(allocation, "const retains = input.allocation.spec.deletionPolicy === 'Retain';", 'const retains = false;'),
    ],
  },
  {
    name: 'extension-is-ignored',
    mistake: 'a window that its owner made longer ends when the first one would have',
    rules: [6],
    faults: ['people.extended'],
    edits: [
      edit(
        steps,
        '  const { window } = draft.status;\n  if (window?.start === undefined) return;\n',
        '  const { window } = draft.status;\n  if (window?.start === undefined || window.end !== undefined) return;\n',
      ),
    ],
  },
  {
    name: 'more-victims-than-asked',
    mistake: 'a scale-down gives back one node more than its owner asked for',
    rules: [6],
    faults: ['none'],
    edits: [
      edit(
        steps,
        'const victims = input.chooseVictims(held, excess, first);',
        'const victims = input.chooseVictims(held, excess + 1, first);',
      ),
    ],
  },
  {
    name: 'victims-chosen-again',
    mistake: 'the victims of a scale-down are chosen anew after a restart instead of read from status',
    rules: [6],
    faults: ['agents.partitioned', 'agents.unreachable'],
    edits: [
      edit(
        allocation,
        'ending: new Map((before.ending ?? []).map((entry) => [entry.reason, hostsOf(entry.nodes)])),',
        'ending: new Map(),',
      ),
    ],
  },
];

const bounds: readonly Mutant[] = [
  {
    name: 'blast-without-bound',
    mistake: 'failure handling takes out as many nodes as fail',
    rules: [9],
    faults: ['machines.vmmLoad', 'machines.diskError', 'machines.disk'],
    edits: [
      edit(
        guards,
        'blastBudget: () => blastBudget(blastNow(), fleet.nodes.size, clock.now(), settings.blast),',
        'blastBudget: () => Math.max(fleet.nodes.size, blastBudget(blastNow(), fleet.nodes.size, clock.now(), settings.blast)),',
      ),
    ],
  },
  {
    name: 'blast-never-counted',
    mistake: 'what failure handling took out is not counted',
    rules: [9],
    faults: ['machines.vmmLoad', 'machines.diskError', 'machines.disk'],
    edits: [
      edit(
        'controller/reconcilers/allocation.ts',
        'if (decision.blastUsed.length > 0) guards.blastUsed(decision.blastUsed);',
        '',
      ),
    ],
  },
  {
    name: 'mass-deletion-not-held',
    mistake: 'any number of allocations may be deleted at once without a confirmation',
    rules: [6, 9],
    faults: ['people.deletesAll'],
    edits: [edit(steps, 'if (deletionHeld !== undefined) {', "if (deletionHeld === '') {")],
  },
  {
    name: 'failed-in-use-replaced-unasked',
    mistake: 'a node that failed in use is replaced although failurePolicy is Report',
    rules: [6, 9],
    faults: ['machines.diskError', 'machines.vmmPanic', 'machines.tornMap', 'machines.powerCut'],
    edits: [
      edit(
        steps,
        "const replace = beforeUse || input.allocation.spec.failurePolicy === 'Replace';",
        'const replace = beforeUse || input.allocation.spec.failurePolicy !== undefined;',
      ),
    ],
  },
  {
    name: 'failed-in-use-counts-as-unused',
    mistake: 'a node that failed is taken back as if no guest had run on it',
    rules: [6],
    faults: ['machines.diskError', 'machines.vmmPanic', 'machines.tornMap', 'machines.powerCut'],
    edits: [edit(steps, 'const beforeUse = !view.guestStarted;', 'const beforeUse = view.claimed;')],
  },
];

const lifecycle: readonly Mutant[] = [
  {
    name: 'finalizer-dropped-early',
    mistake: 'the finalizer of an allocation goes before its nodes are fenced',
    rules: [6, 7, 8],
    faults: ['none'],
    edits: [
      edit(
        allocation,
        'const release = has && deletionTimestamp !== undefined && ((retains && draft.ending.size === 0) || empty);',
        'const release = has && deletionTimestamp !== undefined && draft.status.ends !== undefined && retains !== empty;',
      ),
    ],
  },
  {
    name: 'never-replaced',
    mistake: 'a node that failed before it was in use keeps its place for ever',
    rules: [8],
    faults: ['machines.vmmLoad', 'machines.disk', 'machines.guestBoot'],
    edits: [edit(steps, 'if (!replace) continue;', 'if (!replace || beforeUse) continue;')],
  },
  {
    name: 'status-at-every-look',
    mistake: 'every minute an allocation is looked at, and the time of the look is written into its status',
    rules: [8],
    faults: ['none'],
    edits: [
      edit(
        'controller/domain/allocation-report.ts',
        'status.selector = selectsNothing;',
        'status.selector = `${selectsNothing},${draft.nowIso}`;',
      ),
      edit(allocation, 'againMs: draft.againMs, blastUsed', 'againMs: draft.againMs ?? 60_000, blastUsed'),
    ],
  },
];

export const allocationMistakes: readonly Mutant[] = [...owners, ...bounds, ...lifecycle];

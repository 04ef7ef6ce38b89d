/** Mistakes in what the operator decides about one node. */
import { edit, type Mutant } from './mutant.ts';

const life = 'controller/domain/node-life.ts';
const reclaim = 'controller/domain/node-reclaim.ts';
const power = 'controller/domain/node-power.ts';
const records = 'controller/domain/node-records.ts';
const states = 'controller/domain/states.ts';

const ends: readonly Mutant[] = [
  {
    name: 'missing-record-is-a-release',
    mistake: 'a claim whose allocation is gone is released instead of orphaned',
    rules: [3, 6],
    faults: ['people.allocationForced'],
    edits: [
      edit(
        life,
        "    return held(\n      'Orphaned',\n      'AllocationMissing',\n      `its allocation ${claim.allocation.namespace}/${claim.allocation.name} is gone; adopt the claim or end it`,\n    );",
        "    return endRecord(input, status, 'Released', 'Quick');",
      ),
    ],
  },
  {
    name: 'replaced-node-is-wiped',
    mistake: 'a node that failed in use is wiped when another stands in, and not kept',
    rules: [6],
    faults: ['machines.diskError', 'machines.vmmPanic', 'machines.tornMap', 'machines.powerCut'],
    edits: [
      edit(
        life,
        "if (owner.role === 'Replaced') return fenceReplaced(claim.epoch, facts, owner);",
        "if (owner.role === 'Replaced') return endRecord(input, status, 'Released', owner.erase);",
      ),
    ],
  },
  {
    name: 'error-wipes',
    mistake: 'a node whose step failed is taken back, whether or not a guest ran on it',
    rules: [6],
    faults: ['machines.diskError', 'machines.vmmPanic', 'machines.tornMap', 'machines.powerCut'],
    edits: [
      edit(
        life,
        "    return { kind: 'rest', state, message: `${status.lastError.code}: ${status.lastError.message}` };",
        "    return endRecord(input, status, 'Failed', owner.erase);",
      ),
    ],
  },
  {
    name: 'decision-for-any-epoch',
    mistake: "a person's decision counts again in a later epoch than the one that it names",
    rules: [6],
    faults: ['people', 'machines.wipe'],
    edits: [
      edit(
        life,
        'if (decision?.epoch !== knownEpoch(status, input.facts)) return undefined;',
        'if (decision === undefined) return undefined;',
      ),
    ],
  },
  {
    name: 'erase-weaker-than-asked',
    mistake: 'a node is wiped quickly although its owner asked for a full erase',
    rules: [3],
    faults: ['none'],
    edits: [
      edit(
        records,
        'end: { epoch, reason, erase, at: input.nowIso },',
        "end: { epoch, reason, erase: 'Quick', at: input.nowIso },",
      ),
    ],
  },
  {
    name: 'end-without-new-epoch',
    mistake: 'an end is recorded under the epoch of the tenancy',
    rules: [5, 6, 8],
    faults: ['none'],
    edits: [
      edit(
        records,
        ": NodeDecision {\n  const epoch = nextEpoch(status, input.facts);\n  const patch: RecordPatch = {\n    state: 'Draining',",
        ": NodeDecision {\n  const epoch = status.epoch ?? 0;\n  const patch: RecordPatch = {\n    state: 'Draining',",
      ),
    ],
  },
];

const lostRecords: readonly Mutant[] = [
  {
    name: 'commission-without-a-look',
    mistake: 'a commission wipes a node whatever the records say',
    rules: [6],
    faults: ['agents.diskLost', 'people.nodeStatusLost'],
    edits: [
      edit(
        life,
        'const untouched = facts.record.epoch === 0 && !facts.record.guestStarted && (status.epoch ?? 0) === 0;',
        'const untouched = facts !== undefined;',
      ),
      edit(
        life,
        'const conflict = findConflict(status, facts, input.storeId);',
        'const conflict = (status.end ?? status.claim) === undefined ? undefined : findConflict(status, facts, input.storeId);',
      ),
    ],
  },
  {
    name: 'certificate-not-asked-for',
    mistake: 'a node without a certificate becomes available at its first enrolment',
    rules: [3],
    faults: ['none'],
    edits: [
      edit(
        life,
        '  if (!hasCleanCertificate(facts)) {',
        '  if (!hasCleanCertificate(facts) && facts.record.guestStarted) {',
      ),
      edit(
        'agent/accept.ts',
        'if (row.guestStarted || row.ended || row.certificate === undefined) {',
        'if (row.guestStarted || row.ended) {',
      ),
    ],
  },
  {
    name: 'duplicate-machine-ignored',
    mistake: 'two nodes that report the same machine are both used',
    rules: [1],
    faults: ['machines.twin'],
    edits: [
      edit(life, 'if (input.duplicateOf !== undefined) {', 'if (input.duplicateOf === input.node.metadata.name) {'),
    ],
  },
];

const tenancy: readonly Mutant[] = [
  {
    name: 'commit-not-recorded',
    mistake: 'the commit to devirtualize is sent without "commit sent" on the PhysicalNode',
    rules: [4],
    faults: ['none'],
    edits: [
      edit(
        life,
        "if (state === 'Devirtualizing' && status.commitSent?.epoch !== epoch && !facts.record.commitSent) {",
        "if (state === 'Devirtualizing' && facts.record.epoch < 0) {",
      ),
    ],
  },
  {
    name: 'uncertain-commit-is-a-failure',
    mistake: 'a commit whose answer was lost counts as failed, and the node is re-imaged',
    rules: [4, 6],
    faults: ['agents.lostCommitAnswer'],
    edits: [
      edit(
        life,
        '  const row = current ? tenancyPath.find((candidate) => !candidate.until(facts, owner)) : tenancyPath[0];\n  if (row === undefined)',
        "  const row = current ? tenancyPath.find((candidate) => !candidate.until(facts, owner)) : tenancyPath[0];\n  const lost = status.commitSent?.epoch === epoch && facts.operation?.status !== 'Done' && row?.state === 'Devirtualizing';\n  if (lost) return claimRecord(input, status, owner, 'Again');\n  if (row === undefined)",
      ),
    ],
  },
  {
    name: 'lost-answer-is-a-failure',
    mistake: 'an instruction whose answer was lost counts as failed, and the node is re-imaged',
    rules: [6],
    faults: ['agents.lostAnswer'],
    edits: [
      edit(
        'controller/reconcilers/node.ts',
        "else if (delivery.kind === 'refused' && !notYet.has(delivery.reason)) {",
        "else if (delivery.kind === 'undelivered' || !notYet.has(delivery.reason)) {",
      ),
      edit(
        'controller/reconcilers/node.ts',
        'message: `${instruction.verb} refused (${delivery.reason}): ${delivery.message}`,',
        'message: `${instruction.verb} refused: ${delivery.message}`,',
      ),
      edit(
        life,
        'if (status.lastError && status.state === state) {',
        'if (status.lastError && inUse) return claimRecord(input, status, owner, "Again");\n  if (status.lastError && status.state === state) {',
      ),
    ],
  },
  {
    name: 'power-loss-reinstalls',
    mistake: 'a node in use whose hypervisor went silent is re-imaged',
    rules: [6],
    faults: ['machines.powerLoss', 'machines.powerCut'],
    edits: [
      edit(
        life,
        '  const drift = driftStep(facts, owner, facts.record.guestStarted);',
        "  if (inUse && facts.vmm === 'Absent' && !facts.record.commitSent && facts.guest.starts > 0) return claimRecord(input, status, owner, 'Again');\n  const drift = driftStep(facts, owner, facts.record.guestStarted);",
      ),
    ],
  },
  {
    name: 'drift-not-mended',
    mistake: 'a port that left the domain of a node in use is left where it is',
    rules: [2, 8],
    faults: ['fabric.fabricDefaults'],
    edits: [
      edit(
        life,
        '  if (!strayed && !isOfAnother(facts, owner)) return undefined;',
        '  if (facts !== undefined) return undefined;',
      ),
    ],
  },
  {
    name: 'adopt-any-revision',
    mistake: 'an allocation takes over a claim of another revision than its own',
    rules: [6],
    faults: ['people.allocationForced'],
    edits: [
      edit(
        'controller/domain/node-adoption.ts',
        "if (!sameTenant || owner.role !== 'Placed' || claim.revision !== owner.environment.revision) {",
        "if (!sameTenant || owner.role !== 'Placed') {",
      ),
      edit(
        'controller/domain/allocation-steps.ts',
        'if (isFree && revision !== undefined && orphan.revision === revision) draft.nodes.add(orphan.name);',
        'if (isFree && revision !== undefined) draft.nodes.add(orphan.name);',
      ),
      edit(
        'controller/domain/allocation-steps.ts',
        'orphan.name === name && orphan.revision === draft.status.revision',
        'orphan.name === name',
      ),
      // The operator's other line of defence: nobody asked for the update.
      edit('controller/domain/allocation-steps.ts', 'const isAsked = isUpdateAsked(draft);', 'const isAsked = true;'),
    ],
  },
];

const release: readonly Mutant[] = [
  {
    name: 'release-without-certificate',
    mistake: 'a node is released when its power is off, without a certificate',
    rules: [3],
    faults: ['none'],
    edits: [
      edit(
        reclaim,
        'const certifiedNow = current && reclaimPath.at(-1)?.until(facts, terms) === true;',
        "const certifiedNow = current && facts.record.ended && facts.power === 'Off';",
      ),
      edit(
        life,
        '  if (!hasCleanCertificate(facts)) {',
        '  if (!hasCleanCertificate(facts) && status.certificate === undefined) {',
      ),
      edit(
        'agent/accept.ts',
        'if (row.guestStarted || row.ended || row.certificate === undefined) {',
        'if (row.kind === "None") {',
      ),
    ],
  },
  {
    name: 'nonce-used-again',
    mistake: 'every reclaim of a node uses the same nonce',
    rules: [3],
    faults: ['none'],
    edits: [
      edit(
        reclaim,
        'return `${node.metadata.uid ?? node.metadata.name}-${endEpoch}`;',
        'return `${node.metadata.uid ?? node.metadata.name}-${endEpoch * 0}`;',
      ),
    ],
  },
  {
    name: 'fence-skipped',
    mistake: 'a node is switched off and wiped without its ports being fenced first',
    rules: [2, 3, 8],
    faults: ['none'],
    edits: [
      edit(states, "until: (facts) => isolatedIn(facts, 'quarantine'),", 'until: (facts) => facts.record.ended,'),
    ],
  },
];

const powers: readonly Mutant[] = [
  {
    name: 'left-off-after-an-outage',
    mistake: 'a machine that comes back switched off while a tenant has it stays off',
    rules: [8],
    faults: ['machines.powerLoss', 'machines.rackDark', 'machines.powerCut'],
    edits: [edit(power, 'if (why !== undefined) return', 'if (shown) return')],
  },
  {
    name: 'switched-on-under-maintenance',
    mistake: 'a machine in use is switched on while somebody has his hands in it',
    rules: [8],
    edits: [edit(power, "  if (spec?.maintenance) return 'it is under maintenance';\n", '')],
    test: { file: 'test/reconcilers/power.test.ts', name: 'under maintenance' },
  },
];

export const nodeMistakes: readonly Mutant[] = [...ends, ...lostRecords, ...tenancy, ...release, ...powers];

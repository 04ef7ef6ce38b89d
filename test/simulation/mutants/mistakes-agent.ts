/** Mistakes in the agent: its own defence, the operations of a tenancy, the way back. */
import { edit, type Mutant } from './mutant.ts';

const core = 'agent/core.ts';
const accept = 'agent/accept.ts';
const row = 'agent/row.ts';
const tenancy = 'agent/tenancy.ts';
const reclaim = 'agent/reclaim.ts';
const states = 'controller/domain/states.ts';

const isolatingUntil = 'facts.record.guestStarted || (isolatedIn(';
const isolatingAtOnce = 'facts.record.epoch > 0 || (isolatedIn(';

const fencing: readonly Mutant[] = [
  {
    name: 'ignore-term',
    mistake: 'an agent takes instructions of a leader that was replaced',
    rules: [1, 4, 5, 6],
    faults: ['operator', 'agents.late', 'agents.twice'],
    edits: [
      edit(core, 'if (term < this.#highestTerm) return', 'if (term < 0) return'),
      edit(accept, 'if (term < row.term) return', 'if (term < 0) return'),
    ],
  },
  {
    name: 'ignore-epoch',
    mistake: 'an agent takes instructions of a tenancy that is over',
    rules: [1, 2, 3, 5, 6],
    edits: [edit(accept, 'if (epoch < row.seenEpoch) return', 'if (epoch < 0) return')],
  },
  {
    name: 'new-epoch-before-old-work-ended',
    mistake: 'a newer epoch acts while a job of the older one can still take effect',
    rules: [2, 3, 5, 6],
    faults: ['bmc', 'fabric'],
    edits: [
      edit(
        accept,
        'if (!(ends ? anythingPendingBesideBmc(',
        'if (row.epoch >= 0 || !(ends ? anythingPendingBesideBmc(',
      ),
    ],
  },
  {
    name: 'forget-dirty-mark-on-restart',
    mistake: 'an agent that restarts has forgotten that a guest was started',
    rules: [3, 6],
    faults: ['agents.killed'],
    edits: [
      edit(
        core,
        'const row = rows.get(node) ?? freshRow(node);',
        'const row = { ...(rows.get(node) ?? freshRow(node)), guestStarted: false };',
      ),
      // The operator's own lines of defence behind it: what it wrote of the claim, and what the machine shows.
      edit('controller/domain/node-conflicts.ts', ' || (claim?.started === true && !record.guestStarted);', ';'),
      edit(
        'controller/domain/node-conflicts.ts',
        'if (!end && !record.guestStarted && showsGuest(facts)) {',
        'if (!end && !record.guestStarted && showsGuest(facts) && record.epoch < 0) {',
      ),
      edit('controller/domain/node-life.ts', '  if (claim?.started || showsGuest(facts)) return true;', ''),
    ],
  },
];

const isolation: readonly Mutant[] = [
  {
    name: 'trust-requested-isolation',
    mistake: 'isolation counts as made once it was asked for',
    rules: [2],
    faults: ['machines.fabric', 'fabric.fabricLate', 'fabric.portUnknown'],
    edits: [
      edit(row, "readings.fabric.dataChange?.status !== 'Pending' &&\n    dataPortsIn(", 'domainRequested('),
      edit(
        row,
        'export const copyComplete =',
        'const domainRequested = (readings: Readings, domain: string, _egress: Egress): boolean => readings !== undefined && domain !== "";\n\nexport const copyComplete =',
      ),
      edit(states, isolatingUntil, isolatingAtOnce),
    ],
  },
  {
    name: 'power-on-before-isolation',
    mistake: 'the machine is started while its ports are still being moved',
    rules: [2],
    faults: ['machines.fabric', 'fabric.fabricLate', 'fabric.portUnknown'],
    edits: [
      edit(tenancy, 'const wrong = isolated(row, readings)\n', 'const wrong = row.epoch > 0\n'),

      edit(
        accept,
        "if (operation?.status === 'Running' && operation.resumed === undefined && !besideOthers.has(verb)) {",
        "if (operation?.status === 'Running' && operation.instruction.verb !== 'isolate') {",
      ),
      edit(
        accept,
        "if (!isolated(row, readings)) {\n    return ['NotIsolated'",
        "if (row.epoch < 0) {\n    return ['NotIsolated'",
      ),
      edit(
        tenancy,
        'if (isolated(row, readings)) return met;',
        'if (row.starts === 0 || isolated(row, readings)) return met;',
      ),
      edit(states, isolatingUntil, isolatingAtOnce),
    ],
  },
  {
    name: 'start-with-drifted-port',
    mistake: 'isolation is not looked at again when the machine is switched on',
    rules: [2],
    faults: ['fabric.fabricDefaults', 'bmc.bmcSlow', 'bmc.bmcHang', 'bmc.orderUnread'],
    edits: [
      edit(tenancy, 'const wrong = isolated(row, readings)\n', 'const wrong = row.epoch > 0\n'),

      edit(
        tenancy,
        'if (isolated(row, readings)) return met;',
        'if (row.starts === 0 || isolated(row, readings)) return met;',
      ),
    ],
  },
];

const installing: readonly Mutant[] = [
  {
    name: 'serve-any-digest',
    mistake: 'an image is served although its digest is not the one that was asked for',
    rules: [3],
    faults: ['machines.imageRot'],
    edits: [
      edit(
        tenancy,
        "if (opened.kind !== 'Met' || images.digest === image.sha256) return opened;",
        "if (opened.kind !== 'Met' || images.digest !== '') return opened;",
      ),
    ],
  },
  {
    name: 'image-over-an-invalid-map',
    mistake: "a map of filled blocks that is not valid is answered with a fresh copy over the guest's writes",
    rules: [6],
    faults: ['machines.tornMap', 'machines.powerCut', 'machines.powerLoss', 'agents.killed'],
    edits: [edit(tenancy, "start: row.mapSeen || row.starts > 0 ? 'Keep' : 'Fresh',", "start: 'Fresh',")],
  },
  {
    name: 'late-dirty-mark',
    mistake: 'guestStarted is written when the guest was seen to run, not before the power-on',
    rules: [3, 6],
    faults: ['agents.killed', 'agents.diesAtAct', 'agents.diesAtWrite'],
    edits: [
      edit(
        tenancy,
        "ctx.row = { ...rest, guestStarted: true, operation: { ...operation, phase: 'Acting' } };",
        "ctx.row = { ...rest, guestStarted: row.guestStarted, operation: { ...operation, phase: 'Acting' } };",
      ),
      edit(
        tenancy,
        "if (ofThisEpoch && vmm.guest.state === 'Running' && row.starts > 0) return met;",
        "if (ofThisEpoch && vmm.guest.state === 'Running' && row.starts > 0) {\n    ctx.row = { ...row, guestStarted: true };\n    return met;\n  }",
      ),
      // The operator does not believe an agent that it does not hear.
      edit(
        'controller/domain/allocation-steps.ts',
        "return view.reachable && !view.guestStarted && view.state === 'Isolating';",
        "return !view.guestStarted && view.state === 'Isolating';",
      ),
    ],
  },
];

const leaving: readonly Mutant[] = [
  {
    name: 'devirtualize-before-complete',
    mistake: 'the hypervisor leaves when nine tenths of the blocks are local',
    rules: [4],
    faults: ['none'],
    edits: [
      edit(
        row,
        '  copy.localBytes >= copy.totalBytes &&\n  copy.flushed &&\n  copy.inFlight === 0;',
        '  copy.localBytes >= copy.totalBytes * 0.9;',
      ),
      edit(
        states,
        '  facts.copy.localBytes >= facts.copy.totalBytes &&\n  facts.copy.flushed;',
        '  facts.copy.localBytes >= facts.copy.totalBytes * 0.9;',
      ),
    ],
  },
  {
    name: 'devirtualize-before-flush',
    mistake: 'the hypervisor leaves while blocks are in the write cache of the disk',
    rules: [4],
    faults: ['none'],
    edits: [edit(row, '  copy.flushed &&\n', ''), edit(states, ' &&\n  facts.copy.flushed;', ';')],
  },
  {
    name: 'export-open-at-prepare',
    mistake: 'the image export stays open when devirtualization is prepared',
    rules: [4],
    faults: ['none'],
    edits: [
      edit(tenancy, '        () => exportClosed(ctx, `${operationId}/close`),\n', ''),
      edit(row, "    images.exported === 'Closed' &&\n", ''),
    ],
  },
  {
    name: 'boot-order-not-set',
    mistake: 'the boot order stays on the network when devirtualization is prepared',
    rules: [4],
    faults: ['none'],
    edits: [
      edit(tenancy, "        () => orderIs(ctx, 'Disk', `${operationId}/order`),\n", ''),
      edit(row, "    power.order === 'Disk' &&\n", ''),
    ],
  },
  {
    name: 'control-port-left-open',
    mistake: 'the control port stays in provisioning after the hypervisor has left',
    rules: [4],
    faults: ['none'],
    edits: [
      edit(
        tenancy,
        "  const closed = controlPortsAre(ctx, 'closed', `${operationId}/closed`);\n  return closed.kind === 'Met' ? left : closed;",
        '  return left;',
      ),
      edit(tenancy, '  if (domain === undefined || controlChange', "  if (domain !== 'provisioning' || controlChange"),
      edit(states, "facts.vmm === 'Absent' && controlPortClosed(facts);", "facts.vmm === 'Absent';"),
    ],
  },
  {
    name: 'commit-not-in-the-log',
    mistake: 'the agent writes "commit sent" into its log when the hypervisor has left, not before',
    rules: [4],
    faults: ['none'],
    edits: [
      edit(
        tenancy,
        "ctx.row = { ...row, commitSent: true, operation: { ...operation, phase: 'Acting' } };",
        "if (operation.phase === 'Preparing') ctx.row = { ...row, operation: { ...operation, phase: 'Acting' } };",
      ),
      edit(
        tenancy,
        "  return closed.kind === 'Met' ? left : closed;",
        "  if (closed.kind === 'Met' && left.kind === 'Met') ctx.row = { ...ctx.row, commitSent: true };\n  return closed.kind === 'Met' ? left : closed;",
      ),
    ],
  },
];

const wayBack: readonly Mutant[] = [
  {
    name: 'skip-the-wipe',
    mistake: 'disks are said to be wiped and are not',
    rules: [3],
    faults: ['none'],
    edits: [
      edit(
        reclaim,
        '  const token = `${operationId}/wipe`;\n',
        '  const token = `${operationId}/wipe`;\n  ctx.row = { ...ctx.row, reclaim: { ...ctx.row.reclaim, isWiped: true, wiped: machine.inventory.disks.map((disk) => disk.serial ?? disk.name) } };\n  if (token !== erase) return met;\n',
      ),
    ],
  },
  {
    name: 'believe-a-wipe-that-missed-a-disk',
    mistake: 'a wipe counts although a disk of the inventory was not wiped',
    rules: [3],
    faults: ['machines.wipeMisses'],
    edits: [
      edit(reclaim, 'if (left > 0) return', 'if (left > 1) return'),
      edit(reclaim, 'if (gone.length > 0) return', 'if (gone.length > 1) return'),
      edit(
        accept,
        "verb === 'check' && (isWiped !== true || notWiped(readings.machine, wiped) > 0)",
        "verb === 'check' && wiped.length === 0",
      ),
      edit('agent/decide.ts', 'certificate.disks.includes(serial)', 'certificate.disks.length > 0'),
      edit(
        states,
        'facts.reclaim.wipedDisks >= Math.max(1, facts.inventory.disks.length) ||',
        'facts.reclaim.wipedDisks > 0 ||',
      ),
    ],
  },
  {
    name: 'secrets-kept-at-fencing',
    mistake: "the boot server keeps the plan with the tenant's secrets after fencing",
    rules: [10],
    faults: ['none'],
    edits: [
      edit(reclaim, "  ctx.acts.push({ kind: 'plan', plan: undefined });\n  return together(", '  return together('),
      edit(reclaim, "    ctx.acts.push({ kind: 'plan', plan: undefined });\n    const", '    const'),
    ],
  },
  {
    name: 'trusted-image-without-quarantine',
    mistake: 'a node is attested and wiped although its ports are not in quarantine',
    rules: [2, 3],
    faults: ['none'],
    edits: [
      edit(
        reclaim,
        "if (!dataPortsIn(ctx.readings, 'quarantine')) return failed(",
        "if (ctx.row.epoch < 0 && !dataPortsIn(ctx.readings, 'quarantine')) return failed(",
      ),
      edit(
        accept,
        "if (!dataPortsIn(readings, 'quarantine')) return",
        'if (row.epoch < 0 && !dataPortsIn(readings, "quarantine")) return',
      ),
      edit(states, "until: (facts) => isolatedIn(facts, 'quarantine'),", 'until: (facts) => facts.record.ended,'),
    ],
  },
  {
    name: 'certificate-survives-a-guest',
    mistake: 'the certificate of before stands after a tenant was started',
    rules: [3],
    faults: ['none'],
    edits: [
      edit(tenancy, 'const { certificate: _usedUp, ...rest } = row;', 'const rest = row;'),
      edit(
        states,
        '  return (\n    record.certificate !== undefined &&\n    record.certificate.epoch === record.epoch &&',
        '  return (\n    record.certificate !== undefined &&',
      ),
      edit(
        states,
        '    record.certificate.nonce === nonce &&\n    !record.guestStarted &&\n    !record.ended\n',
        "    nonce !== ''\n",
      ),
    ],
  },
];

export const agentMistakes: readonly Mutant[] = [...fencing, ...isolation, ...installing, ...leaving, ...wayBack];

/** Mistakes in what an agent refuses, does once more, or looks at again before it acts. */
import { edit, type Mutant } from './mutant.ts';

const accept = 'agent/accept.ts';
const core = 'agent/core.ts';
const decide = 'agent/decide.ts';
const reclaim = 'agent/reclaim.ts';
const tenancy = 'agent/tenancy.ts';
const trusted = 'agent/drivers/boot/trusted.ts';

const refusals: readonly Mutant[] = [
  {
    name: 'wipe-without-attestation',
    mistake: 'a wipe, and the check after it, count in a boot that nobody attested',
    rules: [3],
    faults: ['machines.powerCut', 'machines.reset', 'machines.powerLoss'],
    edits: [
      edit(
        accept,
        "if (attestedNonce === '' || !readings.vmm.trusted.up || readings.vmm.trusted.nonce !== attestedNonce) {",
        "if (attestedNonce === 'none') {",
      ),
      edit(
        decide,
        "if (reclaim.attestedNonce !== '' && !reclaim.checked && attestedBootEnded) {",
        "if (reclaim.attestedNonce === 'none' && attestedBootEnded) {",
      ),
    ],
  },
  {
    name: 'boot-token-not-looked-at',
    mistake:
      'what comes through the port of a machine is taken for the boot that was started there, whatever token it has',
    rules: [3],
    edits: [
      edit(
        trusted,
        "return timingSafeEqual(expected, Buffer.from(given, 'hex'));",
        "return !timingSafeEqual(expected, Buffer.alloc(32)) && given !== '';",
      ),
    ],
    test: { file: 'test/agent/trusted-boots.test.ts', name: 'nothing counts without the token of this very boot' },
  },
  {
    name: 'goes-on-unasked',
    mistake: 'an agent that starts goes on by itself with what its log shows as under way, however old that log is',
    rules: [2, 6],
    edits: [edit(core, '[row.node, resumedRow(row)]', '[resumedRow(row).node, row]')],
    test: { file: 'test/agent/restart.test.ts', name: 'that was being made leaves the guest that runs by now alone' },
  },
  {
    name: 'same-instruction-twice',
    mistake: 'an instruction that comes a second time is carried out a second time',
    rules: [2, 3, 4, 5, 6, 8],
    edits: [edit(accept, 'if (row.recent.includes(operationId)) {', 'if (row.recent.length < 0) {')],
    test: { file: 'test/agent/refusals.test.ts', name: 'comes once more, late' },
  },
  {
    name: 're-image-after-the-commit',
    mistake: 'an agent re-images a node in an epoch whose hypervisor was told to leave',
    rules: [4, 6],
    edits: [
      edit(
        accept,
        "  if (row.commitSent)\n    return ['Conflict', 'the commit to",
        "  if (row.epoch < 0)\n    return ['Conflict', 'the commit to",
      ),
      edit(
        accept,
        "  if (row.preparing)\n    return ['Conflict', 'dev",
        "  if (row.epoch < 0)\n    return ['Conflict', 'dev",
      ),
      edit(accept, 'if (row.recent.includes(operationId)) {', 'if (row.recent.length < 0) {'),
    ],
    test: { file: 'test/agent/refusals.test.ts', name: 'an uncertain commit closes the control port' },
  },
  {
    name: 'tenancy-over-an-unknown-hypervisor',
    mistake: 'a tenancy begins on a machine on which a hypervisor runs that the log knows nothing of',
    rules: [1, 2, 3, 6],
    edits: [
      edit(
        accept,
        "if (readings.vmm.vmm === 'Resident') {\n        return refuse(",
        'if (row.epoch < 0) {\n        return refuse(',
      ),
    ],
    test: { file: 'test/agent/restart.test.ts', name: 'went back to a certified machine' },
  },
  {
    name: 'attest-with-the-machine-on',
    mistake: 'the trusted image is booted although the machine was not read as off',
    rules: [2, 3],
    edits: [
      edit(accept, "return readings.power.state === 'Off'\n", 'return readings.power.state !== undefined\n'),
      edit(reclaim, "if (state === 'On') return cameOn;", "if (state === 'Unknown') return cameOn;"),
      edit(reclaim, "() => (state === 'Off' ? met : cameOn),", '() => met,'),
    ],
    test: { file: 'test/agent/faults-bmc.test.ts', name: 'a BMC ran although it had deleted it' },
  },
];

const onceMore: readonly Mutant[] = [
  {
    name: 'foreign-disk-not-noticed',
    mistake: 'a disk that was exchanged between the wipe and the first boot is taken for a clean one',
    rules: [3],
    faults: ['machines.diskSwap'],
    edits: [
      edit(
        tenancy,
        'cleanDisks !== undefined && !mapSeen && notWiped(readings.machine, cleanDisks) > 0;',
        'cleanDisks !== undefined && !mapSeen && notWiped(readings.machine, cleanDisks) < 0;',
      ),
      edit(
        decide,
        'if (row.certificate !== undefined && !disksAreOf(row.certificate, machine)) {',
        'if (row.certificate !== undefined && !disksAreOf(row.certificate, machine) && row.epoch < 0) {',
      ),
    ],
  },
  {
    name: 'stray-port-of-a-pending-node',
    mistake: "a port that strayed from a running guest is not put back while its allocation's status is lost",
    rules: [2],
    edits: [
      edit(
        'controller/domain/node-life.ts',
        "return strayed ?? { kind: 'rest', state, message };",
        "return strayed && state === 'Enrolling' ? strayed : { kind: 'rest', state, message };",
      ),
    ],
    test: { file: 'test/domain/stray-ports.test.ts', name: 'under the epoch of the guest that runs' },
  },
  {
    name: 'commit-with-drifted-port',
    mistake: 'isolation is not looked at again when the hypervisor is told to leave',
    rules: [4],
    faults: [
      'fabric.fabricDefaults',
      'fabric.portUnknown',
      'agents.slow',
      'agents.late',
      'api.slow',
      'operator.diesAtCall',
    ],
    edits: [
      edit(tenancy, 'if (!row.commitSent && !isolated(row, ctx.readings))\n', 'if (row.epoch < 0)\n'),
      edit('agent/row.ts', "power.order === 'Disk' &&\n    isolated(row, readings)\n", "power.order === 'Disk'\n"),
    ],
  },
  {
    name: 'commit-under-a-turned-boot-order',
    mistake: 'an agent that died before the commit sends it when it is back, whatever became of what was prepared',
    rules: [4],
    edits: [
      edit(
        tenancy,
        "if (vmm.vmm === 'Absent' || vmm.change?.token === token || isPrepared(row, readings)) return met;",
        "if (token !== '' || isPrepared(row, readings)) return met;",
      ),
    ],
    test: { file: 'test/agent/restart.test.ts', name: 'is put right before the hypervisor leaves' },
  },
  {
    name: 'boots-while-images-are-exchanged',
    mistake: 'a machine may boot under its older plan while the image of the newer one is opened',
    rules: [2, 3, 6],
    edits: [edit(tenancy, '    () => nothingBoots(ctx, operationId),\n', '')],
    test: { file: 'test/agent/faults-machines.test.ts', name: 'never gets the image of a newer one' },
  },
  {
    name: 'serves-a-guest-without-hypervisor',
    mistake: 'a guest that its tenant booted past the hypervisor is answered as the hypervisor would be',
    rules: [2, 4, 10],
    edits: [
      edit(tenancy, "if (!streams || vmm.vmm !== 'Absent' || is", "if (row.epoch >= 0 || vmm.vmm !== 'Absent' || is"),
    ],
    test: { file: 'test/agent/faults-tenant.test.ts', name: 'finds its hypervisor once the machine was off' },
  },
  {
    name: 'put-back-that-failed-is-over',
    mistake: 'a port whose way back failed once is left where it is',
    rules: [2, 8],
    edits: [
      edit(
        'controller/domain/node-life.ts',
        "(state === 'Error' || (state === 'Ready' && (domain",
        "((state === 'Ready' && (domain",
      ),
    ],
    test: { file: 'test/domain/stray-ports.test.ts', name: 'whose way back failed is put back once more' },
  },
  {
    name: 'strayed-port-left-alone',
    mistake: 'an agent leaves a port where it strayed until somebody instructs it',
    rules: [2],
    edits: [edit(tenancy, 'if (!row.guestStarted || isMoving || !ports', 'if (row.epoch >= 0 || isMoving || !ports')],
    test: { file: 'test/agent/strayed-ports.test.ts', name: 'that nobody puts back is closed' },
  },
  {
    name: 'strayed-port-put-back-by-an-old-log',
    mistake: 'an agent puts a strayed port where its own log wants it, however old that log is',
    rules: [2],
    edits: [
      edit(
        tenancy,
        "domain: 'quarantine', egress: 'None', token });",
        "domain: row.isolation?.domain ?? 'quarantine', egress: 'None', token });",
      ),
    ],
    test: { file: 'test/agent/strayed-ports.test.ts', name: 'that nobody puts back is closed' },
  },
  {
    name: 'starts-without-bound',
    mistake: 'a machine is handed a system as often as it asks',
    rules: [9],
    edits: [edit('agent/drivers/boot/start-pace.ts', 'this.#left -= 1;', '')],
    test: { file: 'test/agent/start-pace.test.ts', name: 'asks without end' },
  },
];

export const refusalMistakes: readonly Mutant[] = [...refusals, ...onceMore];

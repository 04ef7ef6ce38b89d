/** Mistakes that matter where machines, switches and tenants do what they should not. */
import { edit, type Mutant } from './mutant.ts';

const tenancy = 'agent/tenancy.ts';
const identity = "identity: { boot: 'Port', channel: 'Key' }";

export const roomMistakes: readonly Mutant[] = [
  {
    name: 'answer-a-hardware-address',
    mistake: 'the boot server believes the hardware address of a request, and not the switch port that it comes from',
    rules: [10],
    faults: ['tenant'],
    edits: [edit('agent/drivers/simulated/options.ts', identity, "identity: { boot: 'Mac', channel: 'Key' }")],
  },
  {
    name: 'take-a-guest-at-its-word',
    mistake: 'whoever speaks as the hypervisor of a machine is believed',
    rules: [4],
    faults: ['tenant'],
    edits: [edit('agent/drivers/simulated/options.ts', identity, "identity: { boot: 'Port', channel: 'Word' }")],
  },
  {
    name: 'provisioning-behind-a-bare-guest',
    mistake: 'isolation opens the control port also under a guest that runs without its hypervisor',
    rules: [2],
    edits: [
      edit(
        tenancy,
        "const mayOpen = !commitSent && (isEmpty || vmm.vmm === 'Resident');",
        "const mayOpen = !commitSent && (isEmpty || guestStarted || vmm.vmm === 'Resident');",
      ),
    ],
  },
  {
    name: 'control-port-open-after-a-reset',
    mistake: 'a machine that comes up from its own disk keeps the control port of before',
    rules: [2],
    faults: ['tenant.setsOrder', 'machines.reset'],
    edits: [edit(tenancy, "if (power.state === 'On' && isBare)", "if (power.state === 'Unknown' && isBare)")],
  },
  {
    name: 'certificate-of-other-disks',
    mistake: 'a disk that was put in after the wipe is taken for one that was wiped',
    rules: [3],
    faults: ['machines.diskSwap'],
    edits: [
      edit(
        'agent/decide.ts',
        'if (row.certificate !== undefined && !disksAreOf(row.certificate, machine)) {',
        'if (row.certificate !== undefined && !disksAreOf(row.certificate, machine) && row.epoch < 0) {',
      ),
    ],
  },
  {
    name: 'deaf-to-silence',
    mistake: 'a hypervisor that stopped in the middle of its copy is waited for without end',
    rules: [8],
    faults: ['machines.vmmPanic'],
    edits: [edit('agent/decide.ts', 'if (row.silent === true) return;', 'if (row.epoch >= 0) return;')],
  },
  {
    name: 'began-to-boot-is-unused',
    mistake: 'a node whose guest began to boot and hung is taken for unused, and wiped',
    rules: [6],
    faults: ['machines'],
    edits: [
      edit(
        'controller/domain/node-life.ts',
        "guest.starts === 0 && copy.map === 'None' && !record.commitSent",
        'guest.starts === 0 && !record.commitSent',
      ),
    ],
  },
];

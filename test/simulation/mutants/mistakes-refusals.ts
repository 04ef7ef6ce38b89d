/** Mistakes in what an agent refuses, does once more, or looks at again before it acts. */
import { edit, type Mutant } from './mutant.ts';

const accept = 'agent/accept.ts';
const decide = 'agent/decide.ts';
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
];

export const refusalMistakes: readonly Mutant[] = [...refusals, ...onceMore];

/** Mistakes in what carries the decisions: writes, caches, attempts, observations, leadership. */
import { edit, type Mutant } from './mutant.ts';

const patch = 'controller/kube/patch.ts';
const attempts = 'controller/domain/attempts.ts';
const mirror = 'controller/agents/mirror.ts';
const operator = 'controller/reconcilers/operator.ts';

export const machineryMistakes: readonly Mutant[] = [
  {
    name: 'no-compare-in-compare-and-swap',
    mistake: 'a record is written over whatever stands there now',
    rules: [1, 6],
    faults: ['operator.slowClock', 'operator.another', 'api.edited', 'api.stalled', 'api.slow'],
    edits: [edit(patch, '      uid,\n      resourceVersion,\n      ...(fieldManager', '      ...(fieldManager')],
  },
  {
    name: 'cache-not-synced',
    mistake: 'the operator decides before its caches are complete',
    rules: [1, 3, 6, 7, 8, 9],
    faults: ['api.slowList', 'operator.killed'],
    edits: [
      edit(
        operator,
        '    await Promise.all(Object.values(caches).map(({ store }) => store.waitForSync(signal)));\n',
        '',
      ),
      edit(operator, '    await dialled(fleet, clock, signal);\n', ''),
      edit(operator, 'async function dialled(', 'export async function dialled('),
      // A line of defence behind it: whatever was forgotten, nodes in use are re-imaged only where their owner asked.
      edit(
        'controller/domain/allocation-steps.ts',
        "return policy === 'Rolling' || revision === status.revision;",
        'return policy !== undefined;',
      ),
    ],
  },
  {
    name: 'retries-without-bound',
    mistake: 'a step that fails is tried for ever',
    rules: [8],
    faults: ['machines.dies', 'bmc.bmcHang', 'machines.check'],
    edits: [
      edit(
        attempts,
        "if (policy === 'FailNode' || !retryable || isSpent(again, bounds)) {",
        "if (policy === 'FailNode' || !retryable) {",
      ),
    ],
  },
  {
    name: 'boot-nonce-ignored',
    mistake: 'a restarted agent is held to the sequence numbers of its former process',
    rules: [7, 8],
    faults: ['agents.killed'],
    edits: [edit(mirror, 'for (const known of this.#known.values()) known.seq = -1;', '')],
  },
];

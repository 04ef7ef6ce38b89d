/** What people are shown: each change once, no control characters from outside, and what is missing in words. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NodeAllocation } from '../../controller/api/types.generated.ts';
import { type Picture, Progress } from '../../controller/cli/progress.ts';
import { viewOf } from '../../controller/cli/settled.ts';
import { VirtualClock } from '../support/virtual-clock.ts';

function allocation(status: object, spec: object = {}): NodeAllocation {
  return {
    apiVersion: 'bitvisor.io/v1alpha1',
    kind: 'NodeAllocation',
    metadata: { name: 'job', namespace: 'team', generation: 2 },
    spec: { replicas: 2, devirtualize: 'WhenInstalled', ...spec },
    status: { observedGeneration: 2, ...status },
  } as NodeAllocation;
}

const condition = (type: string, status: string): object => ({ type, status, reason: 'Because', message: `${type}!` });
const good = [condition('Ready', 'True'), condition('Reconciling', 'False'), condition('Stalled', 'False')];
const bareMetal = { conditions: good, replicas: 2, ready: 2, installed: 2, devirtualized: 2, phase: 'BareMetal' };

test('an allocation that has all it asks for misses nothing', () => {
  assert.deepEqual(viewOf(allocation(bareMetal)).missing, []);
  const resident = viewOf(allocation({ ...bareMetal, devirtualized: 0 }, { devirtualize: 'Never' }));
  assert.deepEqual(resident.missing, []);
});

const lacking: readonly [string, object, RegExp][] = [
  ['a status of an older spec', { ...bareMetal, observedGeneration: 1 }, /has not seen its newest change/],
  ['no status', { conditions: [] }, /has not looked at it/],
  ['a copy under way', { ...bareMetal, installed: 1 }, /1 of 2 nodes are installed/],
  ['a hypervisor that stays', { ...bareMetal, devirtualized: 0 }, /left 0 of 2/],
  [
    'nodes that do not run',
    { ...bareMetal, conditions: [condition('Ready', 'False'), ...good.slice(1)] },
    /Ready is False \(Because\): Ready!/,
  ],
  ['work that goes on', { ...bareMetal, conditions: [good[0], condition('Reconciling', 'True')] }, /Reconciling!/],
  [
    'a wait for a person',
    { ...bareMetal, conditions: [...good.slice(0, 2), condition('Stalled', 'True')] },
    /Stalled!/,
  ],
];
for (const [what, status, expected] of lacking) {
  test(`${what} is named as what is missing`, () => {
    assert.match(viewOf(allocation(status)).missing.join('\n'), expected);
  });
}

const picture = (phase: string): Picture => ({
  agents: { connected: 1, known: 1 },
  nodes: new Map([['Available', 4]]),
  repository: 'abc Synced',
  allocations: [viewOf(allocation({ ...bareMetal, phase }))],
});

function output(isTTY: boolean): { written: string; isTTY: boolean; columns: number; write(text: string): void } {
  return {
    written: '',
    isTTY,
    columns: 60,
    write(text) {
      this.written += text;
    },
  };
}

test('without a terminal a change is said once, and at most one a second', async () => {
  const clock = new VirtualClock();
  const out = output(false);
  const progress = new Progress(out, clock, clock.monotonic());
  const show = async (phase: string, afterMs: number): Promise<void> => {
    await clock.advance(afterMs);
    progress.show(picture(phase));
  };
  await show('Starting', 0);
  await show('Starting', 5_000);
  await show('Streaming', 5_000);
  await show('Installed', 100);
  await show('BareMetal', 2_000);
  const phases = [...out.written.matchAll(/team\/job: (\w+)/g)].map((match) => match[1]);
  assert.deepEqual(phases, ['Starting', 'Streaming', 'BareMetal']);
  assert.ok(!out.written.includes('\u001b'));
});

test('on a terminal the table replaces itself, lines that stay are above it, and none wraps', () => {
  const clock = new VirtualClock();
  const out = output(true);
  const progress = new Progress(out, clock, clock.monotonic());
  progress.show(picture('Starting'));
  const lines = out.written.split('\n').slice(0, -1);
  assert.ok(lines.every((line) => line.length < out.columns));
  out.written = '';
  progress.note('a line that stays \u001b[2J');
  assert.equal(out.written, `\u001b[${lines.length}A\u001b[Ja line that stays  [2J\n`);
});

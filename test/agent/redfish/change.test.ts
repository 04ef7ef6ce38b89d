/** How a change comes to its end, for any sequence of readings and answers. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { AskedChange, defaultTimes, type Next, type Seen } from '../../../agent/drivers/redfish/change.ts';
import { pathOnBmc } from '../../../agent/drivers/redfish/http.ts';
import type { Outcome } from '../../../agent/drivers/redfish/system.ts';

const seenWith = (power: Seen['power'], moving = false): Seen => ({
  power,
  moving,
  order: 'Unknown',
  resetTypes: ['On', 'ForceOff', 'GracefulShutdown'],
  ways: [],
  missing: [],
  bootTargets: [],
});

const outcomes = fc.constantFrom<Outcome>(
  { kind: 'Accepted' },
  { kind: 'Task', path: '/redfish/v1/TaskService/Tasks/1' },
  { kind: 'Refused', status: 409, message: 'HTTP 409: busy' },
  { kind: 'NotSent', message: 'HTTP 503: later' },
  { kind: 'Unsure', message: 'no answer within 15 s' },
);
/** What the BMC does in one look. */
const looks = fc.record({
  readable: fc.boolean(),
  power: fc.constantFrom<Seen['power']>('Off', 'On', 'Unknown'),
  moving: fc.boolean(),
  outcome: outcomes,
  taskEnds: fc.constantFrom(undefined, { failed: false, message: 'done' }, { failed: true, message: 'it failed' }),
  afterMs: fc.integer({ min: 500, max: 20_000 }),
});

test('a change ends in bounded time: Done only with the reading, Error only when nothing is under way that is known of', () => {
  const run = (
    steps: readonly (typeof looks extends fc.Arbitrary<infer Look> ? Look : never)[],
    wish: 'On' | 'Off',
  ): void => {
    const asked = new AskedChange('token', { kind: 'Power', desired: wish }, defaultTimes, 0);
    let now = 0;
    let task = false;
    let lastSent: number | undefined;
    const longest = defaultTimes.limitMs + defaultTimes.silentMs + 20_000 + defaultTimes.settleMs;
    for (let at = 0; now <= longest; at++) {
      const step = steps[at % steps.length] ?? assert.fail();
      let next: Next;
      const read = step.readable;
      if (read) {
        if (task && step.taskEnds !== undefined) {
          asked.taskEnded(step.taskEnds);
          task = false;
        }
        next = asked.next(seenWith(step.power, step.moving), now);
      } else {
        next = asked.unread('it is silent', now);
      }
      if (next.kind === 'End') {
        const { status } = next.change;
        if (status === 'Done') assert.ok(read && step.power === wish, 'Done without the reading');
        if (status === 'Error' && now < defaultTimes.limitMs + defaultTimes.silentMs) {
          assert.ok(!task, 'Error while a task goes on');
          if (lastSent !== undefined) assert.ok(now - lastSent >= defaultTimes.settleMs, 'Error right after a request');
        }
        return;
      }
      if (next.kind === 'Reset') {
        assert.ok(read, 'a request without a reading before it');
        asked.outcome(step.outcome, now);
        if (step.outcome.kind === 'Task') task = true;
        if (step.outcome.kind !== 'Refused' && step.outcome.kind !== 'NotSent') lastSent = now;
      }
      now += step.afterMs;
    }
    assert.fail(`it has not ended after ${now / 1000} s`);
  };
  fc.assert(
    fc.property(fc.array(looks, { minLength: 1, maxLength: 40 }), fc.constantFrom('On' as const, 'Off' as const), run),
    { numRuns: 2_000 },
  );
});

test('the power button is pressed once at most, and never on a machine that is off', () => {
  const asked = new AskedChange('token', { kind: 'Press' }, defaultTimes, 0);
  const onlyButton = { ...seenWith('On'), resetTypes: ['PushPowerButton'] };
  assert.deepEqual(asked.next(onlyButton, 0), { kind: 'Reset', type: 'PushPowerButton' });
  asked.outcome({ kind: 'Unsure', message: 'no answer' }, 0);
  for (let now = 10_000; now < defaultTimes.limitMs; now += 10_000) {
    assert.equal(asked.next(onlyButton, now).kind, 'Wait');
  }
  const next = asked.next(onlyButton, defaultTimes.limitMs + defaultTimes.settleMs);
  assert.equal(next.kind === 'End' && next.change.status, 'Error');
  const off = new AskedChange('token', { kind: 'Press' }, defaultTimes, 0);
  const wasOff = off.next({ ...onlyButton, power: 'Unknown' }, 0);
  assert.equal(wasOff.kind, 'End', 'a button is not pressed on a machine that may be off');
});

test('a machine that can only be switched by its button is switched on by it, and never off', () => {
  const types = ['PushPowerButton'];
  const on = new AskedChange('t', { kind: 'Power', desired: 'On' }, defaultTimes, 0);
  assert.deepEqual(on.next({ ...seenWith('Off'), resetTypes: types }, 0), { kind: 'Reset', type: 'PushPowerButton' });
  const off = new AskedChange('t', { kind: 'Power', desired: 'Off' }, defaultTimes, 0);
  const next = off.next({ ...seenWith('On'), resetTypes: types }, 0);
  assert.match(next.kind === 'End' ? (next.change.error ?? '') : '', /the BMC cannot do it: it knows PushPowerButton/);
});

test('a boot order that reads as wanted is set all the same, where it can be set', () => {
  const boot = { BootSourceOverrideEnabled: 'Continuous', BootSourceOverrideTarget: 'Pxe' };
  const way = { name: 'a continuous boot override', boot };
  const seen: Seen = { ...seenWith('On'), order: 'Network', ways: [way], bootTargets: ['/redfish/v1/Systems/1'] };
  const network = (): AskedChange => new AskedChange('t', { kind: 'Order', place: 'Network' }, defaultTimes, 0);
  const asked = network();
  assert.deepEqual(asked.next(seen, 0), { kind: 'SetBoot', path: '/redfish/v1/Systems/1', way });
  asked.outcome({ kind: 'Accepted' }, 0);
  assert.deepEqual(asked.next(seen, 500), { kind: 'End', change: { token: 't', status: 'Done' } });
  const refused = network();
  refused.next(seen, 0);
  refused.outcome({ kind: 'Refused', status: 400, message: 'HTTP 400: it is that already' }, 0);
  for (const [what, next] of [
    ['every way was refused', refused.next(seen, defaultTimes.retryMs)],
    ['there is none', network().next({ ...seen, ways: [] }, 0)],
  ] as const)
    assert.equal(next.kind === 'End' && next.change.status, 'Done', what);
});

test('a link of a BMC leads nowhere but to itself', () => {
  const base = 'https://10.0.0.1';
  assert.equal(pathOnBmc('/redfish/v1/Systems/1', base), '/redfish/v1/Systems/1');
  assert.equal(pathOnBmc('https://10.0.0.1/redfish/v1/TaskService/Tasks/1', base), '/redfish/v1/TaskService/Tasks/1');
  for (const link of [
    'https://10.0.0.2/redfish/v1',
    '//10.0.0.2/redfish/v1',
    '/etc/passwd',
    '',
    3,
    null,
    `/redfish/${'a'.repeat(2000)}`,
  ]) {
    assert.equal(pathOnBmc(link, base), undefined, String(link));
  }
  assert.equal(pathOnBmc('/redfish/../admin', base), undefined);
});

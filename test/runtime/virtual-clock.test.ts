import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HotLoopError, VirtualClock } from '../support/virtual-clock.ts';

test('timers that go on without letting time pass end the test instead of hanging it', async () => {
  const clock = new VirtualClock();
  const again = (): void => void clock.setTimer(0, again);
  clock.setTimer(5, again);
  await assert.rejects(clock.advance(10), HotLoopError);
});

test('a burst at one moment is no hot loop', async () => {
  const clock = new VirtualClock();
  let fired = 0;
  for (let index = 0; index < 20_000; index++) clock.setTimer(5, () => fired++);
  await clock.advance(5);
  assert.equal(fired, 20_000);
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HotLoopError, settleWithoutIo, VirtualClock } from '../support/virtual-clock.ts';

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

test('without I/O promises still settle between two timers, and the event loop has its turn now and then', async () => {
  const clock = new VirtualClock(undefined, settleWithoutIo);
  const order: string[] = [];
  const afterPromises = async (): Promise<void> => {
    for (let index = 0; index < 50; index++) await undefined;
    order.push('settled');
  };
  clock.setTimer(1, () => void afterPromises());
  clock.setTimer(2, () => void order.push('next timer'));
  let turns = 0;
  let over = false;
  const turn = (): void => {
    turns += 1;
    if (!over) setImmediate(turn);
  };
  setImmediate(turn);
  for (let index = 0; index < 1_000; index++) clock.setTimer(3, () => {});
  await clock.advance(3);
  over = true;
  assert.deepEqual(order, ['settled', 'next timer']);
  assert.ok(turns >= 5, `${turns} turns`);
});

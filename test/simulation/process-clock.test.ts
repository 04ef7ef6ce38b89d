/** The clock of one simulated process: what waited while it stood still comes before what comes after. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { VirtualClock } from '../support/virtual-clock.ts';
import { ProcessClock } from './process-clock.ts';

test('a process that wakes up takes in what waited for it before what comes in the same moment', async () => {
  const world = new VirtualClock();
  const clock = new ProcessClock(world);
  const seen: string[] = [];
  clock.pause();
  clock.run(() => seen.push('cut off'));
  clock.resume();
  clock.run(() => seen.push('reached again'));
  await world.advance(1);
  clock.run(() => seen.push('later'));
  assert.deepEqual(seen, ['cut off', 'reached again', 'later']);
});

test('a process that stands still again before it took in what waited takes it in when it wakes up', async () => {
  const world = new VirtualClock();
  const clock = new ProcessClock(world);
  const seen: string[] = [];
  clock.pause();
  clock.run(() => seen.push('first'));
  clock.resume();
  clock.pause();
  clock.run(() => seen.push('second'));
  await world.advance(1);
  assert.deepEqual(seen, []);
  clock.resume();
  await world.advance(1);
  assert.deepEqual(seen.sort(), ['first', 'second']);
});

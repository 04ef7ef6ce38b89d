/** Work on one machine in its order, and word of what changed. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Telling, Turns } from '../../agent/drivers/turns.ts';
import { VirtualClock } from '../support/virtual-clock.ts';

test('work begins when all before it has ended, however that ended', async () => {
  const turns = new Turns();
  const done: string[] = [];
  const { promise, reject } = Promise.withResolvers<void>();
  const first = turns.take(async () => {
    done.push('first begins');
    await promise.finally(() => done.push('first ends'));
  });
  const second = turns.take(async () => done.push('second'));
  reject(new Error('a reason'));
  await assert.rejects(first, /a reason/);
  assert.equal(await second, 3);
  assert.deepEqual(done, ['first begins', 'first ends', 'second']);
});

test('the listener is called later, once for all that was told, and not after the end', async () => {
  const clock = new VirtualClock();
  let told = 0;
  const telling = new Telling(clock, () => told++);
  for (let time = 0; time < 3; time++) telling.tell();
  assert.equal(told, 0);
  await clock.advance(0);
  assert.equal(told, 1);
  telling.tell();
  telling.close();
  telling.tell();
  await clock.advance(1);
  assert.equal(told, 1);
});

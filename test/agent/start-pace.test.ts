/** How often one machine is given something to boot, however often it asks. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StartPace } from '../../agent/drivers/boot/start-pace.ts';
import { VirtualClock } from '../support/virtual-clock.ts';

test('a machine that asks without end is given ten starts at once, then one in ten seconds, and saves up no more', async () => {
  const clock = new VirtualClock();
  const pace = new StartPace(clock);
  const given = (asked: number): number => Array.from({ length: asked }, () => pace.take()).filter(Boolean).length;
  assert.equal(given(1_000), 10);
  for (let quarter = 1; quarter <= 24; quarter++) {
    await clock.advance(2_500);
    assert.equal(given(100), quarter % 4 === 0 ? 1 : 0, `after ${quarter * 2.5} s`);
  }
  await clock.advance(24 * 3_600_000);
  assert.equal(given(1_000), 10);
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type PaceInput, paceOf } from '../../agent/drivers/qemu/pace.ts';

const busy = { guestBytesPerSecond: 50e6, quietMs: 0 };
const idle = { guestBytesPerSecond: 0, quietMs: 5_000 };

test('a strict copy stands while the guest uses its disk, and goes on once it has left it alone for a while', () => {
  assert.equal(paceOf({ yielding: 'Strict', ...busy }).isPaused, true);
  assert.equal(paceOf({ yielding: 'Strict', guestBytesPerSecond: 0, quietMs: 300 }).isPaused, true);
  assert.deepEqual(paceOf({ yielding: 'Strict', ...idle }), { isPaused: false, bytesPerSecond: 0 });
});

test('a fair copy gets as much as the guest itself, and never stands still for it', () => {
  assert.deepEqual(paceOf({ yielding: 'Fair', ...busy }), { isPaused: false, bytesPerSecond: 50e6 });
  const trickle = paceOf({ yielding: 'Fair', guestBytesPerSecond: 10, quietMs: 0 });
  assert.ok(!trickle.isPaused && trickle.bytesPerSecond >= 1e6);
  assert.deepEqual(paceOf({ yielding: 'Fair', ...idle }), { isPaused: false, bytesPerSecond: 0 });
});

test('no copy is faster than its bound, and a bound of 0 stops every one', () => {
  const input = fc.record({
    yielding: fc.constantFrom<PaceInput['yielding'][]>('Strict', 'Fair', 'None'),
    maxRateBytes: fc.integer({ min: 1, max: 1e9 }),
    guestBytesPerSecond: fc.double({ min: 0, max: 1e10, noNaN: true }),
    quietMs: fc.integer({ min: 0, max: 100_000 }),
  });
  fc.assert(
    fc.property(input, (given) => {
      const { isPaused, bytesPerSecond } = paceOf(given);
      assert.ok(isPaused || (bytesPerSecond > 0 && bytesPerSecond <= given.maxRateBytes));
      assert.ok(Number.isInteger(bytesPerSecond));
      assert.equal(paceOf({ ...given, maxRateBytes: 0 }).isPaused, true);
    }),
  );
});

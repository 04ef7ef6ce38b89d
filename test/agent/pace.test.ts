import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isHeldUp, type PaceInput, paceOf } from '../../agent/drivers/qemu/pace.ts';

const busy = { quietMs: 0, easyMs: 0 };
const idle = { quietMs: 5_000, easyMs: 5_000 };
const unbounded = { timeShare: 1, bytesPerSecond: 0 };

test('a strict copy stands while the guest uses its disk, and goes on once it has left it alone for a while', () => {
  assert.equal(paceOf({ yielding: 'Strict', ...busy }).timeShare, 0);
  assert.equal(paceOf({ yielding: 'Strict', quietMs: 300, easyMs: 5_000 }).timeShare, 0);
  assert.deepEqual(paceOf({ yielding: 'Strict', ...idle }), unbounded);
});

test('a fair copy has a fifth of the time while the guest waits for its disk, and comes back by and by', () => {
  assert.deepEqual(paceOf({ yielding: 'Fair', ...busy }), { timeShare: 0.2, bytesPerSecond: 0 });
  const shares = [0, 400, 800, 1_400, 2_000].map(
    (easyMs) => paceOf({ yielding: 'Fair', quietMs: 0, easyMs }).timeShare,
  );
  assert.deepEqual(
    shares,
    shares.toSorted((a, b) => a - b),
  );
  assert.ok(shares[1] === 0.2 && (shares[2] ?? 0) > 0.2 && (shares[3] ?? 1) < 1);
  assert.deepEqual(paceOf({ yielding: 'Fair', ...idle }), unbounded);
});

test('a guest that uses its disk now and then, and hardly waits for it, holds no fair copy up', () => {
  assert.ok(isHeldUp(21, 200) && !isHeldUp(19, 200));
  assert.deepEqual(paceOf({ yielding: 'Fair', quietMs: 0, easyMs: 5_000 }), unbounded);
});

test('no copy is faster than its bound, a bound of 0 stops every one, and nothing else stops a fair one', () => {
  const input = fc.record({
    yielding: fc.constantFrom<PaceInput['yielding'][]>('Strict', 'Fair', 'None'),
    maxRateBytes: fc.integer({ min: 1, max: 1e9 }),
    quietMs: fc.integer({ min: 0, max: 100_000 }),
    easyMs: fc.integer({ min: 0, max: 100_000 }),
  });
  fc.assert(
    fc.property(input, (given) => {
      const { timeShare, bytesPerSecond } = paceOf(given);
      assert.ok(bytesPerSecond > 0 && bytesPerSecond <= given.maxRateBytes);
      assert.ok(timeShare >= (given.yielding === 'Strict' ? 0 : 0.2) && timeShare <= 1);
      assert.equal(paceOf({ ...given, maxRateBytes: 0 }).timeShare, 0);
    }),
  );
});

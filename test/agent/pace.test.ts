import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isHeldUp, type PaceInput, paceOf } from '../../agent/drivers/qemu/pace.ts';
import { AgentRoom, enrolment, environment, steps } from '../support/agent-room.ts';

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

test('in the simulated room a fair copy leaves a busy guest as much as in the lab', async (t) => {
  const room = new AgentRoom({ nodes: ['n0'], room: { guestIo: 1, spread: 0 } });
  t.after(() => room.close());
  await room.runAll(enrolment, 1);
  await room.runAll([steps.isolate(), steps.reimage(environment('r1', { sizeBytes: 16e9 }))], 2);
  const machine = room.rack.machine('n0');
  const [disk] = room.rack.room.machine.disks;
  const map = machine.disks[0]?.map;
  assert.ok(disk && map && machine.guestIo > 0.1);
  const [startMs, before] = [room.clock.monotonic(), map.localBytes];
  await room.clock.runUntil(() => map.localBytes >= map.totalBytes);
  const rate = ((map.totalBytes - before) * 1000) / (room.clock.monotonic() - startMs);
  const lab = paceOf({ yielding: 'Fair', ...busy }).timeShare;
  const expected = disk.writeBytesPerSecond * (1 - machine.guestIo * (1 - lab));
  assert.ok(Math.abs(rate - expected) < 0.02 * expected, `${rate} bytes a second instead of ${expected}`);
});

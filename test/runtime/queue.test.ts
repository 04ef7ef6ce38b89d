import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { backoffDelayMs, KeyedBackoff } from '../../controller/runtime/backoff.ts';
import { WorkQueue } from '../../controller/runtime/queue.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { settle, VirtualClock } from '../support/virtual-clock.ts';

/** Takes without waiting: what is ready now, or undefined. */
async function takeNow(queue: WorkQueue): Promise<string | undefined> {
  return queue.depth === 0 ? undefined : queue.take();
}

describe('work queue', () => {
  it('hands a key out once however often it was added', async () => {
    const queue = new WorkQueue(new VirtualClock());
    for (let time = 0; time < 3; time++) queue.add('a');
    assert.equal(await takeNow(queue), 'a');
    assert.equal(await takeNow(queue), undefined);
  });

  it('runs a key again that was added while in flight, and never twice at once', async () => {
    const queue = new WorkQueue(new VirtualClock());
    queue.add('a');
    await queue.take();
    queue.add('a');
    queue.add('a', { priority: 5 });
    assert.equal(await takeNow(queue), undefined);
    queue.done('a');
    assert.equal(await takeNow(queue), 'a');
    queue.done('a');
    assert.equal(await takeNow(queue), undefined);
  });

  it('keeps a delay that was asked for while in flight', async () => {
    const clock = new VirtualClock();
    const queue = new WorkQueue(clock);
    queue.add('a');
    await queue.take();
    queue.add('a', { afterMs: 100 });
    queue.done('a');
    assert.equal(queue.depth, 0);
    await clock.advance(100);
    assert.equal(queue.depth, 1);
  });

  it('keeps the earliest deadline and the highest priority', async () => {
    const clock = new VirtualClock();
    const queue = new WorkQueue(clock);
    queue.add('late', { afterMs: 1_000 });
    queue.add('late', { afterMs: 50 });
    queue.add('late', { afterMs: 500, priority: 7 });
    queue.add('other', { afterMs: 50, priority: 1 });
    await clock.advance(49);
    assert.equal(queue.depth, 0);
    await clock.advance(1);
    assert.deepEqual([await takeNow(queue), await takeNow(queue)], ['late', 'other']);
  });

  it('wakes a waiting taker, and every one on close', async () => {
    const queue = new WorkQueue(new VirtualClock());
    const waiting = [queue.take(), queue.take()];
    queue.add('a');
    assert.equal(await waiting[0], 'a');
    queue.close();
    assert.equal(await waiting[1], undefined);
    queue.add('b');
    assert.equal(await queue.take(), undefined);
  });

  it('agrees with a naive model under any sequence of calls', async () => {
    const step = fc.oneof(
      fc.record({
        kind: fc.constant('add' as const),
        key: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'),
        afterMs: fc.constantFrom(0, 10, 20, 40),
        priority: fc.integer({ min: 0, max: 2 }),
      }),
      fc.record({ kind: fc.constant('take' as const) }),
      fc.record({ kind: fc.constant('done' as const) }),
      fc.record({ kind: fc.constant('advance' as const), ms: fc.constantFrom(5, 10, 30) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60, size: 'max' }), async (steps) => {
        const clock = new VirtualClock();
        const queue = new WorkQueue(clock);
        const waiting = new Map<string, { at: number; priority: number }>();
        const inFlight: string[] = [];
        for (const each of steps) {
          if (each.kind === 'add') {
            const at = clock.monotonic() + each.afterMs;
            const old = waiting.get(each.key);
            waiting.set(each.key, {
              at: Math.min(at, old?.at ?? at),
              priority: Math.max(each.priority, old?.priority ?? 0),
            });
            queue.add(each.key, each);
          } else if (each.kind === 'advance') {
            await clock.advance(each.ms);
          } else if (each.kind === 'done') {
            const key = inFlight.shift();
            if (key !== undefined) queue.done(key);
          } else {
            const ready = [...waiting].filter(([key, { at }]) => at <= clock.monotonic() && !inFlight.includes(key));
            const best = Math.max(...ready.map(([, { priority }]) => priority));
            const key = await takeNow(queue);
            assert.equal(key === undefined, ready.length === 0);
            if (key === undefined) continue;
            assert.equal(waiting.get(key)?.priority, best);
            waiting.delete(key);
            inFlight.push(key);
          }
          assert.equal(queue.inFlight, inFlight.length);
        }
      }),
      { numRuns: 150 },
    );
  });

  it('carries as many keys as the K computer has nodes', async () => {
    const clock = new VirtualClock();
    const queue = new WorkQueue(clock);
    const nodes = 88_128;
    const startedAt = process.cpuUsage().user;
    for (let index = 0; index < nodes; index++) queue.add(`n${index}`, { afterMs: index % 100, priority: index % 3 });
    for (let index = 0; index < nodes; index++) queue.add(`n${index}`, { afterMs: index % 50 });
    await clock.advance(100);
    assert.equal(queue.depth, nodes);
    for (let index = 0; index < nodes; index++) queue.done((await queue.take()) ?? '');
    // Quadratic work would take minutes; this is some 20 times what it takes.
    assert.ok(process.cpuUsage().user - startedAt < 10_000_000, 'more than 10 s of CPU for 88,128 keys');
    await settle();
    assert.equal(queue.depth + queue.delayed + queue.inFlight, 0);
  });
});

describe('backoff', () => {
  const policy = { initialMs: 100, factor: 2, capMs: 10_000, jitter: 0.5 };

  it('grows, stays under its cap, and never jitters below its share', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 2_000 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (failures, chance) => {
          const delay = backoffDelayMs(policy, failures, chance);
          const full = Math.min(10_000, 100 * 2 ** (failures - 1));
          assert.ok(delay <= full && delay >= full / 2);
        },
      ),
    );
  });

  it('counts per key and forgets on success', () => {
    const backoff = new KeyedBackoff({ ...policy, jitter: 0 }, seededRandom(1));
    assert.deepEqual([backoff.next('a'), backoff.next('a'), backoff.next('b')], [100, 200, 100]);
    backoff.succeeded('a');
    assert.equal(backoff.next('a'), 100);
  });
});

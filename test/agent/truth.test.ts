/** What the simulated room says of itself: whole, in order, and the same again from the same seed. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { faultKinds, faultTable } from '../../agent/drivers/simulated/faults.ts';
import type { RoomEvent } from '../../agent/drivers/simulated/store.ts';
import { AgentRoom, enrolment, steps, type TestStep, tenancy } from '../support/agent-room.ts';

const minute = 60_000;

test('the record of a tenancy says whose data was where, who got secrets, and how the hypervisor left', async () => {
  const room = new AgentRoom();
  const seen: RoomEvent[] = [];
  room.rack.watch((event) => seen.push(event));
  await room.runAll(enrolment, 1);
  await room.runAll(tenancy, 2);
  const truth = room.rack.truth('n0');
  assert.equal(truth.guest, 'BareMetal');
  assert.equal(truth.epoch, 2);
  assert.deepEqual(
    truth.disks.map(({ data }) => [data?.domain, data?.epoch, data?.written]),
    [
      ['alloc-1', 2, true],
      ['alloc-1', 2, true],
    ],
  );
  assert.equal(truth.readBytes, 4 * 2 ** 30);
  const [secrets] = room.events('secrets');
  assert.deepEqual([secrets?.to, secrets?.epoch, secrets?.domain], ['Vmm', 2, 'alloc-1']);
  const [left] = room.events('devirtualized');
  assert.deepEqual(
    [left?.localBytes, left?.flushed, left?.exported, left?.order, left?.serving],
    [4 * 2 ** 30, true, 'Closed', 'Disk', 'Nothing'],
  );
  assert.deepEqual(seen, room.rack.history());
  await room.runAll([steps.drain(), ...enrolment], 3);
  const wiped = room.events('wiped').slice(-2) as { of: { epoch: number } }[];
  assert.deepEqual(
    wiped.map(({ of }) => of.epoch),
    [2, 2],
  );
  assert.equal(room.rack.truth('n0').dirty, false);
  room.close();
});

test('two guests of one domain reach each other, and no others', async () => {
  const room = new AgentRoom({ nodes: ['n0', 'n1', 'n2'] });
  for (const [node, domain] of [
    ['n0', 'alloc-1'],
    ['n1', 'alloc-1'],
    ['n2', 'alloc-2'],
  ] as const) {
    await room.runAll(enrolment, 1, node);
    await room.runAll([steps.isolate(domain), steps.reimage()], 2, node);
  }
  assert.deepEqual(room.rack.truth('n0').peers, ['n1']);
  assert.deepEqual(room.rack.truth('n2').peers, []);
  room.rack.faults.inject('fabricDefaults');
  assert.deepEqual(room.rack.truth('n2').peers, ['n0', 'n1']);
  room.close();
});

const life: readonly (readonly [TestStep, number])[] = [
  ...enrolment.map((step) => [step, 1] as const),
  ...tenancy.map((step) => [step, 2] as const),
  ...enrolment.map((step) => [step, 3] as const),
];

/** A life with every fault at once; whatever it does, it must do again. */
async function stormy(): Promise<{ events: RoomEvent[]; faults: string[] }> {
  const rates = Object.fromEntries(
    faultKinds.map((kind) => [kind, faultTable[kind].occasion === 'Step' ? 0.05 : kind === 'dies' ? 0 : 3]),
  );
  const room = new AgentRoom({ nodes: ['n0', 'n1', 'n2'], room: { faultRates: rates } });
  for (const [step, epoch] of life) {
    for (const node of room.nodes) room.give(step, { epoch, node });
    await room.clock.advance(20 * minute);
    room.rack.faults.heal({ kinds: ['takesBmc', 'cableSwap', 'twin', 'fabricStuck'] });
  }
  assert.deepEqual(room.errors, []);
  const events = room.rack.history();
  const faults = [...room.rack.faults.counted().keys()];
  room.close();
  return { events, faults };
}

test('the same seed has the same faults and the same history', async () => {
  const [first, second] = [await stormy(), await stormy()];
  assert.deepEqual(first.events, second.events);
  assert.ok(first.faults.length > 12, `only ${first.faults.join()}`);
});

test('every kind of fault can be let happen, and healed', async () => {
  for (const kind of faultKinds) {
    const room = new AgentRoom({ nodes: ['n0', 'n1'], room: { imageServerBytesPerSecond: 20e6 } });
    await room.runAll(enrolment, 1);
    await room.runAll([steps.isolate(), steps.reimage()], 2);
    assert.equal(room.rack.faults.inject(kind, { node: 'n0', other: 'n1' }), true, kind);
    await room.clock.advance(minute);
    room.rack.faults.heal();
    await room.clock.advance(60 * minute);
    assert.deepEqual(room.rack.truth('n0').faults, [], kind);
    assert.deepEqual(room.errors, [], kind);
    room.close();
  }
});

test('a room whose rates are set to nothing has no more faults', async () => {
  const room = new AgentRoom({ nodes: ['n0'], room: { faultRates: { reset: 5_000, bmcSlow: 1 } } });
  room.rack.givePower(room.rack.machine('n0'));
  await room.clock.advance(60 * minute);
  const before = room.rack.faults.counted().get('reset') ?? 0;
  assert.ok(before > 20, `only ${before}`);
  room.rack.faults.setRates({});
  await room.clock.advance(24 * 60 * minute);
  assert.equal(room.rack.faults.counted().get('reset'), before);
  room.close();
});

/** Switches that are late, forget, or are cabled otherwise than recorded: judged by where the cables truly lead. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentRoom, enrolment, steps, tenancy } from '../support/agent-room.ts';

const minute = 60_000;

async function certified(nodes: readonly string[] = ['n0']): Promise<AgentRoom> {
  const room = new AgentRoom({ nodes: ['n0', 'n1'] });
  for (const node of nodes) await room.runAll(enrolment, 1, node);
  return room;
}

/** The true domains of the data ports at the last start of a guest; empty: none started. */
const lastGuest = (room: AgentRoom, node = 'n0'): string[] =>
  ((room.events('guest', node).at(-1)?.ports ?? []) as { domain: string }[]).map(({ domain }) => domain);

test('a switch job that is late fails its isolation, keeps newer epochs waiting, and starts no guest before it', async () => {
  const room = await certified();
  room.rack.faults.inject('fabricLate', { node: 'n0', lastsMs: 30 * minute });
  assert.equal(await room.run(steps.isolate(), 2), 'Failed');
  assert.equal(room.give(steps.reimage(), { epoch: 2 }).reason, 'NotIsolated');
  assert.equal(room.give(steps.fence, { epoch: 3 }).reason, 'Busy');
  await room.clock.advance(40 * minute);
  await room.runAll(enrolment, 3);
  await room.runAll(tenancy, 4);
  assert.deepEqual(lastGuest(room), ['alloc-1', 'alloc-1']);
  room.close();
});

test('a switch job that hangs for ever holds the node until a person clears it, and then reads as it is', async () => {
  const room = await certified();
  room.rack.faults.inject('fabricStuck', { node: 'n0' });
  assert.equal(await room.run(steps.isolate(), 2), 'Failed');
  await room.clock.advance(24 * 60 * minute);
  assert.equal(room.seen().ports[0]?.state, 'Pending');
  room.rack.faults.heal({ node: 'n0' });
  await room.clock.advance(minute);
  assert.notEqual(room.seen().ports[0]?.state, 'Pending');
  assert.equal(room.seen().ports[0]?.domain, room.rack.truth('n0').ports[0]?.domain);
  await room.runAll(tenancy, 2);
  room.close();
});

test('a switch job that runs although it failed is seen, and no guest starts where it put the port', async () => {
  const room = await certified();
  room.rack.faults.inject('fabricGhost', { node: 'n0', lastsMs: 30_000 });
  assert.equal(await room.run(steps.isolate('alloc-old'), 2), 'Failed');
  await room.runAll([steps.isolate()], 2);
  assert.equal(await room.run(steps.reimage(), 2), 'Failed');
  assert.equal(room.seen().operation?.failure?.code, 'NotIsolated');
  assert.equal(room.seen().ports.filter(({ domain }) => domain === 'alloc-old').length, 2);
  await room.clock.advance(30 * minute);
  assert.equal(room.events('guest').length, 0);
  await room.runAll([steps.isolate(), steps.reimage()], 2);
  assert.deepEqual(lastGuest(room), ['alloc-1', 'alloc-1']);
  room.close();
});

test('defaults that a subnet manager restores before the hypervisor runs start no guest', async () => {
  const room = await certified();
  await room.runAll([steps.isolate()], 2);
  assert.equal(room.give(steps.reimage(), { epoch: 2 }).result, 'Accepted');
  await room.clock.runUntil(() => room.rack.machine('n0').stage === 'Post');
  await room.clock.advance(20_000);
  room.rack.faults.inject('fabricDefaults');
  await room.clock.advance(10 * minute);
  assert.equal(room.events('guest').length, 0);
  assert.equal(room.seen().operation?.failure?.code, 'NotIsolated');
  await room.runAll([steps.isolate(), steps.reimage()], 2);
  assert.deepEqual(lastGuest(room), ['alloc-1', 'alloc-1']);
  room.close();
});

test('defaults that come back under a running guest are seen at once, and no commit goes out under them', async () => {
  const room = await certified();
  await room.runAll(tenancy.slice(0, 3), 2);
  assert.equal(room.seen().prepared, true);
  room.rack.faults.inject('fabricDefaults');
  await room.clock.advance(100);
  assert.equal(room.seen().prepared, false);
  assert.equal(room.give(steps.commit, { epoch: 2 }).reason, 'NotPrepared');
  await room.runAll([steps.isolate(), steps.commit], 2);
  const left = room.events('devirtualized').at(-1) as { ports: { role: string; domain: string }[] };
  for (const { role, domain } of left.ports) if (role === 'Data') assert.equal(domain, 'alloc-1');
  room.close();
});

test('exchanged cables of a data port start no guest: its address shows up at the wrong port', async () => {
  const room = await certified(['n0', 'n1']);
  await room.runAll([steps.isolate('alloc-2', 'uid-2'), steps.reimage(undefined, 'uid-2')], 2, 'n1');
  let swapped = '';
  // Which port it is, is drawn.
  for (let tries = 0; swapped === ''; tries++) {
    assert.ok(tries < 50);
    room.rack.faults.inject('cableSwap', { node: 'n0', other: 'n1' });
    swapped = Object.keys(room.rack.machine('n0').cables).find((name) => name !== 'mgmt0') ?? '';
    if (swapped === '') room.rack.faults.heal();
  }
  assert.notEqual(await room.run(steps.isolate(), 2), 'Done');
  assert.equal(room.give(steps.reimage(), { epoch: 2 }).reason, 'NotIsolated');
  await room.clock.advance(30 * minute);
  assert.equal(room.events('guest').length, 0);
  // The order for n0's port moved the cable of n1: its guest is out of its domain, and both are seen as such.
  assert.ok(room.seen('n1').ports.some(({ state }) => state === 'Unknown'));
  room.close();
});

test('exchanged cables show when the machine has power, too late for the isolation and not for the guest', async () => {
  const room = await certified(['n0', 'n1']);
  let swapped = '';
  for (let tries = 0; swapped === ''; tries++) {
    assert.ok(tries < 50);
    room.rack.faults.inject('cableSwap', { node: 'n0', other: 'n1' });
    swapped = Object.keys(room.rack.machine('n0').cables).find((name) => name !== 'mgmt0') ?? '';
    if (swapped === '') room.rack.faults.heal();
  }
  await room.runAll([steps.isolate()], 2);
  assert.equal(await room.run(steps.reimage(), 2), 'Failed');
  assert.equal(room.seen().operation?.failure?.code, 'NotIsolated');
  assert.equal(room.events('guest').length, 0);
  // The check of a reclaim names it as well.
  room.rack.faults.heal();
  await room.runAll([steps.isolate(), steps.reimage()], 2);
  room.close();
});

test('a port that cannot be read holds everything that needs isolation, and touches no power', async () => {
  const room = await certified();
  await room.runAll(tenancy.slice(0, 2), 2);
  await room.clock.runUntil(() => room.seen().copy.flushed);
  room.rack.faults.inject('portUnknown', { node: 'n0', lastsMs: 10 * minute });
  await room.clock.advance(100);
  assert.ok(room.seen().ports.some(({ state, domain }) => state === 'Unknown' && domain === 'Unknown'));
  assert.equal(room.give(steps.prepare, { epoch: 2 }).reason, 'NotIsolated');
  assert.equal(room.rack.truth('n0').guest, 'ThroughVmm');
  await room.clock.advance(10 * minute);
  await room.runAll([steps.prepare, steps.commit], 2);
  room.close();
});

test('a reading from a stale cache ends when the port is asked for again', async () => {
  const room = await certified();
  await room.runAll(tenancy.slice(0, 2), 2);
  room.rack.faults.inject('fabricStale', { node: 'n0', lastsMs: 10 * minute });
  room.rack.faults.inject('fabricDefaults');
  await room.clock.advance(1_000);
  assert.equal(room.seen().ports[0]?.domain, 'alloc-1');
  assert.equal(room.rack.truth('n0').ports[0]?.domain, 'default');
  room.give(steps.inspect, { epoch: 2 });
  await room.clock.advance(1_000);
  assert.equal(room.seen().ports[0]?.domain, 'default');
  room.close();
});

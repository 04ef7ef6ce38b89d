/** BMCs that hang, lie, ignore orders, and run jobs late: judged by what the machines did. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentRoom, enrolment, steps, type TestStep, tenancy } from '../support/agent-room.ts';

const minute = 60_000;

async function tenant(upTo = 2): Promise<AgentRoom> {
  const room = new AgentRoom();
  await room.runAll(enrolment, 1);
  await room.runAll(tenancy.slice(0, upTo), 2);
  return room;
}

/** Gives the step until it is accepted, as an operator does. */
async function insist(room: AgentRoom, step: TestStep, epoch: number): Promise<void> {
  for (let turn = 0; turn < 200; turn++) {
    if (room.give(step, { epoch }).result === 'Accepted') return;
    await room.clock.advance(minute);
  }
  throw new Error(`${step.verb} was never accepted`);
}

test('a BMC that hangs in a command reads Unknown, and its change ends once it answers again', async () => {
  const room = await tenant(1);
  room.rack.faults.inject('bmcHang', { node: 'n0', lastsMs: 10 * minute });
  assert.equal(room.give(steps.reimage(), { epoch: 2 }).result, 'Accepted');
  await room.clock.advance(2 * minute);
  assert.equal(room.seen().power, 'Unknown');
  assert.equal(room.seen().boot.order, 'Unknown');
  await room.clock.runUntil(() => room.seen().operation?.status !== 'Running', 60 * minute);
  await room.clock.advance(20 * minute);
  assert.notEqual(room.seen().power, 'Unknown');
  assert.equal(await room.run(steps.reimage(), 2), 'Done');
  room.close();
});

test('a BMC that lies that the machine is off makes no disk clean, and the guest that runs on is alone', async () => {
  const room = await tenant(4);
  await room.runAll([steps.fence], 3);
  room.rack.faults.inject('bmcLiesOff', { node: 'n0', lastsMs: 24 * 60 * minute });
  assert.equal(await room.run(steps.off, 3), 'Done');
  assert.equal(room.seen().power, 'Off');
  assert.equal(room.rack.truth('n0').power, 'On');
  assert.equal(room.rack.truth('n0').guest, 'BareMetal');
  const attested = await room.run(steps.attest, 3);
  assert.equal(attested, 'Failed');
  assert.equal(room.seen().record.certificate, undefined);
  assert.deepEqual(room.rack.truth('n0').peers, []);
  assert.equal(room.rack.truth('n0').dirty, true);
  // Found out, the machine is switched off for good and comes back clean.
  room.rack.faults.heal({ node: 'n0' });
  await room.runAll([steps.off, steps.attest, steps.wipe, steps.check], 3);
  assert.equal(room.rack.truth('n0').dirty, false);
  room.close();
});

test('a boot order that is ignored under a right reading boots nothing of the last tenant outside quarantine', async () => {
  const room = await tenant(4);
  await room.runAll([steps.drain(), steps.fence, steps.off], 3);
  room.rack.faults.inject('orderIgnored', { node: 'n0' });
  assert.equal(await room.run(steps.attest, 3), 'Failed');
  assert.equal(room.seen().boot.order, 'Network');
  const last = room.events('guest').at(-1);
  assert.equal(last?.throughVmm, false);
  assert.deepEqual(last?.ports, [
    { name: 'eth0', domain: 'quarantine', state: 'Ready' },
    { name: 'ib0', domain: 'quarantine', state: 'Ready' },
  ]);
  assert.equal(room.seen().record.certificate, undefined);
  room.close();
});

test('a boot order that reads back wrong is waited for and then a failure of its own', async () => {
  const room = await tenant();
  await room.clock.runUntil(() => room.seen().copy.flushed);
  room.rack.faults.inject('orderUnread', { node: 'n0', lastsMs: 20 * minute });
  assert.equal(await room.run(steps.prepare, 2), 'Failed');
  assert.equal(room.seen().operation?.failure?.code, 'BootOrderIgnored');
  assert.equal(room.give(steps.commit, { epoch: 2 }).reason, 'NotPrepared');
  room.close();
});

test('an accepted power-on that finishes late keeps every newer epoch waiting, and then starts no guest in it', async () => {
  const room = await tenant(1);
  const { rack } = room;
  // Off is asked for only where the machine is on.
  rack.faults.inject('bmcLate', { node: 'n0', lastsMs: 50 * minute });
  assert.equal(room.give(steps.reimage(), { epoch: 2 }).result, 'Accepted');
  await room.clock.runUntil(() => room.seen().operation?.status === 'Failed', 60 * minute);
  assert.equal(room.give(steps.isolate('alloc-1'), { epoch: 3 }).reason, 'Busy');
  await insist(room, steps.isolate('alloc-1'), 3);
  await room.clock.advance(60 * minute);
  for (const { ports } of room.events('guest')) {
    for (const { domain } of ports as { domain: string }[]) assert.equal(domain, 'alloc-1');
  }
  room.close();
});

test('a power-on that a BMC ran although it had deleted it lets no guest run outside isolation', async () => {
  const room = await tenant(4);
  const machine = room.rack.machine('n0');
  await room.runAll([steps.drain(), steps.fence, steps.off], 3);
  machine.ghosts.push({ dueMs: room.rack.nowMs() + 1_000, kind: 'power', to: 'On' });
  room.rack.changed(machine);
  await room.clock.advance(5 * minute);
  assert.equal(room.rack.truth('n0').power, 'On');
  const late = (room.events('guest').at(-1)?.ports ?? []) as { domain: string }[];
  assert.deepEqual(
    late.map(({ domain }) => domain),
    ['quarantine', 'quarantine'],
  );
  // It is on, so nothing is attested; switched off again, all goes its way.
  assert.equal(room.give(steps.attest, { epoch: 3 }).reason, 'NotAllowed');
  await room.runAll([steps.off, steps.attest, steps.wipe, steps.check], 3);
  assert.equal(room.rack.truth('n0').dirty, false);
  room.close();
});

test('a machine that comes on by itself while its start is prepared runs no guest that the log does not know', async () => {
  for (let atMs = 1_900; atMs <= 5_000; atMs += 50) {
    const room = await tenant(1);
    assert.equal(room.give(steps.reimage(), { epoch: 2 }).result, 'Accepted');
    room.rack.watch(({ event }) => {
      if (event !== 'guest') return;
      const [row] = room.log.load().filter(({ node }) => node === 'n0');
      assert.equal(row?.guestStarted, true, `a guest ran ${atMs} ms after the start and the log does not say so`);
      assert.equal(row?.certificate, undefined);
    });
    await room.clock.advance(atMs);
    // The agent dies as well, so that nothing but the log knows.
    room.rack.givePower(room.rack.machine('n0'));
    room.core.close();
    await room.clock.advance(10 * minute);
    room.restartAgent();
    await room.clock.advance(60 * minute);
    room.close();
  }
});

test('a BMC whose users the tenant changed refuses at once, and fencing needs no BMC', async () => {
  const room = await tenant(4);
  assert.equal(room.rack.faults.inject('takesBmc', { node: 'n0' }), true);
  await room.runAll([steps.fence], 3);
  assert.equal(await room.run(steps.off, 3), 'Failed');
  assert.equal(room.seen().power, 'Unknown');
  assert.deepEqual(room.rack.truth('n0').peers, []);
  room.rack.faults.heal({ node: 'n0' });
  await room.runAll([steps.off, steps.attest, steps.wipe, steps.check], 3);
  room.close();
});

test('a BMC that has not finished an older job does not keep its tenant from being fenced', async () => {
  const room = await tenant();
  await room.clock.runUntil(() => room.seen().copy.flushed);
  room.rack.faults.inject('bmcLate', { node: 'n0', lastsMs: 10 * 60 * minute });
  room.give(steps.prepare, { epoch: 2 });
  await room.clock.advance(minute);
  assert.equal(room.give(steps.fence, { epoch: 3 }).result, 'Accepted');
  await room.clock.advance(minute);
  assert.equal(room.seen().operation?.status, 'Done');
  for (const { role, domain } of room.rack.truth('n0').ports) if (role === 'Data') assert.equal(domain, 'quarantine');
  // What needs the boot order waits until the job has ended.
  await room.runAll([steps.off], 3);
  assert.equal(room.give(steps.attest, { epoch: 3 }).result, 'Accepted');
  await room.clock.advance(4 * minute);
  assert.equal(room.seen().operation?.status, 'Running');
  assert.equal(room.rack.truth('n0').power, 'Off');
  room.close();
});

test('a dead machine stays Unknown, and is fenced all the same', async () => {
  const room = await tenant(4);
  room.rack.faults.inject('dies', { node: 'n0' });
  await room.runAll([steps.drain(60), steps.fence], 3);
  assert.equal(await room.run(steps.off, 3), 'Failed');
  assert.equal(room.seen().power, 'Unknown');
  assert.equal(room.seen().record.certificate, undefined);
  room.close();
});

/** A tenant with root on the machine: judged by what it gets, and by what the agent believes. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentRoom, enrolment, steps, tenancy } from '../support/agent-room.ts';

const minute = 60_000;
const slow = { imageServerBytesPerSecond: 20e6, guestIo: 0, spread: 0 };

async function tenant(upTo: number, room = new AgentRoom()): Promise<AgentRoom> {
  await room.runAll(enrolment, 1);
  await room.runAll(tenancy.slice(0, upTo), 2);
  return room;
}

test('a guest that ignores the ACPI button is fenced and switched off when its time is over', async () => {
  const room = await tenant(4);
  room.rack.faults.inject('ignoresAcpi', { node: 'n0' });
  await room.runAll([steps.drain(60)], 3);
  assert.equal(room.rack.truth('n0').guest, 'BareMetal');
  await room.runAll(enrolment, 3);
  assert.equal(room.rack.truth('n0').dirty, false);
  room.close();
});

test('a request in the name of another machine gets nothing, whatever that one is served', async () => {
  const room = await tenant(4);
  await room.runAll(enrolment, 1, 'n1');
  await room.runAll([steps.isolate('alloc-2', 'uid-2')], 2, 'n1');
  room.give(steps.reimage(undefined, 'uid-2'), { epoch: 2, node: 'n1' });
  await room.clock.runUntil(() => room.rack.truth('n1').serving === 'Vmm');
  assert.equal(room.rack.faults.inject('spoofs', { node: 'n0', other: 'n1' }), true);
  assert.deepEqual(room.events('spoofed').at(-1), { as: 'n1', got: 'Nothing', of: null });
  assert.equal(room.events('secrets').filter(({ to }) => to === 'Guest').length, 0);
  room.close();
});

test('a boot server that believed a hardware address would give a secret away, and the record shows it', async () => {
  const room = new AgentRoom({ room: { identity: { boot: 'Mac', channel: 'Key' } } });
  await tenant(4, room);
  await room.runAll(enrolment, 1, 'n1');
  await room.runAll([steps.isolate('alloc-2', 'uid-2')], 2, 'n1');
  room.give(steps.reimage(undefined, 'uid-2'), { epoch: 2, node: 'n1' });
  await room.clock.runUntil(() => room.rack.truth('n1').serving === 'Vmm');
  room.rack.faults.inject('spoofs', { node: 'n0', other: 'n1' });
  assert.deepEqual(room.events('spoofed').at(-1), { as: 'n1', got: 'Vmm', of: 'n1' });
  assert.equal(room.events('secrets').at(-1)?.to, 'Guest');
  room.close();
});

test('a forged word of the hypervisor changes no observation', async () => {
  const room = await tenant(2, new AgentRoom({ room: slow }));
  await room.clock.advance(10_000);
  assert.equal(room.rack.faults.inject('forges', { node: 'n0', lastsMs: 60 * minute }), true);
  await room.clock.advance(10);
  const { copy, vmm } = room.seen();
  assert.equal(vmm, 'Resident');
  assert.ok(copy.localBytes < copy.totalBytes);
  assert.equal(copy.flushed, false);
  assert.equal(room.give(steps.prepare, { epoch: 2 }).reason, 'NotPrepared');
  room.close();
});

test('a driver that takes anybody at their word would devirtualize an incomplete disk, and the record shows it', async () => {
  const room = new AgentRoom({ room: { ...slow, identity: { boot: 'Port', channel: 'Word' } } });
  await tenant(2, room);
  room.rack.faults.inject('forges', { node: 'n0', lastsMs: 60 * minute });
  await room.clock.advance(10);
  await room.runAll([steps.prepare, steps.commit], 2);
  const left = room.events('devirtualized').at(-1) as { localBytes: number; totalBytes: number };
  assert.ok(left.localBytes < left.totalBytes);
  room.close();
});

test('a tenant that lets its machine boot from the disk too early stays in its domain and is never called installed', async () => {
  for (let tries = 0; tries < 20; tries++) {
    const room = await tenant(2, new AgentRoom({ room: slow }));
    await room.clock.advance(20_000 * (tries % 5));
    assert.equal(room.rack.faults.inject('setsOrder', { node: 'n0' }), true);
    assert.equal(room.rack.truth('n0').order, 'Disk');
    room.rack.faults.inject('reset', { node: 'n0' });
    await room.clock.advance(10 * minute);
    assert.equal(room.seen().boot.order, 'Disk');
    assert.notEqual(room.seen().copy.flushed, true);
    assert.equal(room.give(steps.prepare, { epoch: 2 }).result, 'Refused');
    for (const { ports } of room.events('guest'))
      for (const { domain } of ports as { domain: string }[]) assert.equal(domain, 'alloc-1');
    room.rack.faults.inject('spoofs', { node: 'n0', other: 'n1' });
    assert.equal(room.events('secrets').filter(({ to }) => to === 'Guest').length, 0);
    // The end takes it back whatever it boots.
    await room.runAll(enrolment, 3);
    assert.equal(room.rack.truth('n0').dirty, false);
    room.close();
  }
});

test('resets at the worst moments of a devirtualization leave one image, one owner, and a closed control port', async () => {
  for (const during of ['prepare', 'commit'] as const) {
    for (let tries = 0; tries < 10; tries++) {
      const room = await tenant(during === 'prepare' ? 2 : 3);
      await room.clock.runUntil(() => room.seen().copy.flushed);
      await room.clock.advance(tries * 37);
      for (let again = 0; again < 3; again++) room.rack.faults.inject('resetsAtWorst', { node: 'n0' });
      if (during === 'prepare') assert.equal(await room.run(steps.prepare, 2), 'Done');
      room.give(steps.commit, { epoch: 2 });
      await room.clock.advance(20 * minute);
      if (room.seen().operation?.status !== 'Done') {
        // The commit did not find its hypervisor; said again it finds it gone.
        await room.run(steps.commit, 2);
      }
      assert.equal(room.seen().vmm, 'Absent');
      const { guest, ports } = room.rack.truth('n0');
      assert.equal(guest, 'BareMetal');
      assert.equal(ports.find(({ role }) => role === 'Control')?.domain, 'closed');
      assert.equal(room.events('imaged').length, 1);
      room.close();
    }
  }
});

test('resets between fence and power-off bring up the old guest in quarantine alone', async () => {
  const room = await tenant(4);
  room.rack.faults.inject('resetsAtWorst', { node: 'n0' });
  await room.runAll([steps.fence], 3);
  await room.clock.advance(5 * minute);
  assert.equal(room.events('reset').length, 1);
  const last = room.events('guest').at(-1) as { ports: { domain: string }[]; peers: string[] };
  for (const { domain } of last.ports) assert.equal(domain, 'quarantine');
  assert.deepEqual(last.peers, []);
  await room.runAll(enrolment.slice(1), 3);
  assert.equal(room.rack.truth('n0').dirty, false);
  room.close();
});

test('a machine that comes up from its own disk before the commit finds its control port closed', async () => {
  const room = await tenant(3);
  room.rack.faults.inject('reset', { node: 'n0' });
  await room.clock.advance(5 * minute);
  const { throughVmm, control } = room.events('guest').at(-1) ?? {};
  assert.deepEqual([throughVmm, control], [false, 'closed']);
  await room.runAll([steps.commit], 2);
  room.close();
});

test('a guest that came up unseen without its hypervisor loses provisioning once the BMC is read again, whatever its order says', async () => {
  const room = await tenant(3);
  room.rack.faults.inject('takesBmc', { node: 'n0' });
  room.rack.faults.inject('reset', { node: 'n0' });
  await room.clock.advance(5 * minute);
  const { throughVmm, control } = room.events('guest').at(-1) ?? {};
  assert.deepEqual([throughVmm, control], [false, 'provisioning']);
  room.rack.faults.inject('setsOrder', { node: 'n0' });
  room.rack.faults.heal({ kinds: ['takesBmc'] });
  await room.clock.advance(minute);
  assert.deepEqual([room.seen().power, room.seen().boot.order], ['On', 'Network']);
  assert.equal(room.seen().ports.find(({ role }) => role === 'Control')?.domain, 'closed');
  room.close();
});

test('an update of a guest without a hypervisor opens its control port only once the machine is off', async () => {
  const room = await tenant(4);
  room.rack.watch(({ event, detail }) => {
    if (event !== 'port' || detail.port !== 'mgmt0' || detail.to !== 'provisioning') return;
    assert.equal(room.rack.machine('n0').power, 'Off');
  });
  await room.runAll([steps.isolate(), steps.reimage()], 3);
  assert.equal(room.rack.truth('n0').guest, 'ThroughVmm');
  room.close();
});

test('a boot order that the tenant turned back finds its hypervisor once the machine was off', async () => {
  const room = await tenant(2, new AgentRoom({ room: slow }));
  await room.clock.advance(60_000);
  room.rack.faults.inject('setsOrder', { node: 'n0' });
  room.rack.faults.inject('reset', { node: 'n0' });
  await room.clock.advance(30_000);
  assert.deepEqual([room.rack.truth('n0').serving, room.seen().ports[2]?.domain], ['Nothing', 'closed']);
  room.rack.cutPower(room.rack.machine('n0'));
  room.rack.machine('n0').order = 'Network';
  room.rack.changed(room.rack.machine('n0'));
  await room.clock.advance(minute);
  room.rack.givePower(room.rack.machine('n0'));
  await room.clock.runUntil(() => room.seen().copy.flushed);
  assert.equal(room.events('imaged').length, 1);
  room.close();
});

test('a drain whose guest is reset instead of shut down ends in time', async () => {
  const room = await tenant(2);
  room.rack.faults.inject('resetsAtWorst', { node: 'n0' });
  await room.runAll([steps.drain(120)], 3);
  await room.runAll(enrolment, 3);
  assert.equal(room.rack.truth('n0').dirty, false);
  room.close();
});

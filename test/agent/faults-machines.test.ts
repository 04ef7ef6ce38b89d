/** Power, disks, images and hypervisors that fail: judged by what is on the disks. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentRoom, enrolment, environment, steps, tenancy } from '../support/agent-room.ts';

const minute = 60_000;
const slow = { imageServerBytesPerSecond: 20e6, guestIo: 0, spread: 0 };

async function tenant(upTo: number, room = new AgentRoom()): Promise<AgentRoom> {
  await room.runAll(enrolment, 1);
  await room.runAll(tenancy.slice(0, upTo), 2);
  return room;
}

/** Its machine was told to boot the tenant's environment, and firmware is not done yet. */
async function starting(options: ConstructorParameters<typeof AgentRoom>[0] = {}): Promise<AgentRoom> {
  const room = await tenant(1, new AgentRoom(options));
  room.give(steps.reimage(), { epoch: 2 });
  await room.clock.runUntil(() => room.rack.machine('n0').stage === 'Post');
  return room;
}

const map = (room: AgentRoom): { localBytes: number; totalBytes: number; flushed: boolean } =>
  room.rack.truth('n0').disks.find(({ content }) => content === 'Image')?.map ?? {
    localBytes: -1,
    totalBytes: -1,
    flushed: false,
  };

test('power lost in any state comes back under the same epoch: nothing is imaged twice, no guest runs un-isolated', async () => {
  for (let atMs = 500; atMs < 400_000; atMs += 9_973) {
    const room = new AgentRoom({ nodes: ['n0'] });
    await room.runAll(enrolment, 1);
    await room.runAll([steps.isolate()], 2);
    room.give(steps.reimage(), { epoch: 2 });
    await room.clock.advance(atMs);
    room.rack.faults.inject('powerLoss', { node: 'n0', lastsMs: minute });
    assert.equal(room.rack.truth('n0').power, 'Off');
    assert.equal(room.rack.machine('n0').stage, 'Dark');
    await room.clock.advance(10);
    assert.equal(room.seen().power, 'Unknown');
    await room.clock.advance(60 * minute);
    if (room.seen().operation?.status === 'Failed') await room.runAll([steps.reimage()], 2);
    if (room.seen().power === 'Off') await room.runAll([steps.on], 2);
    await room.clock.runUntil(() => room.seen().copy.flushed);
    assert.equal(room.events('imaged').length, 1, `at ${atMs}`);
    for (const { ports } of room.events('guest'))
      for (const { domain } of ports as { domain: string }[]) assert.equal(domain, 'alloc-1');
    await room.runAll([steps.prepare, steps.commit], 2);
    room.close();
  }
});

test('blocks that were local and not flushed are gone with the power, and never count as installed', async () => {
  const room = await tenant(2, new AgentRoom({ room: { durations: { ...slowFlush() }, spread: 0 } }));
  await room.clock.runUntil(() => room.seen().copy.localBytes === room.seen().copy.totalBytes);
  assert.equal(room.seen().copy.flushed, false);
  assert.equal(room.give(steps.prepare, { epoch: 2 }).reason, 'NotPrepared');
  room.rack.cutPower(room.rack.machine('n0'));
  assert.ok(map(room).localBytes < map(room).totalBytes);
  assert.equal(room.events('cacheLost').length, 1);
  await room.clock.advance(minute);
  room.rack.givePower(room.rack.machine('n0'));
  await room.clock.runUntil(() => room.seen().vmm === 'Resident');
  assert.ok(room.seen().copy.localBytes < room.seen().copy.totalBytes);
  assert.equal(room.give(steps.prepare, { epoch: 2 }).reason, 'NotPrepared');
  await room.clock.runUntil(() => room.seen().copy.flushed);
  assert.equal(room.events('installed').length, 1);
  await room.runAll([steps.prepare, steps.commit], 2);
  assert.equal(room.events('devirtualized').at(-1)?.flushed, true);
  room.close();
});

function slowFlush(): AgentRoom['rack']['room']['durations'] {
  const { durations } = new AgentRoom().rack.room;
  return { ...durations, flush: 20_000 };
}

test('a map torn by a loss of power is a failure in use, and nothing is erased', async () => {
  const room = await tenant(2, new AgentRoom({ room: slow }));
  await room.clock.advance(30_000);
  room.rack.faults.inject('tornMap', { node: 'n0' });
  room.rack.cutPower(room.rack.machine('n0'));
  room.rack.givePower(room.rack.machine('n0'));
  await room.clock.advance(30 * minute);
  assert.equal(room.seen().guest.failure?.code, 'MapInvalid');
  assert.equal(room.seen().copy.map, 'Invalid');
  assert.equal(await room.run(steps.reimage(), 2), 'Failed');
  assert.equal(room.events('imaged').length, 1);
  room.close();
});

test('an agent that was dead while a guest ran and its map was torn erases nothing when it returns', async () => {
  const room = await starting({ nodes: ['n0'], room: slow });
  room.core.close();
  await room.clock.advance(20 * minute);
  assert.equal(room.rack.truth('n0').guest, 'ThroughVmm');
  room.rack.faults.inject('tornMap', { node: 'n0' });
  room.rack.cutPower(room.rack.machine('n0'));
  room.restartAgent();
  await room.clock.advance(minute);
  room.rack.givePower(room.rack.machine('n0'));
  await room.clock.advance(30 * minute);
  for (let tries = 0; tries < 3; tries++) await room.run(steps.reimage(), 2);
  assert.equal(room.seen().guest.failure?.code, 'MapInvalid');
  assert.equal(room.events('imaged').length, 1);
  room.close();
});

test('a throttle after a torn map does not let the next boot erase the disk', async () => {
  const room = await starting({ nodes: ['n0'], room: slow });
  room.core.close();
  await room.clock.advance(10 * minute);
  room.rack.faults.inject('tornMap', { node: 'n0' });
  room.rack.cutPower(room.rack.machine('n0'));
  room.rack.givePower(room.rack.machine('n0'));
  await room.clock.advance(10 * minute);
  room.restartAgent();
  await room.clock.advance(10);
  room.give(steps.throttle(1e6), { epoch: 2 });
  await room.clock.advance(minute);
  room.rack.reset(room.rack.machine('n0'));
  await room.clock.advance(30 * minute);
  assert.equal(room.events('imaged').length, 1);
  room.close();
});

test('a write error in the middle of the copy stops it, and it never counts as installed', async () => {
  const room = await tenant(2, new AgentRoom({ room: slow }));
  await room.clock.advance(10_000);
  assert.equal(room.rack.faults.inject('diskError', { node: 'n0' }), true);
  const { localBytes } = map(room);
  await room.clock.advance(60 * minute);
  assert.equal(map(room).localBytes, localBytes);
  assert.equal(room.seen().guest.failure?.code, 'DiskFailed');
  assert.equal(room.give(steps.prepare, { epoch: 2 }).reason, 'NotPrepared');
  room.close();
});

test('a disk that was exchanged makes a certificate void, and takes no tenant before it was wiped', async () => {
  const room = new AgentRoom();
  await room.runAll(enrolment, 1);
  assert.equal(room.rack.faults.inject('diskSwap', { node: 'n0' }), true);
  await room.clock.advance(10);
  assert.equal(room.seen().record.certificate, undefined);
  assert.equal(room.give(steps.isolate(), { epoch: 2 }).reason, 'NotAllowed');
  await room.runAll(enrolment, 2);
  assert.equal(room.rack.truth('n0').dirty, false);
  // The same between isolation and the first boot.
  await room.runAll([steps.isolate()], 3);
  room.rack.faults.inject('diskSwap', { node: 'n0' });
  await room.clock.advance(10);
  assert.equal(room.give(steps.reimage(), { epoch: 3 }).reason, 'Conflict');
  assert.equal(room.events('guest').length, 0);
  room.close();
});

test('a disk exchanged between the start and the first boot stops the boot', async () => {
  const room = await starting();
  room.rack.faults.inject('diskSwap', { node: 'n0' });
  await room.clock.advance(10 * minute);
  assert.equal(room.events('guest').length, 0);
  assert.equal(room.seen().operation?.failure?.code, 'CheckFailed');
  assert.equal(await room.run(steps.reimage(), 2), 'Failed');
  room.close();
});

test('a disk exchanged before the first boot stops the boot under a newer epoch of the same tenancy as well', async () => {
  const room = await starting();
  room.rack.faults.inject('diskSwap', { node: 'n0' });
  await room.clock.advance(10 * minute);
  assert.equal(room.seen().operation?.failure?.code, 'CheckFailed');
  // Its owner asks for an update of what never ran.
  await room.runAll([steps.isolate()], 3);
  assert.equal(await room.run(steps.reimage(), 3), 'Failed');
  assert.equal(room.seen().operation?.failure?.code, 'CheckFailed');
  assert.equal(room.events('imaged').length, 0);
  room.close();
});

test('a hypervisor that should be there and is not heard is a fault until it is heard again', async () => {
  const room = await tenant(2, new AgentRoom({ room: slow }));
  room.rack.faults.inject('vmmPanic', { node: 'n0' });
  await room.clock.advance(19 * minute);
  assert.equal(room.seen().guest.failure, undefined);
  await room.clock.advance(2 * minute);
  assert.equal(room.seen().guest.failure?.code, 'VmmFailed');
  assert.match(room.seen().guest.failure?.message ?? '', /Absent; power is On/);
  room.restartAgent();
  await room.clock.advance(10);
  assert.equal(room.seen().guest.failure?.code, 'VmmFailed');
  await room.runAll([steps.off, steps.on], 2);
  await room.clock.advance(5 * minute);
  assert.equal(room.seen().guest.failure, undefined);
  room.close();
});

test('a disk exchanged after the wipe makes no certificate', async () => {
  const room = new AgentRoom();
  await room.runAll(enrolment.slice(0, 4), 1);
  room.rack.faults.inject('diskSwap', { node: 'n0' });
  await room.clock.advance(10 * minute);
  assert.notEqual(await room.run(steps.check, 1), 'Done');
  assert.equal(room.seen().record.certificate, undefined);
  room.close();
});

test('a wiper that misses a disk is found out by read-back or by the check', async () => {
  const ends = new Set<string>();
  const room = new AgentRoom();
  await room.runAll(enrolment.slice(0, 3), 1);
  for (let tries = 0; tries < 20; tries++) {
    room.rack.faults.inject('wipeMisses', { node: 'n0' });
    const wiped = await room.run(steps.wipe, 1);
    const end = wiped === 'Done' ? await room.run(steps.check, 1) : wiped;
    assert.equal(end, 'Failed');
    ends.add(room.seen().operation?.failure?.code ?? '');
    assert.equal(room.seen().record.certificate, undefined);
  }
  assert.deepEqual([...ends].sort(), ['CheckFailed', 'WipeFailed']);
  await room.runAll([steps.wipe, steps.check], 1);
  assert.equal(room.rack.truth('n0').dirty, false);
  room.close();
});

test('an image server that is down stalls the guest, and the copy goes on where it was', async () => {
  const room = await tenant(2, new AgentRoom({ room: slow }));
  await room.clock.advance(10_000);
  room.rack.faults.inject('imagesDown', { lastsMs: 10 * minute });
  const { localBytes } = map(room);
  await room.clock.advance(5 * minute);
  assert.equal(room.rack.truth('n0').disks[0]?.map?.localBytes, localBytes);
  assert.equal(room.rack.truth('n0').guest, 'ThroughVmm');
  await room.clock.advance(20 * minute);
  await room.clock.runUntil(() => room.seen().copy.flushed);
  await room.runAll([steps.prepare, steps.commit], 2);
  room.close();
});

test('an export that cannot be closed is not said to be closed', async () => {
  const room = await tenant(2);
  await room.clock.runUntil(() => room.seen().copy.flushed);
  room.rack.faults.inject('imagesDown', { lastsMs: 10 * minute });
  assert.equal(room.give(steps.prepare, { epoch: 2 }).result, 'Accepted');
  await room.clock.advance(5 * minute);
  assert.equal(room.seen().prepared, false);
  assert.equal(room.give(steps.commit, { epoch: 2 }).result, 'Refused');
  await room.clock.runUntil(() => room.seen().operation?.status !== 'Running');
  room.close();
});

test('rot at the URL of an image that begins later is found at the next opening', async () => {
  const room = await tenant(2);
  assert.equal(room.rack.faults.inject('imageRot', { node: 'n0' }), true);
  await room.clock.runUntil(() => room.seen().copy.flushed);
  assert.equal(await room.run(steps.reimage(environment('r2')), 3), 'Failed');
  assert.equal(room.seen().operation?.failure?.code, 'ImageDigestMismatch');
  assert.equal(room.rack.truth('n0').guest, 'ThroughVmm');
  room.close();
});

test('while another image is opened for an update, the guest that runs reads none of it', async () => {
  const room = await tenant(2, new AgentRoom({ room: slow }));
  await room.clock.advance(10_000);
  const other = environment('r2', { url: 'https://images.test/other.raw', sha256: 'b'.repeat(64) });
  room.give(steps.reimage(other), { epoch: 3 });
  await room.clock.runUntil(() => room.rack.machine('n0').image?.digest === 'b'.repeat(64));
  const before = map(room).localBytes;
  await room.clock.advance(300);
  assert.equal(map(room).localBytes, before);
  room.close();
});

test('a machine that still boots under an older plan never gets the image of a newer one', async () => {
  const room = new AgentRoom({ room: slow });
  await room.runAll(enrolment, 1);
  await room.run(steps.isolate(), 2);
  room.give(steps.reimage(), { epoch: 2 });
  await room.clock.runUntil(() => room.rack.machine('n0').stage === 'Post' && room.seen().record.guestStarted);
  const other = environment('r2', { url: 'https://images.test/other.raw', sha256: 'b'.repeat(64) });
  await room.clock.advance(1);
  room.give(steps.isolate(), { epoch: 3 });
  await room.clock.advance(100);
  assert.equal(room.rack.faults.inject('bmcSilent', { node: 'n0' }), true);
  assert.equal(room.give(steps.reimage(other), { epoch: 3 }).result, 'Accepted');
  await room.clock.advance(10);
  await room.clock.runUntil(() => room.seen().operation?.status !== 'Running');
  // A BMC that was silent for long failed it; what comes of the next one counts.
  for (let tries = 0; tries < 10 && room.events('imaged').length === 0; tries++)
    await room.run(steps.reimage(other), 3);
  const [imaged] = room.events('imaged');
  assert.deepEqual([imaged?.revision, imaged?.digest], ['r2', 'b'.repeat(64)]);
  room.close();
});

test('a hypervisor that panics takes its guest with it; switched off and on, the map and the epoch are kept', async () => {
  const room = await tenant(2, new AgentRoom({ room: slow }));
  assert.equal(room.rack.faults.inject('vmmPanic', { node: 'n0' }), true);
  await room.clock.advance(10 * minute);
  assert.deepEqual([room.seen().vmm, room.seen().power], ['Absent', 'On']);
  assert.equal(room.give(steps.prepare, { epoch: 2 }).reason, 'NotPrepared');
  await room.runAll([steps.off, steps.on], 2);
  await room.clock.runUntil(() => room.seen().copy.flushed);
  assert.equal(room.seen().guest.starts, 2);
  assert.equal(room.events('imaged').length, 1);
  room.close();
});

test('a hypervisor that nobody hears is Unknown: a commit to it is uncertain, and the control port is closed', async () => {
  const room = await tenant(3);
  room.rack.faults.inject('vmmSilent', { node: 'n0', lastsMs: 20 * minute });
  await room.clock.advance(10);
  assert.equal(room.seen().vmm, 'Unknown');
  room.give(steps.commit, { epoch: 2 });
  await room.clock.runUntil(() => room.seen().operation?.status === 'Failed');
  assert.equal(room.rack.truth('n0').ports.find(({ role }) => role === 'Control')?.domain, 'closed');
  assert.equal(room.give(steps.reimage(), { epoch: 2 }).reason, 'Conflict');
  await room.clock.advance(60 * minute);
  assert.equal(room.events('imaged').length, 1);
  room.close();
});

test('a warm reset in any state of a tenancy images once and keeps the isolation', async () => {
  for (let atMs = 500; atMs < 200_000; atMs += 7_919) {
    const room = new AgentRoom({ nodes: ['n0'] });
    await room.runAll(enrolment, 1);
    await room.runAll([steps.isolate()], 2);
    room.give(steps.reimage(), { epoch: 2 });
    await room.clock.advance(atMs);
    room.rack.faults.inject('reset', { node: 'n0' });
    await room.clock.runUntil(() => room.seen().operation?.status !== 'Running');
    if (room.seen().operation?.status === 'Failed') await room.runAll([steps.reimage()], 2);
    await room.clock.runUntil(() => room.seen().copy.flushed);
    assert.equal(room.events('imaged').length, 1);
    room.close();
  }
});

test('a rack that goes dark comes back with every machine, and each one under its own epoch', async () => {
  const room = new AgentRoom({ nodes: ['n0', 'n1'] });
  for (const node of room.nodes) {
    await room.runAll(enrolment, 1, node);
    await room.runAll(tenancy.slice(0, 2), 2, node);
  }
  room.rack.faults.inject('rackDark', { lastsMs: 5 * minute });
  for (const node of room.nodes) assert.equal(room.rack.truth(node).power, 'Off');
  await room.clock.advance(10 * minute);
  for (const node of room.nodes) {
    if (room.seen(node).power === 'Off') await room.runAll([steps.on], 2, node);
    await room.clock.runUntil(() => room.seen(node).guest.state === 'Running');
    assert.equal(room.seen(node).guest.starts, 2);
    assert.equal(room.events('imaged', node).length, 1);
  }
  room.close();
});

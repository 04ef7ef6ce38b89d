import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentRoom, enrolment, environment, steps, tenancy } from '../support/agent-room.ts';

test('a machine goes from delivery to bare metal and back, imaged once and wiped once a disk', async () => {
  const room = new AgentRoom();
  assert.equal(room.seen().record.certificate, undefined);
  await room.runAll(enrolment, 1);
  assert.equal(room.seen().power, 'Off');
  assert.equal(room.seen().record.certificate?.epoch, 1);
  await room.runAll(tenancy.slice(0, 2), 2);
  assert.equal(room.seen().guest.state, 'Running');
  assert.equal(room.seen().record.guestStarted, true);
  assert.equal(room.seen().record.certificate, undefined);
  await room.runAll(tenancy.slice(2), 2);
  const bare = room.seen();
  assert.equal(bare.vmm, 'Absent');
  assert.equal(bare.record.commitSent, true);
  assert.deepEqual([bare.guest.state, bare.guest.starts, bare.power], ['Unknown', 1, 'On']);
  assert.equal(bare.ports.find((port) => port.role === 'Control')?.domain, 'closed');
  assert.equal(room.events('imaged').length, 1);
  await room.runAll([steps.drain(), ...enrolment], 3);
  const clean = room.seen().record;
  assert.deepEqual(
    [clean.guestStarted, clean.commitSent, clean.ended, clean.certificate?.epoch],
    [false, false, false, 3],
  );
  assert.equal(room.events('wiped').length, 4);
  assert.deepEqual(room.errors, []);
  room.close();
});

test('a delivered machine that is off and in quarantine needs no fence and no power off', async () => {
  const room = new AgentRoom();
  await room.runAll([steps.drain(), steps.attest, steps.wipe, steps.check], 1);
  assert.equal(room.seen().record.certificate?.epoch, 1);
  room.close();
});

test('without delays the whole life takes no time', async () => {
  const room = new AgentRoom({ room: { zeroDelays: true } });
  await room.runAll(enrolment, 1);
  await room.runAll(tenancy, 2);
  await room.runAll([steps.drain(), ...enrolment], 3);
  assert.equal(room.clock.monotonic(), 0);
  room.close();
});

test('streams share the image server, and progress comes in sixteenths at most', async () => {
  const nodes = ['n0', 'n1', 'n2', 'n3'];
  const room = new AgentRoom({ nodes, room: { imageServerBytesPerSecond: 200e6, guestIo: 0, spread: 0 } });
  let lines = 0;
  room.core.onChange(() => lines++);
  const image = environment('r1', { sizeBytes: 16e9 });
  for (const node of nodes) {
    await room.runAll(enrolment, 1, node);
    await room.runAll([steps.isolate()], 2, node);
    assert.equal(room.give(steps.reimage(image), { epoch: 2, node }).result, 'Accepted');
  }
  await room.clock.runUntil(() => nodes.every((node) => room.seen(node).guest.state === 'Running'));
  const startMs = room.clock.monotonic();
  const local = (): number => nodes.reduce((sum, node) => sum + room.seen(node).copy.localBytes, 0);
  const copiedBefore = local();
  lines = 0;
  await room.clock.runUntil(() => nodes.every((node) => room.seen(node).copy.flushed));
  const seconds = (room.clock.monotonic() - startMs) / 1000;
  const expected = (64e9 - copiedBefore) / 200e6;
  assert.ok(Math.abs(seconds - expected) < 0.1 * expected, `${seconds} s instead of ${expected}`);
  assert.ok(lines <= 17 * nodes.length, `${lines} lines`);
  assert.equal(Math.round(room.core.counters().imageBytes / 1e9), 64);
  room.close();
});

test('a guest that runs without a hypervisor does not see provisioning while its re-imaging is prepared', async () => {
  const room = new AgentRoom();
  await room.runAll(enrolment, 1);
  await room.runAll(tenancy, 2);
  assert.equal(await room.run(steps.isolate(), 3), 'Done');
  const control = () => room.seen().ports.find(({ role }) => role === 'Control')?.domain;
  assert.equal(control(), 'closed');
  assert.equal(await room.run(steps.reimage(environment('r2')), 3), 'Done');
  assert.equal(control(), 'provisioning');
  room.close();
});

test('a control port that would not close after the commit is closed later all the same', async () => {
  const room = new AgentRoom();
  await room.runAll(enrolment, 1);
  await room.runAll(tenancy.slice(0, 3), 2);
  room.rack.failNext('n0', 'fabric');
  assert.equal(await room.run(steps.commit, 2), 'Failed');
  const control = () => room.seen().ports.find(({ role }) => role === 'Control')?.domain;
  assert.equal(room.seen().vmm, 'Absent');
  await room.clock.runUntil(() => control() === 'closed', 300_000);
  room.close();
});

test('a check that passed is not held up when parking the machine failed at first', async () => {
  const room = new AgentRoom();
  await room.runAll(enrolment.slice(0, 4), 1);
  const { operationId } = room.give(steps.check, { epoch: 1 });
  await room.clock.runUntil(() => room.events('checked').length === 1);
  room.rack.failNext('n0', 'power');
  await room.clock.runUntil(
    () => room.seen().operation?.id === operationId && room.seen().operation?.status === 'Failed',
  );
  room.rack.cutPower(room.rack.machine('n0'));
  await room.clock.advance(1_000);
  assert.equal(await room.run(steps.check, 1), 'Done');
  assert.equal(room.seen().record.certificate?.epoch, 1);
  room.close();
});

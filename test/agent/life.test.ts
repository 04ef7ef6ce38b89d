import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentRoom, enrolment, steps, tenancy } from '../support/agent-room.ts';

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

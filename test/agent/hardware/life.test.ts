/** The drivers of real hardware under an unchanged agent, from delivery to bare metal and back. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { enrolment, steps } from '../../support/agent-room.ts';
import { Hall } from './hall.ts';

test('a machine behind BMC, switch and VMM channel goes from delivery to bare metal and back', async (t) => {
  const hall = await Hall.start(t);
  const { machine } = hall;
  assert.ok(hall.capabilities.includes('attestation:Token'), 'what is not proven is said');
  await hall.until(
    'the machine is known',
    () => hall.seen().inventory.disks.length === 2 && hall.seen().power === 'Off',
  );
  await hall.runAll(enrolment, 1);
  assert.equal(hall.seen().record.certificate?.epoch, 1);
  assert.deepEqual(hall.seen().record.certificate?.disks.toSorted(), ['S0A', 'S0B']);
  assert.equal(machine.power(), 'Off');
  await hall.runAll([steps.isolate(), steps.reimage(hall.image)], 2);
  assert.deepEqual([hall.seen().vmm, hall.seen().guest.state, hall.seen().guest.starts], ['Resident', 'Running', 1]);
  const [plan] = machine.plans;
  assert.deepEqual([plan?.start, plan?.epoch, plan?.diskSerial], ['Fresh', 2n, 'S0A']);
  assert.equal(plan?.imageDigest.toString('hex'), hall.image.image.sha256);
  await hall.until('installed', () => hall.seen().copy.flushed);
  await hall.runAll([steps.prepare, steps.commit], 2);
  assert.equal(machine.hasLeft, true);
  assert.equal(hall.seen().vmm, 'Absent');
  assert.equal(hall.seen().ports.find(({ role }) => role === 'Control')?.domain, 'closed');
  assert.equal(machine.power(), 'On');
  await hall.runAll([steps.drain(), ...enrolment], 3);
  assert.equal(hall.seen().record.certificate?.epoch, 3);
  assert.deepEqual(hall.seen().record.certificate?.attestation, { method: 'Token' });
  assert.deepEqual(machine.booted, ['Trusted', 'Vmm', 'Trusted']);
  assert.deepEqual(hall.errors, []);
});

/** What real machines, cables and people do to a rack of real hardware. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { enrolment, steps } from '../../support/agent-room.ts';
import { exportSize } from './export-size.ts';
import { Hall } from './hall.ts';

async function tenant(t: TestContext): Promise<Hall> {
  const hall = await Hall.start(t);
  await hall.until(
    'the machine is known',
    () => hall.seen().inventory.disks.length === 2 && hall.seen().power === 'Off',
  );
  await hall.runAll(enrolment, 1);
  await hall.runAll([steps.isolate()], 2);
  return hall;
}

async function installed(t: TestContext): Promise<Hall> {
  const hall = await tenant(t);
  await hall.runAll([steps.reimage(hall.image)], 2);
  await hall.until('installed', () => hall.seen().copy.flushed);
  return hall;
}

test('a last word that is lost does not count: the machine is seen without its hypervisor first', async (t) => {
  const hall = await installed(t);
  hall.machine.losesLeaving = true;
  await hall.runAll([steps.prepare], 2);
  const id = hall.give(steps.commit, 2);
  await hall.until('left', () => hall.machine.hasLeft);
  assert.notEqual(hall.seen().vmm, 'Absent');
  assert.equal(hall.seen().operation?.status, 'Running');
  assert.equal(await hall.ended(id), 'Done');
  assert.equal(hall.seen().vmm, 'Absent');
});

test('an address that still answers is a hypervisor that has not left', async (t) => {
  const hall = await installed(t);
  await hall.stopAgent();
  let answers = true;
  await hall.startAgent({ answers: async () => answers });
  await hall.until('heard again', () => hall.seen().vmm === 'Resident');
  hall.machine.losesLeaving = true;
  await hall.runAll([steps.prepare], 2);
  const begun = performance.now();
  const id = hall.give(steps.commit, 2);
  await hall.until('left', () => hall.machine.hasLeft);
  await hall.until('twice the quiet time is over', () => performance.now() - begun > 6_000);
  assert.equal(hall.seen().operation?.status, 'Running');
  assert.equal(hall.seen().vmm, 'Unknown');
  answers = false;
  assert.equal(await hall.ended(id), 'Done');
});

test('a hypervisor that is not as it was prepared stays, and is asked again', async (t) => {
  const hall = await installed(t);
  hall.machine.notReady = 'a block is not local';
  await hall.runAll([steps.prepare], 2);
  assert.match(await hall.run(steps.commit, 2), /^VmmFailed: .*a block is not local/);
  hall.machine.notReady = undefined;
  hall.machine.isDeaf = true;
  assert.match(await hall.run(steps.commit, 2), /^VmmFailed: .*the token is not that of the PREPARE/);
  assert.equal(hall.seen().vmm, 'Resident');
  assert.equal(hall.machine.hasLeft, false);
});

test('an agent that was killed knows the hypervisor again, and ends what it began', async (t) => {
  const hall = await installed(t);
  await hall.runAll([steps.prepare], 2);
  hall.machine.losesLeaving = true;
  const id = hall.give(steps.commit, 2);
  await hall.until('left', () => hall.machine.hasLeft);
  await hall.stopAgent();
  await hall.startAgent();
  assert.notEqual(hall.seen().vmm, 'Absent');
  assert.equal(await hall.ended(id), 'Done');
  assert.equal(hall.seen().vmm, 'Absent');
  assert.equal(hall.seen().ports.find(({ role }) => role === 'Control')?.domain, 'closed');
});

test('a broken connection is no hypervisor that left', async (t) => {
  const hall = await installed(t);
  hall.machine.breakConnection();
  await hall.until('not heard', () => hall.seen().vmm === 'Unknown');
  await hall.until('heard again', () => hall.seen().vmm === 'Resident');
  assert.equal(hall.machine.plans.length, 1);
});

test('a machine that boots again keeps what its guest wrote; one whose map is gone is not imaged again', async (t) => {
  const hall = await installed(t);
  await hall.machine.reset();
  await hall.until('the second start', () => hall.seen().guest.starts === 2);
  assert.deepEqual(
    hall.machine.plans.map(({ start }) => start),
    ['Fresh', 'Keep'],
  );
  hall.machine.mapEpoch = undefined;
  await hall.machine.reset();
  await hall.until('it is shown', () => hall.seen().guest.failure !== undefined);
  assert.equal(hall.machine.plans.at(-1)?.start, 'Keep');
  assert.equal(hall.machine.mapEpoch, undefined);
});

test('a machine that resets before its hypervisor said a word may have begun, and is not imaged again', async (t) => {
  const hall = await tenant(t);
  hall.machine.isMute = true;
  const id = hall.give(steps.reimage(hall.image), 2);
  await hall.until('the plan is there', () => hall.machine.plans.length === 1);
  hall.machine.isMute = false;
  hall.machine.mapEpoch = undefined;
  await hall.machine.reset();
  assert.match(await hall.ended(id), /^VmmFailed: no valid map/);
  await hall.machine.reset();
  await hall.until('the plan is there again', () => hall.machine.plans.length === 3);
  assert.deepEqual(
    hall.machine.plans.map(({ start }) => start),
    ['Fresh', 'Keep', 'Keep'],
  );
});

test('a machine that loses its power has no hypervisor, and comes back with what its guest wrote', async (t) => {
  const hall = await installed(t);
  await hall.machine.off();
  await hall.until('off', () => hall.seen().power === 'Off');
  assert.deepEqual([hall.seen().vmm, hall.seen().guest.state, hall.seen().copy.map], ['Absent', 'Off', 'Valid']);
  await hall.runAll([steps.on], 2);
  await hall.until('the second start', () => hall.seen().guest.starts === 2);
  assert.equal(hall.machine.plans.at(-1)?.start, 'Keep');
});

test('a tenant on bare metal that was off and on again is there to be told of its end', async (t) => {
  const hall = await installed(t);
  await hall.runAll([steps.prepare, steps.commit], 2);
  await hall.machine.off();
  await hall.until('off', () => hall.seen().power === 'Off');
  await hall.machine.on();
  await hall.until('on', () => hall.seen().power === 'On');
  assert.deepEqual(
    [hall.seen().vmm, hall.seen().guest.state, hall.machine.booted.at(-1)],
    ['Absent', 'Unknown', 'Disk'],
  );
  const presses = hall.machine.presses;
  await hall.runAll([steps.drain()], 3);
  assert.equal(hall.machine.presses, presses + 1);
});

test('the image is for the machine alone: another address is refused, and nothing is there once it is closed', async (t) => {
  const hall = await installed(t);
  const source = hall.machine.plans[0]?.source;
  assert.ok(source);
  assert.equal(await exportSize(source, '127.0.77.10'), hall.image.image.sizeBytes);
  assert.equal(await exportSize(source, '127.0.77.11'), undefined);
  await hall.runAll([steps.prepare], 2);
  assert.equal(await exportSize(source, '127.0.77.10'), undefined);
});

test('a hypervisor that says that nothing was begun leaves the next boot fresh', async (t) => {
  const hall = await tenant(t);
  hall.machine.failsToStart = true;
  assert.match(await hall.run(steps.reimage(hall.image), 2), /^VmmFailed: no such device/);
  hall.machine.failsToStart = false;
  await hall.runAll([steps.reimage(hall.image)], 2);
  assert.deepEqual(
    hall.machine.plans.map(({ start }) => start),
    ['Fresh', 'Fresh'],
  );
});

test('what belongs to a boot is for its port, and for its time', async (t) => {
  const hall = await tenant(t);
  const { boot } = hall.settings;
  const server = `http://127.0.77.1:${boot.port}`;
  const elsewhere = await hall.machine.fetch('GET', `${server}/boot.ipxe`, '', {}, '127.0.77.11');
  assert.equal(elsewhere.status, 404);
  await hall.runAll([steps.reimage(hall.image)], 2);
  assert.equal(
    (await hall.machine.fetch('GET', hall.machine.elf)).status,
    404,
    'the key of a boot that has its hypervisor',
  );
});

test('a control port that is not in provisioning is given nothing', async (t) => {
  const hall = await tenant(t);
  const server = `http://127.0.77.1:${hall.settings.boot.port}`;
  const loader = (localAddress?: string): Promise<{ status: number; body: Buffer }> =>
    hall.machine.fetch('GET', `${server}/firmware/x64.efi`, '', {}, localAddress);
  assert.equal((await loader()).body.toString(), 'an iPXE');
  assert.equal((await loader('127.0.77.11')).status, 404, 'through a port of nobody');
  hall.switches.ports.set('n00/ctl0', { domain: 'unmanaged', egress: 'None' });
  await hall.until('read back', () => hall.seen().ports.some(({ domain }) => domain === 'unmanaged'));
  assert.equal((await loader()).status, 404);
  const { body } = await hall.machine.fetch('GET', `${server}/boot.ipxe`);
  assert.match(body.toString(), /^#!ipxe\necho control port not in provisioning\nsleep 3\nchain /);
});

/**
 * A machine loses its power in every state of a tenancy, and its guest resets it where that is another matter. The guest is one sector; its writes
 * are made for it. What must hold: what was flushed is there, a disk that was begun is never begun again, and no hypervisor comes back
 * under a guest that it left. (While the disk fills: copy.test.ts. In a reclaim: power-reclaim.test.ts.)
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { mapPath } from '../../agent/drivers/qemu/map.ts';
import { steps } from '../support/agent-room.ts';
import { environmentOf, LabRack, type NbdkitExporter, until, writeAsGuest } from './lab-rack.ts';
import { labOptions } from './needs.ts';
import { makeSectorImage, type SectorImage } from './sector-image.ts';

const options = labOptions(180);
const mebi = 2 ** 20;
const imageBytes = 32 * mebi;

const open = new Set<LabRack>();
after(async () => {
  for (const lab of open) await lab.close();
});

interface Tenant {
  readonly lab: LabRack;
  readonly image: SectorImage;
}

/** A machine whose ports are isolated, and that was never switched on. */
async function isolated(): Promise<Tenant> {
  const lab = new LabRack();
  open.add(lab);
  const image = makeSectorImage(join(lab.directory, 'a.raw'), 'A', imageBytes);
  (lab.exporter as NbdkitExporter).start();
  await lab.open();
  await lab.run(steps.isolate(), 2);
  return { lab, image };
}

/** Every block is local, the guest wrote. */
async function installed(): Promise<Tenant> {
  const tenant = await isolated();
  const { lab, image } = tenant;
  await lab.run(steps.reimage(environmentOf(image)), 2);
  await until('every block is local', () => lab.seen().copy.flushed);
  await booted(tenant, 1);
  await writeAsGuest(lab, 0xa1, 20 * mebi, mebi);
  return tenant;
}

const boots = ({ lab, image }: Tenant): number => lab.serial().split(image.marker).length - 1;
const booted = (tenant: Tenant, times: number) => until(`boot number ${times}`, () => boots(tenant) === times);

async function losesPower({ lab }: Tenant): Promise<void> {
  await lab.machine().off();
  await until('it is seen', () => lab.seen().power === 'Off');
}

/** Flushed writes and image, nothing else. */
function assertDisk({ lab, image }: Tenant): void {
  const wanted = Buffer.from(image.bytes);
  wanted.fill(0xa1, 20 * mebi, 21 * mebi);
  assert.ok(lab.disk().subarray(0, imageBytes).equals(wanted), 'the disk is the image with what the guest wrote');
}

/** It boots its own disk, with no way to an image or a hypervisor. */
async function assertBareMetal(tenant: Tenant, boot: number): Promise<void> {
  const { lab } = tenant;
  await booted(tenant, boot);
  assert.equal(lab.machine().bootedFrom, 'Disk');
  assert.equal((await lab.booted().mediator.graph('sda')).kind, 'Plain');
  const { vmm, record, ports, boot: order } = lab.seen();
  assert.deepEqual([vmm, record.commitSent, order.serving], ['Absent', true, 'Nothing']);
  assert.equal(ports.find(({ role }) => role === 'Control')?.domain, 'closed');
  assertDisk(tenant);
}

test('before its guest ran: the power comes back, and the same operation goes on', options, async () => {
  const tenant = await isolated();
  const { lab, image } = tenant;
  const id = lab.give(steps.reimage(environmentOf(image)), 2);
  // Once while the firmware looks around, once when the boot server has begun the map and no guest was let go yet.
  await until('it is on', () => lab.machine().power() === 'On');
  await losesPower(tenant);
  assert.deepEqual([boots(tenant), lab.seen().guest.starts, lab.seen().operation?.status], [0, 0, 'Running']);
  assert.ok(!existsSync(mapPath(lab.machine().spec, 'sda')), 'nothing was begun on its disk');
  await lab.machine().on();
  await until('the map is begun', () => existsSync(mapPath(lab.machine().spec, 'sda')));
  await losesPower(tenant);
  assert.deepEqual([lab.seen().vmm, lab.seen().operation?.status], ['Absent', 'Running']);
  await lab.machine().on();
  assert.equal((await lab.agent.ended(id)).status, 'Done');
  await until('every block is local', () => lab.seen().copy.flushed);
  await booted(tenant, 1);
  assert.ok(lab.disk().subarray(0, imageBytes).equals(image.bytes));
});

test('once it is prepared to be without its hypervisor, before the commit', options, async () => {
  const tenant = await installed();
  const { lab } = tenant;
  await lab.run(steps.prepare, 2);
  await losesPower(tenant);
  await lab.run(steps.on, 2);
  await booted(tenant, 2);
  assert.equal(lab.machine().bootedFrom, 'Disk');
  assert.throws(() => lab.give(steps.reimage(environmentOf(tenant.image)), 2), /boots from its own disk/);
  await lab.run(steps.commit, 2);
  await assertBareMetal(tenant, 2);
});

/** A machine that starts anew has no graph for a moment. */
async function isPlain({ lab }: Tenant): Promise<boolean> {
  const graph = await lab
    .booted()
    .mediator.graph('sda')
    .catch(() => undefined);
  return graph?.kind === 'Plain';
}

for (const [moment, reached] of [
  ['the commit was sent and nothing was done yet', async () => true],
  ['the mediator has just left', isPlain],
] as const) {
  test(`while its hypervisor leaves: ${moment}`, options, async () => {
    const tenant = await installed();
    const { lab } = tenant;
    await lab.run(steps.prepare, 2);
    const id = lab.give(steps.commit, 2);
    await until(moment, () => reached(tenant));
    await losesPower(tenant);
    assert.equal((await lab.agent.ended(id)).status, 'Done', 'a machine that is off has no hypervisor');
    assert.throws(() => lab.give(steps.reimage(environmentOf(tenant.image)), 2), /Conflict/);
    assertDisk(tenant);
    await lab.run(steps.on, 2);
    await assertBareMetal(tenant, 2);
  });
}

test('while its hypervisor leaves the agent is killed, and the guest resets it', options, async () => {
  const tenant = await installed();
  const { lab } = tenant;
  await lab.run(steps.prepare, 2);
  const id = lab.give(steps.commit, 2);
  await lab.killAgent();
  // Nobody attends to it, or the next agent just does: it resets in place, or as a new process.
  await lab.pressKey('r');
  await lab.open();
  assert.equal((await lab.agent.ended(id)).status, 'Done');
  await until('its disk is plain', () => isPlain(tenant));
  assert.equal(lab.seen().vmm, 'Absent');
  assertDisk(tenant);
  await until('it runs from its own disk', () => boots(tenant) === 2, 120_000);
});

test('on bare metal, and its own power switch brings it back', options, async () => {
  const tenant = await installed();
  const { lab } = tenant;
  await lab.run(steps.prepare, 2);
  await lab.run(steps.commit, 2);
  await writeAsGuest(lab, 0xb2, 22 * mebi, 4096);
  await losesPower(tenant);
  assert.equal(lab.seen().vmm, 'Absent');
  await lab.machine().on();
  await booted(tenant, 2);
  assert.equal(lab.disk()[22 * mebi], 0xb2, 'what it flushed on bare metal is there');
  assert.equal(lab.machine().bootedFrom, 'Disk');
  assert.throws(() => lab.give(steps.reimage(environmentOf(tenant.image)), 2), /Conflict/);
});

test(
  'at its end: power that goes while it is drained drains it, and a reset behind the fence starts no guest',
  options,
  async () => {
    const drained = await installed();
    const id = drained.lab.give(steps.drain(), 3);
    await losesPower(drained);
    assert.equal((await drained.lab.agent.ended(id)).status, 'Done');
    assert.equal(drained.lab.seen().record.certificate, undefined);

    const tenant = await installed();
    const { lab } = tenant;
    await lab.run(steps.fence, 3);
    await lab.resetByGuest();
    await until('the boot server was asked, and gave nothing', () => lab.serial().includes('nothing to boot'));
    assert.deepEqual([boots(tenant), lab.seen().guest.state, lab.seen().record.certificate], [1, 'Off', undefined]);
    await lab.run(steps.off, 3);
    assertDisk(tenant);
  },
);

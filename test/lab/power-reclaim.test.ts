/**
 * A machine loses its power while it is reclaimed: in its trusted boot, and while its disks are wiped. No certificate comes of a wipe that was not
 * seen through, and what an earlier tenant left does not run; where a BMC has it run all the same, it certifies nothing. (Once they are wiped: power-check.test.ts.)
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { defaultShape } from '../../agent/drivers/qemu/shape.ts';
import { enrolment, steps } from '../support/agent-room.ts';
import { until } from '../support/until.ts';
import { labOptions } from './needs.ts';
import { imageDirectory } from './one-machine.ts';
import { makeSectorImage } from './sector-image.ts';
import { trustedBootMs, WholeLab } from './whole-lab.ts';

const mebi = 2 ** 20;
/** A full wipe of the first disk, overwritten and read back, takes long enough to be caught. */
const [sda, sdb] = defaultShape.disks;
assert.ok(sda && sdb);
const shape = { ...defaultShape, disks: [{ ...sda, sizeBytes: 192 * mebi }, sdb] };
const fullWipe = { verb: 'wipe', args: { erase: 'Full' } } as const;

test('no certificate without a wipe that was seen through, wherever the power goes', labOptions(400), async (t) => {
  const { trusted } = await buildLabImages(imageDirectory);
  const lab = new WholeLab();
  t.after(() => lab.close());
  await lab.open({ trustedImage: trusted, shape });
  // A tenant's: it would say so on the serial port if it ran.
  const tenants = makeSectorImage(join(lab.directory, 'tenants.raw'), 'TENANT', mebi);
  lab.soil('sda', tenants.bytes);
  lab.soil('sdb');
  const { agent } = lab;
  const losesPower = async (): Promise<void> => {
    await lab.machine().off();
    await until('it is seen', () => agent.seen().power === 'Off');
  };
  const certificate = () => agent.seen().record.certificate;

  // In the trusted boot: the power comes back, the machine boots the same image again, and is attested then.
  await agent.runAll([steps.fence, steps.off], 1);
  const attesting = agent.give(steps.attest, 1);
  await until('it boots', () => lab.machine().power() === 'On');
  await losesPower();
  assert.deepEqual([agent.seen().operation?.status, certificate()], ['Running', undefined]);
  await lab.machine().on();
  assert.equal((await agent.ended(attesting, 'n0', trustedBootMs)).status, 'Done');

  // While it wipes.
  const wiping = agent.give(fullWipe, 1);
  await until('the wipe is under way', () => isBegun(lab.serial()));
  await losesPower();
  const ended = await agent.ended(wiping);
  assert.deepEqual([ended.status, ended.failure?.code], ['Failed', 'WipeFailed']);
  assert.throws(() => agent.give(steps.check, 1), /NotAttested/);
  assert.ok(
    lab.disk('sdb').some((byte) => byte !== 0),
    'the second disk was not wiped',
  );

  // The power comes back by itself: the trusted image again, which nobody attested, so nothing is wiped or certified.
  const before = trustedBoots(lab.serial());
  await lab.machine().on();
  await until('the trusted image is up', () => trustedBoots(lab.serial()) > before, trustedBootMs);
  assert.throws(() => agent.give(steps.wipe, 1), /NotAttested/);
  assert.equal(certificate(), undefined);
  assert.ok(!lab.serial().includes(tenants.marker), 'nothing of an earlier tenant ran');
});

test(
  'a BMC that forgets the boot order: what a tenant left runs behind the fence, and certifies nothing',
  labOptions(400),
  async (t) => {
    const { trusted } = await buildLabImages(imageDirectory);
    const lab = new WholeLab();
    t.after(() => lab.close());
    await lab.open({ trustedImage: trusted });
    const tenants = makeSectorImage(join(lab.directory, 'tenants.raw'), 'TENANT', mebi);
    lab.soil('sda', tenants.bytes);
    const soiled = lab.disk();
    const { agent } = lab;
    lab.misbehaviour().losesOverrideAtReset = true;
    await agent.runAll([steps.fence, steps.off], 1);
    const attesting = agent.give(steps.attest, 1);
    await until('it boots', () => lab.machine().power() === 'On');
    await until("the tenant's disk was booted", () => lab.serial().includes(tenants.marker), trustedBootMs);
    await until('the order that it has is read back', () => agent.seen().boot.order === 'Disk');
    const { operation, record, ports, reclaim } = agent.seen();
    assert.deepEqual([operation?.id, operation?.status, reclaim.attestedNonce], [attesting, 'Running', '']);
    assert.equal(record.certificate, undefined);
    assert.equal(ports.find(({ role }) => role === 'Data')?.domain, 'quarantine');
    assert.throws(() => agent.give(steps.wipe, 1), /NotAttested|Busy|Conflict/);
    assert.ok(lab.disk().equals(soiled), 'nothing was written');

    // Once it does as it is told, the whole reclaim again.
    lab.misbehaviour().losesOverrideAtReset = false;
    const before = lab.serial().length;
    await agent.runAll(enrolment, 2, 'n0', trustedBootMs);
    assert.equal(agent.seen().record.certificate?.epoch, 2);
    assert.ok(lab.disk().every((byte) => byte === 0));
    assert.ok(!lab.serial().slice(before).includes(tenants.marker));
  },
);

const trustedBoots = (serial: string): number => serial.split('TRUSTED up boot=').length - 1;
const isBegun = (serial: string): boolean => /TRUSTED job \d+: wipe\r?\n(?!.*wiped)/.test(serial);

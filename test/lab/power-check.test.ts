/** A machine resets itself, or loses its power, between the wipe of its disks and their check: only one attested boot that did both certifies. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { enrolment, steps } from '../support/agent-room.ts';
import { until } from '../support/until.ts';
import { labOptions } from './needs.ts';
import { imageDirectory } from './one-machine.ts';
import { trustedBootMs, WholeLab } from './whole-lab.ts';

test('a check is of the boot that wiped, or there is none', labOptions(400), async (t) => {
  const { trusted } = await buildLabImages(imageDirectory);
  const lab = new WholeLab();
  t.after(() => lab.close());
  await lab.open({ trustedImage: trusted });
  for (const disk of ['sda', 'sdb']) lab.soil(disk);
  const { agent } = lab;
  await agent.runAll([steps.fence, steps.off, steps.attest, steps.wipe], 1, 'n0', trustedBootMs);
  await lab.machine().reset();
  await until('the attested boot is over', () => agent.seen().reclaim.attestedNonce === '');
  assert.throws(() => agent.give(steps.check, 1), /NotAttested/);
  assert.equal(agent.seen().record.certificate, undefined);

  // Once more, and the power goes at the check itself.
  const [check, ...before] = enrolment.toReversed();
  assert.ok(check);
  await agent.runAll(before.toReversed(), 2, 'n0', trustedBootMs);
  const checking = agent.give(check, 2);
  await lab.machine().off();
  const { status } = await agent.ended(checking);
  // It had passed, and the machine was to be off anyway; or it had not, and nothing is certified.
  assert.equal(status === 'Done', agent.seen().record.certificate?.epoch === 2);
  if (status !== 'Done') await agent.runAll(enrolment, 3, 'n0', trustedBootMs);
  assert.equal(agent.seen().power, 'Off');
  assert.ok((agent.seen().record.certificate?.epoch ?? 0) >= 2);
  for (const disk of ['sda', 'sdb'])
    assert.ok(
      lab.disk(disk).every((byte) => byte === 0),
      `${disk} is wiped`,
    );
});

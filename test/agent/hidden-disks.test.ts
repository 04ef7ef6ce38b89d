/** Disks that somebody hides while the machine is taken back: from the BMC, or from everybody. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentCore } from '../../agent/core.ts';
import type { Power } from '../../agent/drivers/port.ts';
import { simulatedDrivers } from '../../agent/drivers/simulated/drivers.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { AgentRoom, enrolment, steps, tenancy } from '../support/agent-room.ts';

/** The agent starts again, and its BMC shows those disks alone. */
function showOnly(room: AgentRoom, isShown: (name: string) => boolean): void {
  room.core.close();
  const drivers = simulatedDrivers(room.rack);
  const { name, nodes, log, clock, errors } = room;
  const machine: Power['machine'] = (node) => {
    const facts = drivers.power.machine(node);
    return {
      ...facts,
      inventory: { ...facts.inventory, disks: facts.inventory.disks.filter((disk) => isShown(disk.name)) },
    };
  };
  room.core = new AgentCore({
    ...{ name, nodes, log, clock, version: 'test', random: seededRandom(3) },
    drivers: { ...drivers, power: { ...drivers.power, machine } },
    onError: (error) => errors.push(error),
  });
}

test('a disk that was there when the tenant began is missed, until a person decides', async (t) => {
  const room = new AgentRoom();
  t.after(() => room.close());
  await room.runAll(enrolment, 1);
  await room.runAll(tenancy, 2);
  const machine = room.rack.machine('n0');
  const [hidden] = machine.disks.splice(1);
  assert.ok(hidden);
  showOnly(room, (disk) => disk !== hidden.name);
  await room.runAll([steps.fence, steps.off, steps.attest], 3);
  assert.equal(await room.run(steps.wipe, 3), 'Failed');
  assert.match(room.seen().operation?.failure?.message ?? '', new RegExp(`disk ${hidden.serial} was there`));
  assert.equal(room.give(steps.check, { epoch: 3 }).reason, 'NotAllowed');
  assert.ok(room.seen().reclaim.wipedDisks < room.seen().inventory.disks.length, 'the operator must not go on');
  await room.runAll(enrolment, 4);
  assert.deepEqual(room.seen().record.certificate?.disks, [machine.disks[0]?.serial]);
});

test('a BMC that shows no disks makes no machine clean: nothing is checked before a wipe has ended', async (t) => {
  const room = new AgentRoom();
  t.after(() => room.close());
  showOnly(room, () => false);
  await room.runAll(enrolment.slice(0, 3), 1);
  assert.equal(room.give(steps.check, { epoch: 1 }).reason, 'NotAllowed');
  await room.runAll(enrolment.slice(3), 1);
  assert.equal(room.seen().record.certificate?.disks.length, 2);
  assert.deepEqual(room.errors, []);
});

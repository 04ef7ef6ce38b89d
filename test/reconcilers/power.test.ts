/** A machine that is off while a tenant has it: switched on again, shown, and never installed anew. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { cutPower, givePower } from '../../agent/drivers/simulated/power.ts';
import type { SimulatedRack } from '../../agent/drivers/simulated/rack.ts';
import { physicalNodes } from '../../controller/api/meta.ts';
import type { NodeAllocation } from '../../controller/api/types.generated.ts';
import { MachineHall } from '../support/machine-hall.ts';

const hour = 3_600_000;
const name = 'r0n0';

const condition = (hall: MachineHall, type: string) =>
  hall.seen('job')?.status?.conditions?.find((one) => one.type === type);
const settled = (hall: MachineHall): boolean =>
  condition(hall, 'Reconciling')?.status === 'False' && condition(hall, 'Ready')?.status === 'True';
const node = (hall: MachineHall) => hall.nodes().find(({ metadata }) => metadata.name === name);
const count = (hall: MachineHall, event: string): number => hall.history(name, event);

async function hallWith(change: Partial<NodeAllocation['spec']> = {}) {
  const hall = new MachineHall({ r0: name });
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  await hall.environment('rocky');
  await hall.allocation('job', 'rocky', 1, change);
  const rack = hall.racks.get('r0')?.rack as SimulatedRack;
  return { hall, rack, machine: () => rack.machine(name) };
}

test('a devirtualized node that lost its power is switched on from its own disk, and shows meanwhile that it is off', async () => {
  const { hall, rack, machine } = await hallWith();
  await hall.clock.runUntil(() => settled(hall));
  const imaged = count(hall, 'imaged');
  const guests = count(hall, 'guest');
  cutPower(rack, machine());
  await hall.clock.runUntil(() => condition(hall, 'Ready')?.status === 'False');
  assert.match(condition(hall, 'Ready')?.message ?? '', /switched off: r0n0/);
  assert.equal(hall.seen('job')?.status?.ready, 0);
  assert.equal(node(hall)?.status?.observed?.power, 'Off');
  await hall.clock.runUntil(() => settled(hall) && machine().power === 'On');
  await hall.clock.runUntil(() => count(hall, 'guest') === guests + 1);
  assert.deepEqual([node(hall)?.status?.observed?.power, node(hall)?.status?.message], ['On', undefined]);
  assert.equal(count(hall, 'imaged'), imaged);
  assert.equal(node(hall)?.status?.claim?.epoch, 2);
  const writes = hall.totalWrites();
  await hall.clock.advance(hour);
  assert.equal(hall.totalWrites(), writes, 'nothing is written at rest');
  await hall.stop();
});

test('one that loses power while it streams goes on where it was', async () => {
  const { hall, rack, machine } = await hallWith();
  await hall.clock.runUntil(() => (hall.operator?.fleet.lastFactsOf(name)?.copy.localBytes ?? 0) > 0);
  cutPower(rack, machine());
  await hall.clock.runUntil(() => machine().power === 'On');
  await hall.clock.runUntil(() => settled(hall));
  assert.deepEqual([count(hall, 'imaged'), node(hall)?.status?.claim?.epoch], [1, 2]);
  assert.equal(hall.inState('BareMetal'), 1);
  await hall.stop();
});

test('under maintenance, or with its allocation suspended, a machine stays off, and says why', async () => {
  const { hall, rack, machine } = await hallWith();
  await hall.clock.runUntil(() => settled(hall));
  const maintain = (maintenance: unknown) =>
    hall.kube.patch(physicalNodes, { name }, { spec: { maintenance } }, { type: 'merge' });
  await maintain({ reason: 'a new fan' });
  cutPower(rack, machine());
  await hall.clock.advance(hour);
  assert.equal(machine().power, 'Off');
  assert.equal(condition(hall, 'Stalled')?.reason, 'NodeOff');
  await hall.edit('job', { spec: { suspend: true } });
  await maintain(null);
  await hall.clock.advance(hour);
  assert.equal(machine().power, 'Off');
  assert.match(condition(hall, 'Stalled')?.message ?? '', /suspended/);
  await hall.edit('job', { spec: { suspend: false } });
  await hall.clock.runUntil(() => settled(hall) && machine().power === 'On');
  await hall.stop();
});

test('a machine that does not come on has failed in use, and one that comes on by hand has not', async () => {
  const { hall, rack, machine } = await hallWith();
  await hall.clock.runUntil(() => settled(hall));
  const wiped = count(hall, 'wiped');
  cutPower(rack, machine());
  await hall.clock.runUntil(() => {
    hall.failNext(name, 'power');
    return condition(hall, 'Stalled')?.reason === 'NodesFailed';
  }, 24 * hour);
  assert.equal(node(hall)?.status?.lastError?.code, 'PowerFailed');
  assert.equal(count(hall, 'wiped'), wiped);
  givePower(rack, machine());
  await hall.clock.runUntil(() => settled(hall));
  assert.equal(node(hall)?.status?.lastError, undefined);
  await hall.stop();
});

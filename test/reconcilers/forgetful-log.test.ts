/** An agent whose log went back in time (a backup, a disk that lied) while its machines went on. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MemoryLog } from '../../agent/log.ts';
import type { PhysicalNode } from '../../controller/api/types.generated.ts';
import { MachineHall } from '../support/machine-hall.ts';

const hour = 3_600_000;
const statusOf = (hall: MachineHall, name: string): NonNullable<PhysicalNode['status']> =>
  hall.nodes().find((node) => node.metadata.name === name)?.status ?? {};

for (const [state, devirtualize] of [
  ['Streaming', 'WhenInstalled'],
  ['Resident', 'Never'],
  ['BareMetal', 'WhenInstalled'],
] as const) {
  test(`a log that went back to before the tenancy re-images no guest that is ${state}`, async () => {
    const hall = new MachineHall({ r0: 'r0n[0-1]' });
    await hall.addAgents();
    await hall.start();
    await hall.clock.runUntil(() => hall.inState('Available') === 2);
    const rack = hall.racks.get('r0');
    assert.ok(rack);
    const rows = structuredClone(rack.log.load());
    const term = rack.log.highestTerm();
    await hall.environment('rocky');
    await hall.allocation('job', 'rocky', 1, { devirtualize });
    const claimed = (): string => hall.nodes().find((node) => node.status?.claim)?.metadata.name ?? '';
    await hall.clock.runUntil(() => claimed() !== '' && hall.operator?.fleet.stateOf(claimed()) === state);
    const name = claimed();
    const before = rack.rack.history().length;
    const older = new MemoryLog(rack.storeId);
    older.write(rows, term);
    Object.assign(rack, { log: older });
    hall.restartAgent('r0');
    await hall.clock.advance(24 * hour);
    const since = rack.rack
      .history()
      .slice(before)
      .filter(({ node, event }) => node === name && ['imaged', 'wiped', 'power'].includes(event));
    assert.deepEqual(since, []);
    assert.match(statusOf(hall, name).state ?? '', /Quarantined|Orphaned/);
    await hall.crash();
    // Its tenant switches it off: now nothing on the machine speaks of a guest any more.
    rack.rack.cutPower(rack.rack.machine(name));
    hall.restartAgent('r0');
    await hall.clock.advance(24 * hour);
    const imagedOrWiped = rack.rack
      .history()
      .slice(before)
      .filter(({ node, event }) => node === name && (event === 'imaged' || event === 'wiped'));
    assert.deepEqual(imagedOrWiped, []);
    assert.match(statusOf(hall, name).state ?? '', /Quarantined|Orphaned/);
    await hall.stop();
  });
}

test('a log that went back to before the start of its own tenancy has no node given up, and re-images none', async () => {
  const hall = new MachineHall({ r0: 'r0n[0-1]' });
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === 2);
  const rack = hall.racks.get('r0');
  assert.ok(rack);
  await hall.environment('rocky');
  await hall.allocation('job', 'rocky', 1, { failurePolicy: 'Report' });
  const claimed = (): string => hall.nodes().find((node) => node.status?.claim)?.metadata.name ?? '';
  const rowOf = () => rack.log.load().find(({ node }) => node === claimed());
  await hall.clock.runUntil(() => rowOf()?.operation?.instruction.verb === 'reimage');
  const name = claimed();
  assert.equal(rowOf()?.guestStarted, false);
  const rows = structuredClone(rack.log.load());
  const term = rack.log.highestTerm();
  await hall.clock.runUntil(() => hall.operator?.fleet.stateOf(name) === 'Streaming');
  const before = rack.rack.history().length;
  const older = new MemoryLog(rack.storeId);
  older.write(rows, term);
  Object.assign(rack, { log: older });
  hall.restartAgent('r0');
  await hall.clock.advance(hour);
  const ending = () => hall.seen('job')?.status?.ending;
  assert.equal(ending(), undefined);
  assert.equal(statusOf(hall, name).state, 'Quarantined');
  rack.rack.cutPower(rack.rack.machine(name));
  hall.restartAgent('r0');
  await hall.clock.advance(24 * hour);
  const imagedOrWiped = rack.rack
    .history()
    .slice(before)
    .filter(({ node, event }) => node === name && (event === 'imaged' || event === 'wiped'));
  assert.deepEqual(imagedOrWiped, []);
  assert.equal(ending(), undefined);
  assert.equal(statusOf(hall, name).state, 'Quarantined');
  await hall.stop();
});

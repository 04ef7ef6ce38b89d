/** An agent whose log went back in time (a backup, a disk that lied) while its machines went on. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MemoryLog } from '../../agent/log.ts';
import type { Row } from '../../agent/row.ts';
import type { PhysicalNode } from '../../controller/api/types.generated.ts';
import { MachineHall } from '../support/machine-hall.ts';

const hour = 3_600_000;
const statusOf = (hall: MachineHall, name: string): NonNullable<PhysicalNode['status']> =>
  hall.nodes().find((node) => node.metadata.name === name)?.status ?? {};

type Rack = NonNullable<ReturnType<MachineHall['racks']['get']>>;

interface Two {
  readonly hall: MachineHall;
  readonly rack: Rack;
  /** Name of the node that is claimed; empty: none is. */
  claimed(): string;
}

/** A rack of two nodes that are available, and an environment for them. */
async function twoNodes(): Promise<Two> {
  const hall = new MachineHall({ r0: 'r0n[0-1]' });
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === 2);
  await hall.environment('rocky');
  const rack = hall.racks.get('r0');
  assert.ok(rack);
  return { hall, rack, claimed: () => hall.nodes().find((node) => node.status?.claim)?.metadata.name ?? '' };
}

interface Backup {
  readonly rows: readonly Row[];
  readonly term: number;
}

const backupOf = (log: MemoryLog): Backup => ({ rows: structuredClone(log.load()), term: log.highestTerm() });

/** The agent starts again with the log as it was then. */
function restore(hall: MachineHall, rack: Rack, { rows, term }: Backup): void {
  const older = new MemoryLog(rack.storeId);
  older.write(rows, term);
  Object.assign(rack, { log: older });
  hall.restartAgent('r0');
}

/** From now on. @returns what happened to the node, of these kinds */
function eventsSince({ rack }: Rack, name: string): (...kinds: readonly string[]) => object[] {
  const before = rack.history().length;
  return (...kinds) =>
    rack
      .history()
      .slice(before)
      .filter(({ node, event }) => node === name && kinds.includes(event));
}

for (const [state, devirtualize] of [
  ['Streaming', 'WhenInstalled'],
  ['Resident', 'Never'],
  ['BareMetal', 'WhenInstalled'],
] as const) {
  test(`a log that went back to before the tenancy re-images no guest that is ${state}`, async () => {
    const { hall, rack, claimed } = await twoNodes();
    const backup = backupOf(rack.log);
    await hall.allocation('job', 'rocky', 1, { devirtualize });
    await hall.clock.runUntil(() => claimed() !== '' && hall.operator?.fleet.stateOf(claimed()) === state);
    const name = claimed();
    const since = eventsSince(rack, name);
    restore(hall, rack, backup);
    await hall.clock.advance(24 * hour);
    assert.deepEqual(since('imaged', 'wiped', 'power'), []);
    assert.match(statusOf(hall, name).state ?? '', /Quarantined|Orphaned/);
    await hall.crash();
    // Its tenant switches it off: now nothing on the machine speaks of a guest any more.
    rack.rack.cutPower(rack.rack.machine(name));
    hall.restartAgent('r0');
    await hall.clock.advance(24 * hour);
    assert.deepEqual(since('imaged', 'wiped'), []);
    assert.match(statusOf(hall, name).state ?? '', /Quarantined|Orphaned/);
    await hall.stop();
  });
}

test('a log that went back to before the start of its own tenancy has no node given up, and re-images none', async () => {
  const { hall, rack, claimed } = await twoNodes();
  await hall.allocation('job', 'rocky', 1, { failurePolicy: 'Report' });
  const rowOf = () => rack.log.load().find(({ node }) => node === claimed());
  await hall.clock.runUntil(() => rowOf()?.operation?.instruction.verb === 'reimage');
  const name = claimed();
  assert.equal(rowOf()?.guestStarted, false);
  const backup = backupOf(rack.log);
  await hall.clock.runUntil(() => hall.operator?.fleet.stateOf(name) === 'Streaming');
  const since = eventsSince(rack, name);
  restore(hall, rack, backup);
  await hall.clock.advance(hour);
  const ending = () => hall.seen('job')?.status?.ending;
  assert.equal(ending(), undefined);
  assert.equal(statusOf(hall, name).state, 'Quarantined');
  rack.rack.cutPower(rack.rack.machine(name));
  hall.restartAgent('r0');
  await hall.clock.advance(24 * hour);
  assert.deepEqual(since('imaged', 'wiped'), []);
  assert.equal(ending(), undefined);
  assert.equal(statusOf(hall, name).state, 'Quarantined');
  await hall.stop();
});

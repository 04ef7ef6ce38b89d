/**
 * Databases that lost their last writes, or hold rubbish: what starts from them is at an older state or not at all, and in no case
 * is a tenant's machine imaged, wiped or switched off.
 */
import assert from 'node:assert/strict';
import { cpSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, test } from 'node:test';
import { scribbleOverLog, scribbleOverPages, tearLog } from '../../support/torn-file.ts';
import { Plant } from './plant.ts';

let plant: Plant;
afterEach(() => plant.stop());

const touching = new Set(['imaged', 'wiped', 'power', 'guest', 'port', 'devirtualized']);

/** Two nodes of a tenant run, and operator and API server are gone. */
async function stopped(): Promise<{ nodes: string[]; touched: () => string[]; database: string }> {
  plant = await Plant.start();
  await plant.allocate('job', 2);
  await plant.settled('job');
  const nodes = await plant.claimed('job');
  await plant.service('one').end('SIGTERM');
  await plant.service('api').end('SIGKILL');
  const before = plant.history().length;
  const touched = (): string[] =>
    plant
      .history()
      .slice(before)
      .filter(({ node, event }) => nodes.includes(node) && touching.has(event))
      .map(({ node, event, detail }) => `${node} ${event} ${JSON.stringify(detail)}`);
  return { nodes, touched, database: join(plant.apiDir, 'objects.sqlite') };
}

/** The states of the nodes, once each was looked at: none may be between states that only last for a moment. */
async function states(nodes: readonly string[]): Promise<Map<string, string | undefined>> {
  const found = await plant.nodes();
  return new Map(nodes.map((name) => [name, found.find((node) => node.metadata.name === name)?.status?.state]));
}

const held = (state: string | undefined): boolean => state === 'Orphaned' || state === 'Quarantined';

for (const [how, tear] of [
  ['cut at 95 %', (path: string) => tearLog(path, 0.95)],
  ['cut at 60 %', (path: string) => tearLog(path, 0.6)],
  ['overwritten from 30 % on', (path: string) => scribbleOverLog(path, 0.3)],
] as const) {
  test(`the API server's log is ${how}: its objects are older, tenants run on, conflicts are shown`, async () => {
    const { nodes, touched, database } = await stopped();
    tear(database);
    plant.startApi();
    plant.startOperator('one');
    // What the site is made of may be lost as well: a person applies it again.
    await plant.describe();
    await plant.until('every machine of the tenant runs on as its own, or is held', async () => {
      const now = await states(nodes);
      return [...now.values()].every((state) => state === 'BareMetal' || held(state));
    });
    assert.deepEqual(touched(), []);
  });
}

test("rubbish in the API server's database is refused with a sentence, and a backup of before the tenancy wipes nobody", async () => {
  plant = await Plant.start();
  await plant.service('one').end('SIGTERM');
  await plant.service('api').end('SIGKILL');
  const backup = plant.path('backup');
  cpSync(plant.apiDir, backup, { recursive: true });
  plant.startApi();
  plant.startOperator('one');
  await plant.allocate('job', 2);
  await plant.settled('job');
  const nodes = await plant.claimed('job');
  const before = plant.history().length;
  await plant.service('one').end('SIGTERM');
  await plant.service('api').end('SIGKILL');
  assert.ok(scribbleOverPages(join(plant.apiDir, 'objects.sqlite'), 'PhysicalNode') > 0);
  const api = plant.startApi();
  assert.equal(await api.ended, 1);
  assert.match(api.output, /objects\.sqlite: it is damaged .*restore a backup/);
  renameSync(plant.apiDir, plant.path('damaged'));
  cpSync(backup, plant.apiDir, { recursive: true });
  plant.startApi();
  plant.startOperator('one');
  await plant.until('the machines are held', async () => [...(await states(nodes)).values()].every(held));
  assert.deepEqual(
    plant
      .history()
      .slice(before)
      .filter(({ event }) => touching.has(event)),
    [],
  );
});

test("an agent's log that lost its last records is shown as a conflict, and the guests run on", async () => {
  plant = await Plant.start();
  await plant.allocate('job', 2);
  await plant.settled('job');
  const nodes = await plant.claimed('job');
  await plant.service('agents').end('SIGKILL');
  const before = plant.history().length;
  // So early that nothing of the tenancy is left in it.
  tearLog(join(plant.agentsDir, 'p0', 'log.sqlite'), 0.15);
  plant.startAgents();
  await plant.until('they are held', async () => [...(await states(nodes)).values()].every(held));
  assert.deepEqual(
    plant
      .history()
      .slice(before)
      .filter(({ node, event }) => nodes.includes(node) && touching.has(event)),
    [],
  );
});

test("rubbish in an agent's log is refused with a sentence", async () => {
  plant = await Plant.start();
  await plant.service('agents').end('SIGKILL');
  assert.ok(scribbleOverPages(join(plant.agentsDir, 'p0', 'log.sqlite'), 'p0n1') > 0);
  const agents = plant.startAgents();
  assert.equal(await agents.ended, 1);
  assert.match(agents.output, /agent p0 did not start: .*log\.sqlite is damaged .*restore a backup/);
});

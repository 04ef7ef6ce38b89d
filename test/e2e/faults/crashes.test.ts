/** API server and agents that are killed at any moment, with work under way. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Plant } from './plant.ts';

let plant: Plant;
before(async () => {
  plant = await Plant.start({ racks: { p0: 'p0n[0-3]', p1: 'p1n[0-3]' } });
  // On a busy machine the API server is away for longer than a leader may go on without it.
  plant.supervise('one');
});
after(() => plant.stop());

const everyOnce = (event: 'imaged', nodes: readonly string[], before: ReadonlyMap<string, number>): void => {
  const counted = plant.counts(event);
  for (const name of nodes) assert.equal(counted.get(name), (before.get(name) ?? 0) + 1, `${name} ${event}`);
};

test('the API server is killed again and again while an allocation starts and ends: nothing is imaged or wiped twice', async () => {
  const wiped = plant.counts('wiped');
  await plant.allocate('job', 6);
  for (const atLeast of ['replicas', 'ready', 'devirtualized'] as const) {
    await plant.until(`job counts ${atLeast}`, async () => {
      const { status } = (await plant.allocation('job')) ?? {};
      return (status?.[atLeast] ?? 0) > 0;
    });
    assert.equal(await plant.service('api').end('SIGKILL'), 'SIGKILL');
    plant.startApi();
  }
  await plant.settled('job');
  const nodes = await plant.claimed('job');
  assert.equal(nodes.length, 6);
  everyOnce('imaged', nodes, new Map());
  assert.deepEqual(plant.counts('wiped'), wiped);
  await plant.release('job');
  await plant.until('an end is recorded', async () => (await plant.nodes()).some(({ status }) => status?.end));
  await plant.service('api').end('SIGKILL');
  plant.startApi();
  await plant.until('all are Available', async () => (await plant.inState('Available')) === 8);
  for (const [name, count] of plant.counts('wiped')) {
    const disks = wiped.get(name) ?? 0;
    assert.equal(count, nodes.includes(name) ? disks * 2 : disks, name);
  }
});

test('the agents are killed in the middle of imaging and of wiping, and go on from their log', async () => {
  const [imaged, wiped] = [plant.counts('imaged'), plant.counts('wiped')];
  await plant.allocate('job', 6);
  await plant.until('some are imaged', () => plant.counts('imaged').size > 0 && more('imaged', imaged));
  await plant.service('agents').end('SIGKILL');
  plant.startAgents();
  await plant.settled('job');
  const nodes = await plant.claimed('job');
  everyOnce('imaged', nodes, imaged);
  await plant.release('job');
  await plant.until('a disk was wiped', () => more('wiped', wiped));
  await plant.service('agents').end('SIGKILL');
  plant.startAgents();
  await plant.until('all are Available', async () => (await plant.inState('Available')) === 8);
  const again = plant.counts('wiped');
  // A wipe that was cut off begins anew: that is once more for a disk, and never for a node of nobody's end.
  for (const name of again.keys())
    if (!nodes.includes(name)) assert.equal(again.get(name), wiped.get(name), `${name} was nobody's, and was wiped`);
});

function more(event: 'imaged' | 'wiped', before: ReadonlyMap<string, number>): boolean {
  return [...plant.counts(event)].some(([name, count]) => count > (before.get(name) ?? 0));
}

test('an agent paused for longer than its heartbeat is shown as unreachable, tenants run on, and it comes back by itself', async () => {
  await plant.allocate('long', 2);
  await plant.settled('long');
  const before = plant.history().length;
  plant.service('agents').signal('SIGSTOP');
  const readiness = async (): Promise<string | undefined> =>
    (await plant.agent('p0'))?.status?.conditions?.find(({ type }) => type === 'Ready')?.reason;
  await plant.until('the rack is not ready', async () => (await readiness()) === 'Unavailable');
  assert.equal((await plant.allocation('long'))?.status?.ready, 2, 'silence changes no number');
  plant.service('agents').signal('SIGCONT');
  await plant.until('the rack is ready', async () => (await readiness()) === 'Connected');
  assert.equal(plant.history().length, before);
  assert.equal((await plant.claimed('long')).length, 2);
});

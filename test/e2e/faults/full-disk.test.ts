/** Disks that fill up under the API server's store and under an agent's log, and have space again. */
import assert from 'node:assert/strict';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { namespaces } from '../../../controller/api/meta.ts';
import { KubeError } from '../../../controller/kube/port.ts';
import { counterpart } from '../../support/counterpart.ts';
import { canMount, SmallDisk } from '../../support/small-disk.ts';
import { Site } from '../site-process.ts';
import { Plant } from './plant.ts';

const tmpfs = counterpart('tmpfs', canMount, 'run as root, who can mount one');

const more = `apiVersion: bitvisor.io/v1alpha1
kind: NodeAllocation
metadata: { name: more, namespace: lab }
spec: { environmentRef: { name: rocky }, replicas: 1 }
`;

const namespaceNamed = (name: string): { apiVersion: string; kind: string; metadata: { name: string } } => {
  return { apiVersion: 'v1', kind: 'Namespace', metadata: { name } };
};

describe("the API server's disk is full", tmpfs, () => {
  let disk: SmallDisk;
  let plant: Plant;
  before(async () => {
    disk = new SmallDisk(24);
    plant = await Plant.start({ apiDir: join(disk.directory, 'api') });
  });
  after(async () => {
    await plant?.stop();
    disk?.remove();
  });

  test('it refuses changes and says why, answers reads, loses nothing that it answered, and goes on with space', async () => {
    await plant.allocate('job', 2);
    await plant.settled('job');
    const client = await plant.client();
    disk.fill();
    const made: string[] = [];
    let refusal: unknown;
    await plant.until('a change is refused', async () => {
      const name = `filler-${made.length}`;
      try {
        await client.create(namespaces, namespaceNamed(name));
        made.push(name);
        return false;
      } catch (error) {
        refusal = error;
        return true;
      }
    });
    assert.ok(refusal instanceof KubeError);
    assert.match(refusal.message, /the disk of the data directory is full/);
    assert.equal((await plant.nodes()).length, 4, 'reads are answered');
    assert.equal(plant.service('api').isRunning, true);
    const before = plant.history().length;
    // The leader cannot renew its Lease: it ends rather than act without records.
    assert.equal(await plant.service('one').ended, 1);
    disk.free();
    plant.startOperator('one');
    await plant.allocate('more', 1);
    await plant.settled('more');
    for (const name of made) await client.get(namespaces, { name });
    assert.equal((await plant.claimed('job')).length, 2);
    const since = plant.history().slice(before);
    const touched = new Set(since.map(({ node }) => node));
    for (const name of await plant.claimed('job')) assert.ok(!touched.has(name), `${name} was touched`);
  });

  test('killed on the full disk it starts again, with all that it answered', async () => {
    disk.fill();
    const names = (await plant.nodes()).map((node) => node.metadata.name);
    await plant.service('api').end('SIGKILL');
    plant.startApi();
    await plant.until('it answers, or says why not', async () => {
      if (!plant.service('api').isRunning) return true;
      return (await plant.nodes()).length === names.length;
    });
    if (!plant.service('api').isRunning) {
      assert.match(plant.service('api').output, /full|no space|ENOSPC/i);
      disk.free();
      plant.startApi();
    } else disk.free();
    await plant.until('all nodes are there', async () => (await plant.nodes()).length === names.length);
    if (!plant.service('one').isRunning) plant.startOperator('one');
    await plant.settled('job');
  });
});

describe("an agent's disk is full", tmpfs, () => {
  let disk: SmallDisk;
  let plant: Plant;
  before(async () => {
    disk = new SmallDisk(4);
    const agentsDir = join(disk.directory, '..', `${disk.directory.split('/').at(-1)}-racks`);
    mkdirSync(join(agentsDir, 'p0'), { recursive: true });
    // The log alone: the simulated machines keep theirs elsewhere.
    symlinkSync(join(disk.directory, 'log.sqlite'), join(agentsDir, 'p0', 'log.sqlite'));
    plant = await Plant.start({ agentsDir });
  });
  after(async () => {
    await plant?.stop();
    disk?.remove();
  });

  test('it accepts nothing, does nothing to a machine, says so, and goes on with space', async () => {
    await plant.allocate('job', 1);
    await plant.settled('job');
    disk.fill();
    const before = plant.history().length;
    await plant.allocate('more', 2);
    await plant.until('the claims stand', async () => (await plant.claimed('more')).length === 2);
    await plant.until('the agent says it', () => /full/i.test(plant.service('agents').output));
    const imaged = plant
      .history()
      .slice(before)
      .filter(({ event }) => event === 'imaged' || event === 'guest');
    assert.deepEqual(imaged, []);
    assert.equal(plant.service('agents').isRunning, true);
    disk.free();
    await plant.settled('more');
    for (const name of await plant.claimed('more')) assert.equal(plant.counts('imaged').get(name), 1);
  });
});

describe('the disk of a whole site is full', tmpfs, () => {
  let disk: SmallDisk;
  let site: Site;
  before(() => {
    disk = new SmallDisk(64);
    site = new Site(join(disk.directory, 'data'));
    site.start();
  });
  after(async () => {
    await site.end('SIGKILL');
    disk.remove();
  });

  test('npm start refuses what finds no room, its own log without room notwithstanding, and follows commits again with space', async () => {
    await site.settled('first');
    const imaged = site.history().filter(({ event }) => event === 'imaged').length;
    disk.fill();
    // Small changes go into room that the store has already: larger ones use it up.
    let made = 0;
    await site.until('a change is refused', async (client) => {
      const annotations = { text: 'x'.repeat(100_000) };
      const metadata = { name: `filler-${made++}`, annotations };
      return client.create(namespaces, { ...namespaceNamed(''), metadata }).then(
        () => false,
        (error: unknown) => error instanceof KubeError && /is full/.test(error.message),
      );
    });
    assert.equal((await site.nodes()).length, 12);
    disk.free();
    writeFileSync(join(site.repository, 'more.yaml'), more);
    site.commit('More');
    await site.settled('more');
    await site.settled('first');
    assert.equal(site.history().filter(({ event }) => event === 'imaged').length, imaged + 1);
  });
});

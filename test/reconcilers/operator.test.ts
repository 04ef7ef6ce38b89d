import assert from 'node:assert/strict';
import { test } from 'node:test';
import { computeEnvironments, nodeAllocations } from '../../controller/api/meta.ts';
import { confirmDeletionAnnotation } from '../../controller/domain/allocation-draft.ts';
import { MachineHall, testRoom } from '../support/machine-hall.ts';

const truth = (hall: MachineHall, name: string, type: string): string | undefined =>
  hall.seen(name)?.status?.conditions?.find((condition) => condition.type === type)?.status;
const reason = (hall: MachineHall, name: string, type: string): string | undefined =>
  hall.seen(name)?.status?.conditions?.find((condition) => condition.type === type)?.reason;
const settled = (hall: MachineHall, name: string): boolean =>
  truth(hall, name, 'Reconciling') === 'False' && truth(hall, name, 'Ready') === 'True';
const remove = (hall: MachineHall, name: string): Promise<void> =>
  hall.kube.delete(nodeAllocations, { namespace: 'cfd', name });
const claimedNames = (hall: MachineHall): string[] =>
  hall.nodes().flatMap((node) => (node.status?.claim ? [node.metadata.name] : []));

async function hallWith(nodes: number, room = testRoom): Promise<MachineHall> {
  const hall = new MachineHall({ r0: `r0n[0-${nodes - 1}]` }, room);
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === nodes);
  await hall.environment('rocky');
  return hall;
}

async function running(nodes: number, replicas: number, change = {}): Promise<MachineHall> {
  const hall = await hallWith(nodes);
  await hall.allocation('job', 'rocky', replicas, change);
  await hall.clock.runUntil(() => settled(hall, 'job'));
  return hall;
}

test('an allocation becomes bare metal, and its deletion gives the nodes back clean, within five writes a node', async () => {
  const hall = await hallWith(4);
  hall.writes.clear();
  await hall.allocation('job', 'rocky', 3);
  await hall.clock.runUntil(() => settled(hall, 'job'));
  assert.equal(hall.inState('BareMetal'), 3);
  const names = claimedNames(hall);
  for (const name of names) assert.equal(hall.history(name, 'imaged'), 1);
  await remove(hall, 'job');
  await hall.clock.runUntil(() => hall.seen('job') === undefined && hall.inState('Available') === 4);
  for (const name of names) {
    const writes = hall.writes.get(`PhysicalNode/${name}`) ?? 0;
    assert.ok(writes <= 5, `${name}: ${writes} writes for a whole tenancy`);
  }
  assert.deepEqual(hall.errors, []);
  await hall.stop();
});

test('at rest nothing is written', async () => {
  const hall = await running(4, 3);
  await hall.clock.advance(60_000);
  const before = hall.totalWrites();
  await hall.clock.advance(24 * 3_600_000);
  assert.equal(hall.totalWrites() - before, 0, JSON.stringify([...hall.writes]));
  await hall.stop();
});

test('a crash of the operator at any moment of a tenancy re-images nothing and wipes nothing twice', async () => {
  for (let crashAfterMs = 500; crashAfterMs < 240_000; crashAfterMs += 8_500) {
    const hall = await hallWith(3);
    const wiped = hall.nodes().map((node) => hall.history(node.metadata.name, 'wiped'));
    await hall.allocation('job', 'rocky', 2);
    await hall.clock.advance(crashAfterMs);
    await hall.crash();
    await hall.clock.runUntil(() => settled(hall, 'job'));
    for (const name of claimedNames(hall))
      assert.equal(hall.history(name, 'imaged'), 1, `${name} after ${crashAfterMs} ms`);
    assert.equal(claimedNames(hall).length, 2);
    assert.deepEqual(
      hall.nodes().map((node) => hall.history(node.metadata.name, 'wiped')),
      wiped,
    );
    await remove(hall, 'job');
    await hall.clock.advance(300_000 + crashAfterMs);
    await hall.crash();
    await hall.clock.runUntil(() => hall.seen('job') === undefined && hall.inState('Available') === 3);
    await hall.stop();
  }
});

test('a scale-down gives back the named nodes first, a scale-up stays near', async () => {
  const hall = await running(6, 4);
  const [named = ''] = claimedNames(hall).slice(1);
  await hall.edit('job', { spec: { replicas: 2, release: named } });
  await hall.clock.runUntil(() => settled(hall, 'job') && hall.inState('Available') === 4);
  assert.ok(!claimedNames(hall).includes(named));
  await hall.edit('job', { spec: { replicas: 5, release: null } });
  await hall.clock.runUntil(() => settled(hall, 'job') && hall.seen('job')?.status?.devirtualized === 5);
  await hall.stop();
});

test('somebody else changes the environment: the job stays; its owner asks: it rolls one node at a time', async () => {
  const hall = await running(4, 3);
  const image = {
    url: 'https://images.example/new.raw',
    size: '8Gi',
    format: 'Raw',
    sha256: hall.digestOf('https://images.example/new.raw'),
  };
  await hall.kube.patch(
    computeEnvironments,
    { namespace: 'cfd', name: 'rocky' },
    { spec: { image } },
    { type: 'merge' },
  );
  await hall.clock.runUntil(() => truth(hall, 'job', 'UpdateAvailable') === 'True');
  await hall.clock.advance(3_600_000);
  assert.equal(hall.seen('job')?.status?.devirtualized, 3);
  for (const name of claimedNames(hall)) assert.equal(hall.history(name, 'imaged'), 1);
  await hall.edit('job', { spec: { update: { revision: hall.seen('job')?.status?.updateRevision } } });
  let least = 3;
  await hall.clock.runUntil(() => {
    least = Math.min(least, hall.seen('job')?.status?.ready ?? 3);
    const revisions = hall.nodes().map((node) => node.status?.claim?.revision);
    return (
      settled(hall, 'job') &&
      revisions.filter((revision) => revision === hall.seen('job')?.status?.revision).length === 3 &&
      hall.seen('job')?.status?.devirtualized === 3
    );
  });
  assert.ok(least >= 2, `${least} nodes ran at the worst moment`);
  for (const name of claimedNames(hall)) assert.equal(hall.history(name, 'imaged'), 2);
  await hall.stop();
});

test('an allocation ends after its duration and its grace, and an extension in between saves it', async () => {
  const hall = await running(3, 2, { schedule: { duration: '1h' } });
  await hall.clock.advance(61 * 60_000);
  assert.equal(hall.inState('BareMetal'), 2);
  await hall.edit('job', { spec: { schedule: { duration: '2h' } } });
  await hall.clock.advance(30 * 60_000);
  assert.equal(hall.inState('BareMetal'), 2);
  await hall.clock.runUntil(() => hall.inState('Available') === 3);
  assert.equal(hall.seen('job')?.status?.phase, 'Expired');
  await hall.stop();
});

test('Retain leaves the nodes running without an owner; the same name and revision adopts them without a reboot', async () => {
  const hall = await running(3, 2, { deletionPolicy: 'Retain' });
  const names = claimedNames(hall);
  await remove(hall, 'job');
  await hall.clock.runUntil(() => hall.seen('job') === undefined && hall.inState('Orphaned') === 2);
  await hall.clock.advance(3_600_000);
  await hall.allocation('job', 'rocky', 2);
  await hall.clock.runUntil(() => settled(hall, 'job') && hall.inState('BareMetal') === 2);
  assert.deepEqual(claimedNames(hall), names);
  for (const name of names)
    assert.deepEqual([hall.history(name, 'imaged'), hall.history(name, 'wiped')], [1, hall.history(name, 'wiped')]);
  await hall.stop();
});

test('an allocation that vanished with its finalizer dropped is orphaned, and only a person ends it', async () => {
  const hall = await running(2, 1);
  const [name = ''] = claimedNames(hall);
  const wiped = hall.history(name, 'wiped');
  await hall.edit('job', { metadata: { finalizers: null } });
  await remove(hall, 'job');
  await hall.clock.runUntil(() => hall.inState('Orphaned') === 1);
  await hall.clock.advance(24 * 3_600_000);
  assert.equal(hall.history(name, 'wiped'), wiped);
  const epoch = hall.nodes().find((node) => node.metadata.name === name)?.status?.epoch;
  await hall.decide(name, { spec: { decision: { action: 'End', epoch, reason: 'the project is over' } } });
  await hall.clock.runUntil(() => hall.inState('Available') === 2);
  await hall.stop();
});

test('many deletions at once wait for a confirmation', async () => {
  const hall = await hallWith(5);
  for (const name of ['a', 'b', 'c', 'd', 'e']) await hall.allocation(name, 'rocky', 1);
  await hall.clock.runUntil(() => ['a', 'b', 'c', 'd', 'e'].every((name) => settled(hall, name)));
  for (const name of ['a', 'b', 'c', 'd', 'e']) await remove(hall, name);
  await hall.clock.advance(3_600_000);
  assert.equal(hall.inState('BareMetal'), 5);
  assert.equal(reason(hall, 'a', 'Stalled'), 'DeletionHeld');
  const uid = hall.seen('a')?.metadata.uid;
  await hall.edit('a', { metadata: { annotations: { [confirmDeletionAnnotation]: uid } } });
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  await hall.clock.advance(3_600_000);
  assert.equal(hall.inState('BareMetal'), 4);
  await hall.stop();
});

test('many deletions wait for a confirmation also where the operator was restarted between them', async () => {
  const hall = await hallWith(8);
  const names = ['a', 'b', 'c', 'd', 'e'];
  const reclaim = { erase: 'Full', gracePeriod: '0s' } as const;
  for (const name of names) await hall.allocation(name, 'rocky', 1, { reclaim });
  await hall.clock.runUntil(() => names.every((name) => settled(hall, name)));
  for (const name of ['a', 'b', 'c']) await remove(hall, name);
  await hall.clock.runUntil(() => ['a', 'b', 'c'].every((name) => hall.seen(name) === undefined));
  await hall.crash();
  await remove(hall, 'd');
  await hall.clock.advance(3_600_000);
  assert.equal(reason(hall, 'd', 'Stalled'), 'DeletionHeld');
  assert.equal(hall.inState('BareMetal'), 2);
  await hall.stop();
});

test('and where the nodes of those that went came back clean meanwhile', async () => {
  const hall = await hallWith(8);
  const names = ['a', 'b', 'c', 'd', 'e'];
  const reclaim = { erase: 'Quick', gracePeriod: '0s' } as const;
  for (const name of names) await hall.allocation(name, 'rocky', 1, { reclaim });
  await hall.clock.runUntil(() => names.every((name) => settled(hall, name)));
  const from = hall.clock.monotonic();
  for (const name of ['a', 'b', 'c']) await remove(hall, name);
  await hall.clock.runUntil(() => hall.inState('Available') === 6);
  assert.ok(hall.clock.monotonic() - from < 600_000, 'within the window');
  await hall.crash();
  await remove(hall, 'd');
  await hall.clock.advance(3_600_000);
  assert.equal(reason(hall, 'd', 'Stalled'), 'DeletionHeld');
  await hall.stop();
});

test('suspend holds back what has not started', async () => {
  const hall = await hallWith(2);
  await hall.allocation('job', 'rocky', 1, { suspend: true });
  await hall.clock.advance(600_000);
  assert.equal(claimedNames(hall).length, 0);
  assert.equal(hall.seen('job')?.status?.phase, 'Suspended');
  await hall.edit('job', { spec: { suspend: false } });
  await hall.clock.runUntil(() => settled(hall, 'job'));
  await hall.edit('job', { spec: { suspend: true } });
  await hall.clock.advance(600_000);
  assert.equal(hall.inState('BareMetal'), 1);
  await hall.stop();
});

test('an environment that does not exist is said so, and nothing is claimed until it does', async () => {
  const hall = await hallWith(2);
  await hall.allocation('job', 'misspelt', 1);
  await hall.clock.runUntil(() => reason(hall, 'job', 'Accepted') === 'EnvironmentNotFound');
  await hall.environment('misspelt');
  await hall.clock.runUntil(() => settled(hall, 'job'));
  await hall.stop();
});

test('more nodes than there are: the reason is a sentence, and it starts when they come', async () => {
  const hall = await running(3, 2);
  await hall.allocation('big', 'rocky', 2);
  await hall.clock.runUntil(() => reason(hall, 'big', 'Scheduled') === 'Unschedulable');
  await remove(hall, 'job');
  await hall.clock.runUntil(() => settled(hall, 'big'));
  await hall.stop();
});

test('an image that is not what its digest says stalls the allocation and costs no node its place', async () => {
  const url = 'https://images.example/rotten.raw';
  const hall = await hallWith(2, { ...testRoom, rottenImages: [url] });
  await hall.environment('rotten');
  await hall.allocation('job', 'rotten', 1);
  await hall.clock.runUntil(() => reason(hall, 'job', 'Stalled') === 'ImageDigestMismatch');
  await hall.clock.advance(3_600_000);
  assert.equal(hall.inState('Quarantined'), 0);
  assert.equal(claimedNames(hall).length, 1);
  await hall.stop();
});

test('a node that fails before it is in use is replaced, and comes back clean for a person to look at', async () => {
  const hall = await hallWith(3);
  await hall.allocation('job', 'rocky', 1);
  await hall.clock.runUntil(() => claimedNames(hall).length === 1);
  const [broken = ''] = claimedNames(hall);
  await hall.clock.runUntil(() => {
    hall.failNext(broken, 'vmmLoad');
    return settled(hall, 'job');
  }, 12 * 3_600_000);
  assert.ok(!claimedNames(hall).includes(broken) || hall.inState('BareMetal') === 1);
  await hall.clock.runUntil(() => hall.inState('Quarantined') === 1);
  await hall.stop();
});

test('maintenance keeps a free node out and leaves a node in use alone', async () => {
  const hall = await hallWith(2);
  await hall.decide('r0n0', { spec: { maintenance: { reason: 'fan' } } });
  await hall.clock.runUntil(() => hall.inState('Maintenance') === 1);
  await hall.allocation('job', 'rocky', 2);
  await hall.clock.runUntil(() => reason(hall, 'job', 'Scheduled') === 'Unschedulable');
  await hall.decide('r0n0', { spec: { maintenance: null } });
  await hall.clock.runUntil(() => settled(hall, 'job'));
  await hall.decide('r0n1', { spec: { maintenance: { reason: 'disk' } } });
  await hall.clock.advance(600_000);
  assert.equal(hall.inState('BareMetal'), 2);
  await hall.stop();
});

test('status lost while tenants run: nothing is wiped or re-imaged, and the conflict is shown', async () => {
  const hall = await running(3, 2);
  const names = claimedNames(hall);
  const wiped = names.map((name) => hall.history(name, 'wiped'));
  for (const name of names) await hall.forgetStatus(name);
  await hall.clock.runUntil(() => hall.inState('Orphaned') === 2);
  await hall.clock.advance(24 * 3_600_000);
  assert.deepEqual(
    names.map((name) => hall.history(name, 'wiped')),
    wiped,
  );
  assert.deepEqual(
    names.map((name) => hall.history(name, 'imaged')),
    [1, 1],
  );
  await hall.stop();
});

test('a machine that nobody commissioned is held, never wiped', async () => {
  const hall = new MachineHall({ r0: 'r0n[0-1]' });
  await hall.addAgents({ commission: false });
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Quarantined') === 2);
  await hall.clock.advance(24 * 3_600_000);
  assert.equal(hall.history('r0n0', 'wiped'), 0);
  await hall.decide('r0n0', { spec: { decision: { action: 'Reclaim', epoch: 0, reason: 'new machine' } } });
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  await hall.stop();
});

test('a job that arrives while the room is brought in waits for a place in one rack', async () => {
  const hall = new MachineHall({ r0: 'r0n[0-3]', r1: 'r1n[0-3]' });
  await hall.environment('rocky');
  await hall.allocation('job', 'rocky', 4, { reclaim: { erase: 'Quick', gracePeriod: '5m' } });
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => settled(hall, 'job'));
  assert.equal(hall.seen('job')?.status?.placement?.racks, 1);
  await hall.stop();
});

/**
 * An allocation takes over what another one of its name left, however far the agent had come with what that one asked for.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nodeAllocations } from '../../controller/api/meta.ts';
import type { NodeAllocation } from '../../controller/api/types.generated.ts';
import { MachineHall } from '../support/machine-hall.ts';

const hour = 3_600_000;
const isolation = { egress: 'None', group: 'project' } as const;

async function withNode(): Promise<MachineHall> {
  const hall = new MachineHall({ r0: 'r0n0' });
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  await hall.environment('rocky');
  return hall;
}

async function running(change: Partial<NodeAllocation['spec']>): Promise<MachineHall> {
  const hall = await withNode();
  await hall.allocation('job', 'rocky', 1, { deletionPolicy: 'Retain', ...change });
  await hall.clock.runUntil(() => hall.settled('job'));
  return hall;
}

const claimOf = (hall: MachineHall) => hall.nodes()[0]?.status?.claim;
const retain = (hall: MachineHall): Promise<unknown> =>
  hall.kube.delete(nodeAllocations, { namespace: 'cfd', name: 'job' });

async function askForUpdate(hall: MachineHall): Promise<string | undefined> {
  await hall.newImage('rocky');
  await hall.clock.runUntil(() => hall.seen('job')?.status?.updateRevision !== undefined);
  const revision = hall.seen('job')?.status?.updateRevision;
  await hall.edit('job', { spec: { update: { revision } } });
  return revision;
}

test('a claim that is taken over before its guest was started goes on under its new owner', async () => {
  const hall = await withNode();
  await hall.allocation('job', 'rocky', 1, { isolation, deletionPolicy: 'Retain' });
  await hall.clock.runUntil(() => claimOf(hall) !== undefined && hall.history('r0n0', 'port') > 0);
  await retain(hall);
  await hall.clock.runUntil(() => hall.seen('job') === undefined);
  assert.equal(hall.history('r0n0', 'guest'), 0, 'the guest must not have been started for this test');
  await hall.allocation('job', 'rocky', 1, { isolation });
  await hall.clock.runUntil(() => hall.settled('job'));
  assert.equal(hall.history('r0n0', 'imaged'), 1);
  await hall.stop();
});

test('an allocation of a group that took over running nodes can have them re-imaged when it asks for an update', async () => {
  const hall = await running({ isolation });
  await retain(hall);
  await hall.clock.runUntil(() => hall.inState('Orphaned') === 1);
  await hall.allocation('job', 'rocky', 1, { isolation });
  await hall.clock.runUntil(() => hall.settled('job') && hall.inState('BareMetal') === 1);
  assert.equal(hall.history('r0n0', 'imaged'), 1);
  await askForUpdate(hall);
  await hall.clock.runUntil(() => hall.history('r0n0', 'imaged') === 2 && hall.settled('job'));
  await hall.stop();
});

test('a claim that is taken over names the domain of its new owner, and its node reads as isolated in it', async () => {
  const hall = await running({});
  await retain(hall);
  await hall.clock.runUntil(() => hall.inState('Orphaned') === 1);
  await hall.allocation('job', 'rocky', 1);
  await hall.clock.runUntil(() => hall.settled('job') && hall.inState('BareMetal') === 1);
  await hall.clock.advance(hour);
  const domain = `allocation/${hall.seen('job')?.metadata.uid}`;
  const port = hall.racks
    .get('r0')
    ?.rack.machine('r0n0')
    .ports.find(({ name }) => name === 'eth0');
  assert.deepEqual([claimOf(hall)?.domain, port?.domain], [domain, domain]);
  const isolated = hall.seen('job')?.status?.conditions?.find(({ type }) => type === 'Isolated');
  assert.equal(isolated?.status, 'True', isolated?.message);
  await hall.stop();
});

test('a claim that is taken over before the agent could begin its update is re-imaged under the new owner', async () => {
  const hall = await running({ devirtualize: 'Never' });
  const faults = hall.racks.get('r0')?.rack.faults;
  // What is pending at the switch makes the agent refuse a newer epoch.
  faults?.inject('fabricLate', { node: 'r0n0', lastsMs: 600_000 });
  assert.ok(faults?.inject('fabricDefaults', { node: 'r0n0' }));
  const epoch = claimOf(hall)?.epoch ?? 0;
  await askForUpdate(hall);
  await hall.clock.runUntil(() => claimOf(hall)?.epoch === epoch + 1);
  await retain(hall);
  await hall.clock.runUntil(() => hall.inState('Orphaned') === 1);
  assert.equal(hall.operator?.fleet.factsOf('r0n0')?.record.epoch, epoch, 'the agent must not know of the update yet');
  await hall.allocation('job', 'rocky', 1, { devirtualize: 'Never' });
  await hall.clock.runUntil(() => hall.settled('job'), hour);
  assert.equal(claimOf(hall)?.allocation.uid, hall.seen('job')?.metadata.uid);
  assert.equal(hall.history('r0n0', 'imaged'), 2);
  await hall.stop();
});

test('an allocation that took nodes over and asks for an update before the agent heard of it gets the update', async () => {
  const hall = await running({ isolation });
  await retain(hall);
  await hall.clock.runUntil(() => hall.inState('Orphaned') === 1);
  const owner = claimOf(hall)?.allocation.uid;
  await hall.allocation('job', 'rocky', 1, { isolation });
  await hall.clock.runUntil(() => claimOf(hall)?.allocation.uid !== owner);
  hall.agents.detach('r0');
  const revision = await askForUpdate(hall);
  await hall.clock.runUntil(() => hall.seen('job')?.status?.revision === revision);
  hall.restartAgent('r0');
  await hall.clock.runUntil(() => hall.history('r0n0', 'imaged') === 2 && hall.settled('job'), hour);
  await hall.stop();
});

const adopt = (hall: MachineHall, epoch: number): Promise<unknown> =>
  hall.decide('r0n0', { spec: { decision: { action: 'Adopt', epoch, reason: 'the switch is repaired, kato' } } });

/** A running node whose update its agent refused until the attempts at it were spent. */
async function updateNotBegun(isTakenOver: boolean): Promise<MachineHall> {
  const hall = await running({ devirtualize: 'Never' });
  const faults = hall.racks.get('r0')?.rack.faults;
  faults?.inject('fabricLate', { node: 'r0n0', lastsMs: 24 * hour });
  assert.ok(faults?.inject('fabricDefaults', { node: 'r0n0' }));
  await hall.clock.advance(1_000);
  const epoch = claimOf(hall)?.epoch ?? 0;
  await askForUpdate(hall);
  await hall.clock.runUntil(() => claimOf(hall)?.epoch === epoch + 1);
  if (isTakenOver) {
    await retain(hall);
    await hall.clock.runUntil(() => hall.inState('Orphaned') === 1);
    await hall.allocation('job', 'rocky', 1, { devirtualize: 'Never' });
  }
  await hall.clock.runUntil(() => hall.nodes()[0]?.status?.lastError?.code === 'Deadline', 12 * hour);
  await hall.clock.advance(48 * hour);
  assert.deepEqual([claimOf(hall)?.epoch, hall.history('r0n0', 'imaged')], [epoch + 1, 1]);
  return hall;
}

for (const isTakenOver of [false, true]) {
  const whose = isTakenOver ? 'of an owner that is gone' : 'of its owner';
  test(`an update ${whose} that its agent would not begin is begun again when a person says so, once`, async () => {
    const hall = await updateNotBegun(isTakenOver);
    const epoch = claimOf(hall)?.epoch ?? 0;
    assert.equal(hall.nodes()[0]?.status?.state, isTakenOver ? 'Orphaned' : 'Isolating');
    await adopt(hall, epoch - 1);
    await hall.clock.advance(hour);
    assert.equal(claimOf(hall)?.epoch, epoch, 'a decision about an epoch before does nothing');
    await adopt(hall, epoch);
    await hall.clock.runUntil(() => hall.settled('job') && hall.history('r0n0', 'imaged') === 2, hour);
    await hall.clock.advance(hour);
    assert.deepEqual([claimOf(hall)?.epoch, hall.history('r0n0', 'imaged')], [epoch + 1, 2]);
    assert.equal(claimOf(hall)?.allocation.uid, hall.seen('job')?.metadata.uid);
    await hall.stop();
  });
}

/** The way out for a node that its agent can no longer fence, and that it opens no other way. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { memoryPeer } from '../../agent/memory-peer.ts';
import { nodeAllocations, physicalNodes } from '../../controller/api/meta.ts';
import type { PhysicalNode } from '../../controller/api/types.generated.ts';
import { MachineHall } from '../support/machine-hall.ts';

const hour = 3_600_000;

const statusOf = (hall: MachineHall, name: string): NonNullable<PhysicalNode['status']> =>
  hall.nodes().find((node) => node.metadata.name === name)?.status ?? {};
const truth = (hall: MachineHall, type: string): string | undefined =>
  hall.seen('job')?.status?.conditions?.find((condition) => condition.type === type)?.status;
const settled = (hall: MachineHall): boolean =>
  truth(hall, 'Reconciling') === 'False' && truth(hall, 'Ready') === 'True';
const claimed = (hall: MachineHall): string[] =>
  hall.nodes().flatMap(({ metadata, status }) => (status?.claim && !status.end ? [metadata.name] : []));
const decide = (
  hall: MachineHall,
  name: string,
  action: string,
  epoch: number,
  reason = 'burnt, kato',
): Promise<unknown> => hall.decide(name, { spec: { decision: { action, epoch, reason } } });
const release = (hall: MachineHall): Promise<unknown> =>
  hall.kube.delete(nodeAllocations, { namespace: 'cfd', name: 'job' });

/** Two racks of two; the allocation has a node of each. */
async function running(): Promise<{ hall: MachineHall; lost: string; kept: string }> {
  const hall = new MachineHall({ r0: 'r0n[0-1]', r1: 'r1n[0-1]' });
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === 4);
  await hall.environment('rocky');
  await hall.allocation('job', 'rocky', 3, { reclaim: { erase: 'Quick', gracePeriod: '0s' } });
  await hall.clock.runUntil(() => settled(hall) && hall.inState('BareMetal') === 3);
  const names = claimed(hall);
  const lost = names.find((name) => name.startsWith('r0')) ?? '';
  return { hall, lost, kept: names.find((name) => name.startsWith('r1')) ?? '' };
}

/** The agent's process is back, with its log and its machines. */
function attach(hall: MachineHall, name: string): void {
  const rack = hall.racks.get(name);
  assert.ok(rack);
  hall.agents.attach(name, memoryPeer(rack.core));
}

test('an allocation whose rack is gone for ever waits for a person, and ends by that word alone', async () => {
  const { hall } = await running();
  const names = claimed(hall).filter((name) => name.startsWith('r0'));
  const wiped = names.map((name) => hall.history(name, 'wiped'));
  hall.agents.detach('r0');
  await release(hall);
  await hall.clock.advance(24 * hour);
  assert.ok(hall.seen('job'), 'no automatic way out');
  const { message } = hall.seen('job')?.status?.conditions?.find(({ type }) => type === 'Reconciling') ?? {};
  assert.match(message ?? '', /no agent speaks for r0n\d/);
  for (const name of names) await decide(hall, name, 'WriteOff', statusOf(hall, name).epoch ?? 0);
  await hall.clock.runUntil(() => hall.seen('job') === undefined);
  for (const name of names) {
    const { state, end, claim, writtenOff, message } = statusOf(hall, name);
    assert.equal(state, 'Quarantined');
    assert.equal(end?.reason, 'WriteOffByPerson');
    assert.equal(writtenOff?.epoch, end?.epoch);
    assert.equal(writtenOff?.reason, 'burnt, kato');
    assert.ok(claim, 'the debt stays on the node');
    assert.match(message ?? '', new RegExp(`Reclaim with epoch ${end?.epoch}`));
  }
  await hall.clock.advance(hour);
  await hall.crash();
  const writes = hall.totalWrites();
  await hall.clock.advance(24 * hour);
  assert.equal(hall.totalWrites(), writes, 'at rest nothing is written');
  assert.deepEqual(
    names.map((name) => hall.history(name, 'wiped')),
    wiped,
    'a word wipes nothing',
  );
  await hall.stop();
});

test('a machine that was written off and is alive again is shown, gets no instruction, and comes back by the whole way', async () => {
  const { hall, lost } = await running();
  const rack = hall.racks.get('r0');
  hall.agents.detach('r0');
  await decide(hall, lost, 'WriteOff', statusOf(hall, lost).epoch ?? 0);
  await hall.clock.runUntil(() => statusOf(hall, lost).writtenOff !== undefined);
  await hall.clock.runUntil(() => settled(hall) && claimed(hall).length === 3, hour);
  assert.ok(!claimed(hall).includes(lost), 'another node took its place');
  const before = rack?.rack.history().filter((entry) => entry.node === lost).length;
  attach(hall, 'r0');
  await hall.clock.runUntil(() => statusOf(hall, lost).writtenOff?.seenAgainAt !== undefined);
  await hall.clock.advance(24 * hour);
  await hall.crash();
  await hall.clock.advance(24 * hour);
  assert.equal(statusOf(hall, lost).state, 'Quarantined');
  assert.match(statusOf(hall, lost).message ?? '', /reports it alive/);
  assert.equal(rack?.rack.history().filter((entry) => entry.node === lost).length, before, 'nothing was done to it');
  const wiped = hall.history(lost, 'wiped');
  await decide(hall, lost, 'Reclaim', statusOf(hall, lost).epoch ?? 0);
  await hall.clock.runUntil(() => statusOf(hall, lost).state === 'Available');
  assert.ok(hall.history(lost, 'wiped') > wiped);
  const { writtenOff, claim, end } = statusOf(hall, lost);
  assert.deepEqual([writtenOff, claim, end], [undefined, undefined, undefined]);
  await hall.stop();
});

test("a node that could not be fenced frees its allocation by a person's word, with its agent alive", async () => {
  const { hall, lost } = await running();
  const machine = hall.racks.get('r0')?.rack.machine(lost);
  assert.ok(machine);
  const fail = setFailing(hall, lost);
  await release(hall);
  await hall.clock.runUntil(() => fail() && statusOf(hall, lost).state === 'Quarantined', 24 * hour);
  const stalled = () => hall.seen('job')?.status?.conditions?.find(({ type }) => type === 'Stalled');
  // The agent goes on asking the switch.
  await hall.clock.runUntil(() => fail() && stalled()?.reason === 'NodesNotFenced', hour);
  assert.equal(stalled()?.status, 'True');
  await decide(hall, lost, 'WriteOff', statusOf(hall, lost).epoch ?? 0);
  await hall.clock.runUntil(() => hall.seen('job') === undefined);
  await hall.stop();
});

/** The switch refuses every change for the node for as long as this is called. */
function setFailing(hall: MachineHall, node: string): () => true {
  return () => {
    hall.failNext(node, 'fabric');
    return true;
  };
}

test('a WriteOff of a node that runs under a connected agent is refused once, shown, and never acts later', async () => {
  const { hall, lost } = await running();
  const { epoch = 0 } = statusOf(hall, lost);
  await decide(hall, lost, 'WriteOff', epoch);
  await hall.clock.runUntil(() => statusOf(hall, lost).refusedDecision !== undefined);
  assert.match(statusOf(hall, lost).refusedDecision?.message ?? '', /agent r0 is connected/);
  hall.agents.detach('r0');
  await hall.clock.advance(24 * hour);
  assert.ok(claimed(hall).includes(lost));
  assert.equal(statusOf(hall, lost).end, undefined);
  await decide(hall, lost, 'WriteOff', epoch, 'its rack burnt down now, kato');
  await hall.clock.runUntil(() => statusOf(hall, lost).writtenOff !== undefined);
  await hall.stop();
});

test('a WriteOff that names an older epoch, or a node that nobody has, does nothing', async () => {
  const { hall, lost } = await running();
  const free = hall.nodes().find((node) => node.status?.state === 'Available')?.metadata.name ?? '';
  hall.agents.detach('r0');
  hall.agents.detach('r1');
  await decide(hall, lost, 'WriteOff', (statusOf(hall, lost).epoch ?? 0) - 1);
  await decide(hall, free, 'WriteOff', statusOf(hall, free).epoch ?? 0);
  await hall.clock.advance(hour);
  assert.ok(claimed(hall).includes(lost));
  assert.match(statusOf(hall, free).refusedDecision?.message ?? '', /nobody has a claim/);
  await hall.stop();
});

test('a scrapped machine can be deleted, and is held when it turns up all the same', async () => {
  const { hall, lost } = await running();
  hall.agents.detach('r0');
  await decide(hall, lost, 'WriteOff', statusOf(hall, lost).epoch ?? 0);
  await hall.clock.runUntil(() => statusOf(hall, lost).writtenOff !== undefined);
  await hall.kube.delete(physicalNodes, { name: lost });
  await hall.clock.runUntil(() => hall.nodes().every((node) => node.metadata.name !== lost));
  const wiped = hall.history(lost, 'wiped');
  attach(hall, 'r0');
  await hall.clock.runUntil(() => statusOf(hall, lost).state === 'Orphaned');
  await hall.clock.advance(24 * hour);
  assert.equal(statusOf(hall, lost).state, 'Orphaned');
  assert.equal(hall.history(lost, 'wiped'), wiped);
  await hall.stop();
});

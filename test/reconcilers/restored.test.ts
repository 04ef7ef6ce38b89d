/**
 * What a held node says after records went back or are another's: the message names the epoch that a decision must name, and that
 * decision is the way out.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nodeAllocations, physicalNodes } from '../../controller/api/meta.ts';
import type { PhysicalNode } from '../../controller/api/types.generated.ts';
import { MachineHall, testRoom } from '../support/machine-hall.ts';

const statusOf = (hall: MachineHall): NonNullable<PhysicalNode['status']> => hall.nodes()[0]?.status ?? {};
const messageOf = (hall: MachineHall): string => statusOf(hall).message ?? '';
const named = (hall: MachineHall): number => Number(/must name epoch (\d+)/.exec(messageOf(hall))?.[1]);

async function tenancy(hall: MachineHall): Promise<void> {
  await hall.allocation('job', 'rocky', 1, { reclaim: { erase: 'Quick', gracePeriod: '0s' } });
  await hall.clock.runUntil(() => hall.settled('job'));
}

const remove = (hall: MachineHall): Promise<void> =>
  hall.kube.delete(nodeAllocations, { namespace: 'cfd', name: 'job' });

async function oneNode(): Promise<MachineHall> {
  const hall = new MachineHall({ r0: 'r0n0' }, testRoom);
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  await hall.environment('rocky');
  await tenancy(hall);
  return hall;
}

const decide = (hall: MachineHall, action: 'Reclaim' | 'End'): Promise<unknown> =>
  hall.decide('r0n0', { spec: { decision: { action, epoch: named(hall), reason: 'restored' } } });

test('an end that a backup brought back, older than what its agent has seen since, is held, and Reclaim is named as the way out', async () => {
  const hall = await oneNode();
  await remove(hall);
  await hall.clock.runUntil(() => statusOf(hall).end !== undefined);
  const { status } = hall.nodes()[0] ?? {};
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  await tenancy(hall);
  await remove(hall);
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  const seen = statusOf(hall).epoch ?? 0;
  await hall.forgetStatus('r0n0');
  await hall.kube.patch(physicalNodes, { name: 'r0n0' }, { status }, { type: 'merge', subresource: 'status' });
  await hall.clock.runUntil(() => hall.inState('Quarantined') === 1);
  assert.match(
    messageOf(hall),
    /the end recorded here is of epoch \d+: .*decide Reclaim: a decision must name epoch \d+/,
  );
  assert.deepEqual([named(hall), statusOf(hall).lastError], [seen, undefined]);
  await decide(hall, 'Reclaim');
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  await hall.stop();
});

test('a machine that became another is ended by a decision that names the epoch of the message', async () => {
  const hall = await oneNode();
  const status = { systemUuid: 'a-machine-of-another-serial-number' };
  await hall.kube.patch(physicalNodes, { name: 'r0n0' }, { status }, { type: 'merge', subresource: 'status' });
  await hall.clock.runUntil(() => hall.inState('Quarantined') === 1);
  assert.match(messageOf(hall), /now reports .*; put it right, or decide: a decision must name epoch \d+/);
  assert.equal(named(hall), statusOf(hall).epoch);
  await decide(hall, 'End');
  await hall.clock.runUntil(() => statusOf(hall).end !== undefined || hall.inState('Available') === 1);
  await hall.stop();
});

test('a node whose agent lost its log names the highest epoch that either side knows', async () => {
  const hall = await oneNode();
  const status = { storeId: 'another-log', epoch: 1 };
  await hall.kube.patch(physicalNodes, { name: 'r0n0' }, { status }, { type: 'merge', subresource: 'status' });
  await hall.clock.runUntil(() => hall.inState('Quarantined') === 1);
  assert.match(messageOf(hall), /agent log another-log, .*; restore that log, or decide: a decision must name epoch/);
  assert.ok(named(hall) > 1);
  await decide(hall, 'End');
  await hall.clock.runUntil(() => statusOf(hall).end !== undefined || hall.inState('Available') === 1);
  await hall.stop();
});

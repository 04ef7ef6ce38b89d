/** What is decided for nodes whose agent is not heard. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MachineHall } from '../support/machine-hall.ts';

const hour = 3_600_000;

test('a node that failed to start its guest is not given up while its agent is not heard: the guest may have started since', async () => {
  const hall = new MachineHall({ r0: 'r0n0', r1: 'r1n0' });
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === 2);
  await hall.environment('rocky');
  await hall.allocation('job', 'rocky', 1);
  const claimed = () => hall.nodes().find(({ status }) => status?.claim !== undefined);
  await hall.clock.runUntil(() => claimed() !== undefined);
  const node = claimed()?.metadata.name ?? '';
  const agent = node.slice(0, 2);
  await hall.clock.runUntil(() => {
    hall.failNext(node, 'vmmLoad');
    if (claimed()?.status?.lastError === undefined) return false;
    hall.agents.detach(agent);
    return true;
  }, 12 * hour);
  await hall.clock.advance(hour);
  assert.deepEqual([hall.seen('job')?.status?.ending, hall.seen('job')?.status?.nodes], [undefined, node]);
  hall.restartAgent(agent);
  await hall.clock.runUntil(() => hall.settled('job') && claimed()?.metadata.name !== node, 12 * hour);
  await hall.stop();
});

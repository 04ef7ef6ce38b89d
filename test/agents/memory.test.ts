import assert from 'node:assert/strict';
import { test } from 'node:test';
import { memoryPeer } from '../../agent/memory-peer.ts';
import { MemoryAgents } from '../../controller/agents/memory.ts';
import { AgentError } from '../../controller/agents/port.ts';
import type { Instruction } from '../../controller/api/protocol.generated.ts';
import { agentsContract, type ContractBench } from '../contract/agents.ts';
import { AgentRoom } from '../support/agent-room.ts';

const address = (nodes: readonly string[]) => ({
  name: 'rack-0',
  endpoint: 'memory:',
  caPem: '',
  serverName: 'rack-0',
  acceptedNodes: new Set(nodes),
});

async function during<T>(room: AgentRoom, call: Promise<T>): Promise<T> {
  let settled = false;
  const note = (): void => {
    settled = true;
  };
  call.then(note, note);
  await room.clock.runUntil(() => settled);
  return call;
}

async function memoryBench(): Promise<ContractBench> {
  let agents: MemoryAgents | undefined;
  return {
    async link(room, nodes) {
      agents = new MemoryAgents(room.clock);
      agents.attach('rack-0', memoryPeer(room.core));
      return agents.connect(address(nodes));
    },
    cut: async () => agents?.detach('rack-0'),
    replace: async (core) => agents?.attach('rack-0', memoryPeer(core)),
    until: (room, condition) => room.clock.runUntil(condition),
    during,
    close: async () => undefined,
  };
}

agentsContract('in memory', memoryBench);

const fence: Instruction = { operationId: 'op-1', node: 'n0', epoch: 1, verb: 'fence' };

test('scripted faults: an error before the agent hears of it, and an answer lost after it did', async () => {
  const room = new AgentRoom();
  const agents = new MemoryAgents(room.clock);
  agents.attach('rack-0', memoryPeer(room.core));
  const link = agents.connect(address(['n0']));
  await room.clock.runUntil(() => link.state().synced);
  agents.faults('rack-0').nextError = 'Unavailable';
  await assert.rejects(during(room, link.instruct([fence], 1)), { reason: 'Unavailable' });
  assert.equal(room.seen().record.epoch, 0);
  agents.faults('rack-0').lostAnswers = 1;
  await assert.rejects(
    during(room, link.instruct([fence], 1)),
    (error) => error instanceof AgentError && error.reason === 'Unknown',
  );
  await room.clock.runUntil(() => link.nodes.get('n0')?.record.epoch === 1);
  const [again] = await during(room, link.instruct([fence], 1));
  assert.equal(again?.result, 'Accepted');
  room.close();
});

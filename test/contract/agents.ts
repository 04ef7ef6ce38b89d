/**
 * What every adapter of controller/agents/port.ts does, whatever is between it and the agent.
 * A suite of one function, called by each adapter's test file with the way to reach an agent core.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { AgentCore } from '../../agent/core.ts';
import { AgentError, type AgentLink, protocolName } from '../../controller/agents/port.ts';
import type { Instruction } from '../../controller/api/protocol.generated.ts';
import { AgentRoom, enrolment, steps, type TestStep } from '../support/agent-room.ts';

export interface ContractBench {
  /** A link, accepting these nodes, to the agent of the room, which becomes reachable. */
  link(room: AgentRoom, acceptedNodes: readonly string[]): Promise<AgentLink>;
  /** From now on the agent cannot be reached, and streams end. */
  cut(): Promise<void>;
  /** Another core takes the place of the agent. */
  replace(core: AgentCore): Promise<void>;
  /** Lets everything that is under way arrive, until the condition holds; throws when it does not in time. */
  until(room: AgentRoom, condition: () => boolean): Promise<void>;
  /** Runs the call while time passes. */
  during<T>(room: AgentRoom, call: Promise<T>): Promise<T>;
  close(): Promise<void>;
}

let ids = 0;
const instruction = (step: TestStep, epoch: number, node = 'n0', operationId = `c-${++ids}`): Instruction =>
  ({ operationId, node, epoch, ...step }) as Instruction;

export function agentsContract(adapter: string, makeBench: () => Promise<ContractBench>): void {
  const check = (name: string, body: (bench: ContractBench, room: AgentRoom) => Promise<void>): void => {
    test(name, async () => {
      const room = new AgentRoom();
      const bench = await makeBench();
      try {
        await body(bench, room);
      } finally {
        await bench.close();
        room.close();
      }
    });
  };

  describe(`agents contract: ${adapter}`, () => {
    check('a link becomes connected, then synced, with every accepted node', async (bench, room) => {
      const link = await bench.link(room, ['n0', 'n1']);
      const told: (string | null)[] = [];
      link.onChange((name) => told.push(name));
      await bench.until(room, () => link.state().synced);
      assert.equal(link.state().connected, true);
      assert.equal(link.state().hello?.protocol, protocolName);
      assert.equal(link.state().hello?.storeId, 'store-1');
      assert.deepEqual([...link.nodes.keys()].sort(), ['n0', 'n1']);
      assert.ok(told.includes('n0') && told.includes(null));
    });

    check('a node that nobody accepted is a stranger, by name, and never exposed', async (bench, room) => {
      const link = await bench.link(room, ['n0', 'elsewhere']);
      await bench.until(room, () => link.state().synced);
      assert.deepEqual([...link.nodes.keys()], ['n0']);
      assert.deepEqual(link.state().strangers, ['n1']);
      link.accept(new Set(['n0', 'n1']));
      await bench.until(room, () => link.state().synced && link.nodes.has('n1'));
      assert.deepEqual(link.state().strangers, []);
      link.accept(new Set(['n1']));
      assert.deepEqual([...link.nodes.keys()], ['n1']);
    });

    check(
      'instructions are answered one by one and in order, and completion arrives as an observation',
      async (bench, room) => {
        const link = await bench.link(room, ['n0', 'n1']);
        await bench.until(room, () => link.state().synced);
        const batch = [instruction(steps.fence, 1), instruction(steps.wipe, 1), instruction(steps.fence, 1, 'nobody')];
        const results = await bench.during(room, link.instruct(batch, 3));
        assert.deepEqual(
          results.map(({ operationId, result, reason }) => [operationId, result, reason]),
          [
            [batch[0]?.operationId, 'Accepted', undefined],
            [batch[1]?.operationId, 'Refused', 'Busy'],
            [batch[2]?.operationId, 'Refused', 'UnknownNode'],
          ],
        );
        await bench.until(room, () => link.nodes.get('n0')?.operation?.status === 'Done');
        assert.equal(link.nodes.get('n0')?.record.ended, true);
      },
    );

    check('an instruction repeated under the same id asks for nothing new', async (bench, room) => {
      const link = await bench.link(room, ['n0']);
      const once = instruction(steps.fence, 1);
      await bench.during(room, link.instruct([once], 1));
      await bench.until(room, () => link.nodes.get('n0')?.operation?.status === 'Done');
      const [again] = await bench.during(room, link.instruct([once], 1));
      assert.equal(again?.result, 'Accepted');
      assert.equal(link.nodes.get('n0')?.operation?.status, 'Done');
    });

    check('more than a batch is split, and every result comes back in order', async (bench, room) => {
      const link = await bench.link(room, ['n0']);
      await bench.until(room, () => link.state().synced);
      const batch = Array.from({ length: 2_500 }, () => instruction(steps.inspect, 1));
      const results = await bench.during(room, link.instruct(batch, 1));
      assert.deepEqual(
        results.map(({ operationId }) => operationId),
        batch.map(({ operationId }) => operationId),
      );
    });

    check('a lost connection keeps the observations, and a later one brings what was missed', async (bench, room) => {
      const link = await bench.link(room, ['n0', 'n1']);
      await bench.until(room, () => link.state().synced);
      await bench.cut();
      await bench.until(room, () => !link.state().connected);
      assert.equal(link.state().synced, false);
      assert.equal(link.nodes.size, 2);
      assert.equal(link.state().lastError?.reason, 'Unavailable');
      const failed = bench.during(room, link.instruct([instruction(steps.fence, 1)], 1));
      await assert.rejects(failed, (error) => error instanceof AgentError && error.reason === 'Unavailable');
      room.give(steps.fence, { epoch: 4 });
      await bench.replace(room.core);
      await bench.until(room, () => link.state().synced && link.nodes.get('n0')?.record.epoch === 4);
      assert.equal(link.state().lastError, undefined);
    });

    check('an agent that was started again starts the observations over, under the same store', async (bench, room) => {
      const link = await bench.link(room, ['n0', 'n1']);
      for (const step of enrolment.slice(0, 2)) await room.run(step, 1);
      await bench.until(room, () => link.nodes.get('n0')?.record.ended === true);
      const before = link.state().hello?.bootNonce;
      await bench.cut();
      room.restartAgent();
      await bench.replace(room.core);
      await bench.until(room, () => link.state().synced && link.state().hello?.bootNonce !== before);
      assert.equal(link.nodes.get('n0')?.record.ended, true);
      assert.equal(link.state().hello?.storeId, 'store-1');
    });

    check('an agent under another name is not trusted', async (bench, room) => {
      const link = await bench.link(room, ['n0']);
      await bench.until(room, () => link.state().synced);
      await bench.cut();
      const impostor = new AgentRoom({ name: 'rack-9' });
      await bench.replace(impostor.core);
      await bench.until(room, () => link.state().lastError?.reason === 'Untrusted');
      assert.equal(link.state().connected, false);
      impostor.close();
    });

    check('a closed link tells nothing and sends nothing', async (bench, room) => {
      const link = await bench.link(room, ['n0']);
      await bench.until(room, () => link.state().synced);
      link.close();
      assert.equal(link.state().connected, false);
      const refused = bench.during(room, link.instruct([instruction(steps.fence, 1)], 1));
      await assert.rejects(refused, (error) => error instanceof AgentError && error.reason === 'Unavailable');
    });
  });
}

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ObservationFeed } from '../../agent/feed.ts';
import { Mirror } from '../../controller/agents/mirror.ts';
import { parseLine } from '../../controller/api/protocol.ts';
import { AgentRoom, steps } from '../support/agent-room.ts';

const nodes = Array.from({ length: 8 }, (_, index) => `n${index}`);

test('however slowly it is read and often cut, a mirror ends with what the agent knows', async () => {
  const moveArbitrary = fc.oneof(
    fc.record({
      do: fc.constant('change' as const),
      node: fc.nat(nodes.length - 1),
      epoch: fc.integer({ min: 1, max: 9 }),
    }),
    fc.record({ do: fc.constant('read' as const), count: fc.integer({ min: 1, max: 12 }) }),
    fc.record({ do: fc.constantFrom('cut' as const, 'restart' as const) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(moveArbitrary, { maxLength: 60 }), async (moves) => {
      const room = new AgentRoom({ nodes, room: { zeroDelays: true } });
      const mirror = new Mirror('rack-0', new Set(nodes), room.clock);
      let feed = new ObservationFeed(room.core, undefined);
      const reopen = (): void => {
        feed.close();
        mirror.ended();
        feed = new ObservationFeed(room.core, mirror.resumePoint());
      };
      const read = (count: number): number => {
        const lines = feed.take(count);
        assert.ok(lines.length <= count);
        for (const line of lines) {
          mirror.apply(parseLine(JSON.stringify(line)));
          if (line.type === 'synced') assert.equal(mirror.nodes.size, nodes.length);
        }
        return lines.length;
      };
      for (const move of moves) {
        if (move.do === 'change') {
          room.give(steps.fence, { epoch: move.epoch, node: nodes[move.node] ?? '' });
          await room.clock.advance(0);
        } else if (move.do === 'read') {
          read(move.count);
        } else {
          if (move.do === 'restart') room.restartAgent();
          reopen();
        }
      }
      await room.clock.advance(1_000);
      // What waits is bounded: hello, a line for each node, synced.
      assert.ok(read(1_000) <= nodes.length + 2);
      assert.equal(read(1_000), 0);
      assert.equal(mirror.state().synced, true);
      for (const node of nodes) assert.deepEqual(mirror.nodes.get(node), JSON.parse(JSON.stringify(room.seen(node))));
      feed.close();
      room.close();
    }),
    { numRuns: 100 },
  );
});

test('a resumed stream brings only what changed', async () => {
  const room = new AgentRoom({ nodes });
  const mirror = new Mirror('rack-0', new Set(nodes), room.clock);
  const first = new ObservationFeed(room.core, undefined);
  for (const line of first.take(100)) mirror.apply(line);
  first.close();
  mirror.ended();
  room.give(steps.fence, { epoch: 1, node: 'n3' });
  await room.clock.advance(0);
  const second = new ObservationFeed(room.core, mirror.resumePoint());
  const lines = second.take(100);
  assert.deepEqual(
    lines.map((line) => (line.type === 'node' ? line.node.name : line.type)),
    ['hello', 'n3', 'synced'],
  );
  assert.equal(lines[0]?.type === 'hello' && lines[0].resumed, true);
  second.close();
  room.close();
});

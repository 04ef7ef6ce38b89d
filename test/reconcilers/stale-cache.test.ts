/** A leader whose caches are of different age: what it reads of a node is newer than what it reads of the allocation. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nodeAllocations, physicalNodes } from '../../controller/api/meta.ts';
import type { KubeClient } from '../../controller/kube/port.ts';
import { MachineHall } from '../support/machine-hall.ts';

/** Its watch of allocations brings nothing from now on, until `thaw`. */
function frozenAllocations(client: KubeClient): { readonly client: KubeClient; readonly thaw: () => void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  const frozen: KubeClient = {
    ...client,
    async *watch(gvk, options) {
      for await (const event of client.watch(gvk, options)) {
        if (gvk.kind === nodeAllocations.kind) await promise;
        yield event as never;
      }
    },
  };
  return { client: frozen, thaw: resolve };
}

test('a leader that does not know an allocation yet shows none of its nodes as orphaned', async () => {
  const hall = new MachineHall({ r0: 'r0n[0-1]' });
  let thaw = (): void => {};
  hall.wrapClient = (client) => {
    const frozen = frozenAllocations(client);
    thaw = frozen.thaw;
    return frozen.client;
  };
  await hall.addAgents();
  await hall.start();
  const old = hall.operator?.fleet;
  await hall.clock.runUntil(() => hall.inState('Available') === 2);
  hall.wrapClient = (client) => client;
  await hall.split();
  const states = new Set<string | undefined>();
  hall.operator?.fleet.nodes.onChange((_, __, after) => states.add(after?.status?.state));
  await hall.environment('rocky');
  await hall.allocation('job', 'rocky', 2);
  await hall.clock.runUntil(() => hall.inState('BareMetal') === 2);
  assert.equal(old?.allocations.size, 0);
  assert.equal(states.has('Orphaned'), false, [...states].join());
  thaw();
  await hall.clock.runUntil(() => old?.allocations.size === 1);
  hall.heal();
  // One that is gone is shown all the same.
  const key = { namespace: 'cfd', name: 'job' };
  await hall.kube.patch(nodeAllocations, key, { metadata: { finalizers: null } }, { type: 'merge' });
  await hall.kube.delete(nodeAllocations, key);
  await hall.clock.runUntil(() => hall.inState('Orphaned') === 2);
  const [node] = hall.kube.objects<{ metadata: { name: string }; status?: { message?: string } }>(physicalNodes);
  assert.match(node?.status?.message ?? '', /cfd\/job is gone/);
  await hall.stop();
});

/** A leader whose caches are of different age: what it reads of a node is newer than what it reads of the allocation. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nodeAllocations, physicalNodes } from '../../controller/api/meta.ts';
import type { PhysicalNode } from '../../controller/api/types.generated.ts';
import {
  type GroupVersionKind,
  type KubeClient,
  KubeError,
  type KubeObject,
  type WatchEvent,
  type WatchOptions,
} from '../../controller/kube/port.ts';
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
  // It asked; its watch said nothing.
  assert.equal(old?.allocations.size, 1);
  assert.equal(states.has('Orphaned'), false, [...states].join());
  thaw();
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

/** A leader that stands still: none of its calls arrives. Awake again, it has not heard yet what happened to allocations meanwhile. */
class Sleeper {
  asleep = false;
  readonly #silence = Promise.withResolvers<void>();

  wrap(client: KubeClient): KubeClient {
    const refused = (): Promise<never> => Promise.reject(new KubeError('Unavailable', 'it stands still'));
    return {
      ...client,
      get: (gvk, key) => (this.asleep ? refused() : client.get(gvk, key)),
      patch: (gvk, key, patch, options) => (this.asleep ? refused() : client.patch(gvk, key, patch, options)),
      watch: (gvk, options) => this.#watch(client, gvk, options),
    };
  }

  async *#watch<T extends KubeObject>(
    client: KubeClient,
    gvk: GroupVersionKind,
    options: WatchOptions,
  ): AsyncGenerator<WatchEvent<T>> {
    for await (const event of client.watch<T>(gvk, options)) {
      if (this.asleep && gvk.kind === nodeAllocations.kind) await this.#silence.promise;
      yield event;
    }
  }

  end(): void {
    this.#silence.resolve();
  }
}

/** Two nodes that run an allocation, a leader that is about to stand still, and another one. */
async function twoLeaders(): Promise<{ hall: MachineHall; sleeper: Sleeper; old: MachineHall['operator'] }> {
  const hall = new MachineHall({ r0: 'r0n[0-1]' });
  const sleeper = new Sleeper();
  hall.wrapClient = (client) => sleeper.wrap(client);
  await hall.addAgents();
  await hall.start();
  const old = hall.operator;
  await hall.environment('rocky');
  await hall.allocation('job', 'rocky', 2, { reclaim: { erase: 'Quick', gracePeriod: '0s' } });
  await hall.clock.runUntil(() => hall.inState('BareMetal') === 2);
  hall.wrapClient = (client) => client;
  return { hall, sleeper, old };
}

const touch = (hall: MachineHall, node: string): Promise<PhysicalNode> =>
  hall.decide(node, { metadata: { annotations: { 'example.com/touched': String(hall.clock.monotonic()) } } });

test('an end that is over does not end the tenancy that the same allocation has begun since', async () => {
  const { hall, sleeper, old } = await twoLeaders();
  await hall.split();
  old?.fleet.allocations.onChange((_, __, after) => {
    if (after?.status?.ending?.length) sleeper.asleep = true;
  });
  await hall.edit('job', { spec: { replicas: 1 } });
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  const [given] = hall.nodes().filter(({ status }) => status?.state === 'Available');
  const node = given?.metadata.name ?? '';
  await hall.edit('job', { spec: { replicas: 2 } });
  await hall.clock.runUntil(() => hall.inState('BareMetal') === 2);
  assert.equal(sleeper.asleep, true);
  assert.match(
    JSON.stringify(old?.fleet.allocations.getByKey('cfd/job')?.status?.ending),
    new RegExp(node.slice(0, 2)),
  );
  const ends: unknown[] = [];
  hall.operator?.fleet.nodes.onChange((_, __, after) => void (after?.status?.end && ends.push(after.status.end)));
  const wiped = hall.history(node, 'wiped');
  sleeper.asleep = false;
  await touch(hall, node);
  await hall.clock.advance(120_000);
  assert.deepEqual(ends, []);
  assert.equal(hall.history(node, 'wiped'), wiped);
  sleeper.end();
  await hall.stop();
});

test('a claim is not handed back to an allocation that is gone', async () => {
  const { hall, sleeper, old } = await twoLeaders();
  await hall.split();
  sleeper.asleep = true;
  const gone = hall.seen('job')?.metadata.uid;
  await hall.kube.delete(nodeAllocations, { namespace: 'cfd', name: 'job' });
  await hall.clock.runUntil(() => hall.inState('Available') === 2);
  await hall.allocation('job', 'rocky', 2);
  await hall.clock.runUntil(() => hall.inState('BareMetal') === 2);
  const owners = new Set<string | undefined>();
  hall.operator?.fleet.nodes.onChange((_, __, after) => owners.add(after?.status?.claim?.allocation.uid));
  assert.equal(old?.fleet.allocations.getByKey('cfd/job')?.metadata.uid, gone);
  sleeper.asleep = false;
  await touch(hall, 'r0n0');
  await hall.clock.advance(120_000);
  assert.deepEqual([...owners], [hall.seen('job')?.metadata.uid]);
  sleeper.end();
  await hall.stop();
});

test('a deleted node that is claimed right before its finalizer goes stays until that claim is over', async () => {
  const hall = new MachineHall({ r0: 'r0n0' });
  const { kube } = hall;
  const claim = {
    allocation: { namespace: 'cfd', name: 'job', uid: 'another' },
    epoch: 9,
    revision: 'a',
    domain: 'allocation/another',
    at: '2026-01-01T00:00:00Z',
  };
  let claimed = false;
  hall.wrapClient = (client) => ({
    ...client,
    async patch(gvk, key, patch, options) {
      if (gvk.kind === physicalNodes.kind && options.type === 'json' && !claimed) {
        claimed = true;
        await kube.patch(gvk, key, { status: { claim } }, { type: 'merge', subresource: 'status' });
      }
      return client.patch(gvk, key, patch, options) as never;
    },
  });
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  await kube.delete(physicalNodes, { name: 'r0n0' });
  await hall.clock.runUntil(() => claimed);
  await hall.clock.advance(60_000);
  assert.equal(hall.nodes()[0]?.status?.claim?.epoch, 9);
  await hall.stop();
});

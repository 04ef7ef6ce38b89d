/**
 * What people do by mistake, or in ways that the operator cannot stop: status edited away, finalizers dropped, objects deleted.
 */
import { formatHostlist } from '../../../controller/api/hostlist.ts';
import { bitVisorAgents, nodeAllocations, physicalNodes } from '../../../controller/api/meta.ts';
import type { GroupVersionKind, KubeObject, ObjectKey } from '../../../controller/kube/port.ts';
import { int, pick, pickMaybe } from '../chance.ts';
import { unlessGone } from '../people.ts';
import type { World } from '../world.ts';
import type { FaultFamily } from './family.ts';

/** As after a restore of this object from a backup without status. */
async function forget(world: World, gvk: GroupVersionKind, key: ObjectKey): Promise<void> {
  const object = await unlessGone(world.kube.get<KubeObject & { status?: object }>(gvk, key));
  const status = Object.fromEntries(Object.keys(object?.status ?? {}).map((field) => [field, null]));
  await unlessGone(world.kube.patch(gvk, key, { status }, { type: 'merge', subresource: 'status' }));
}

/** Fewer deletions at once are a tenant's own business. */
const fewestOfMany = 4;

const keyOf = ({ metadata: { namespace, name } }: KubeObject): ObjectKey =>
  namespace === undefined ? { name } : { namespace, name };

export const peopleFaults: FaultFamily = {
  name: 'people',
  kinds: [
    {
      name: 'people.nodeStatusLost',
      weight: 0.5,
      strike: async (world, random) => {
        const node = pickMaybe(random, world.nodes());
        if (node === undefined) return false;
        world.truth.machine(node.metadata.name).tampered = 'its status was taken away';
        await forget(world, physicalNodes, keyOf(node));
        return true;
      },
    },
    {
      name: 'people.allocationStatusLost',
      weight: 0.5,
      strike: async (world, random) => {
        const allocation = pickMaybe(random, world.allocations());
        if (allocation === undefined) return false;
        await forget(world, nodeAllocations, keyOf(allocation));
        return true;
      },
    },
    {
      name: 'people.allocationForced',
      weight: 0.5,
      strike: async (world, random) => {
        const allocation = pickMaybe(random, world.allocations());
        if (allocation === undefined) return false;
        const known = world.truth.allocations.get(allocation.metadata.uid ?? '');
        if (known !== undefined) known.vanished = true;
        await unlessGone(
          world.kube.patch(nodeAllocations, keyOf(allocation), { metadata: { finalizers: null } }, { type: 'merge' }),
        );
        await unlessGone(world.kube.delete(nodeAllocations, keyOf(allocation)));
        return true;
      },
    },
    {
      name: 'people.nodeDeleted',
      weight: 0.5,
      strike: async (world, random) => {
        const node = pickMaybe(random, world.nodes());
        if (node === undefined) return false;
        world.truth.machine(node.metadata.name).tampered = 'its PhysicalNode was deleted';
        await unlessGone(world.kube.delete(physicalNodes, keyOf(node)));
        return true;
      },
    },
    {
      name: 'people.nodeForced',
      weight: 0.5,
      strike: async (world, random) => {
        const node = pickMaybe(random, world.nodes());
        if (node === undefined) return false;
        world.truth.machine(node.metadata.name).tampered = 'its PhysicalNode was deleted with its finalizer dropped';
        await unlessGone(
          world.kube.patch(physicalNodes, keyOf(node), { metadata: { finalizers: null } }, { type: 'merge' }),
        );
        await unlessGone(world.kube.delete(physicalNodes, keyOf(node)));
        return true;
      },
    },
    {
      // A backup is made at one strike and put back at a later one: everything in between is forgotten.
      name: 'people.backupRestored',
      weight: 1,
      strike: (world) => {
        if (world.backup === undefined) {
          world.backup = world.kube.snapshot();
          return false;
        }
        world.kube.restore(world.backup);
        world.backup = undefined;
        world.truth.restored(world.nodes(), world.allocations());
        return true;
      },
    },
    {
      name: 'people.agentMoved',
      weight: 0.5,
      strike: async (world, random) => {
        const agent = pickMaybe(random, world.agentObjects());
        const host = agent === undefined ? undefined : world.agents.get(agent.metadata.name);
        if (agent === undefined || host === undefined) return false;
        const spec = pick(random, [
          { endpoint: `https://agent-${int(random, 100)}.example:7443` },
          { nodes: formatHostlist(host.nodes.slice(1)) },
          { nodes: host.hosts },
        ]);
        await unlessGone(world.kube.patch(bitVisorAgents, keyOf(agent), { spec }, { type: 'merge' }));
        return true;
      },
    },
    {
      name: 'people.agentForgotten',
      weight: 0.3,
      strike: async (world, random) => {
        const agent = pickMaybe(random, world.agentObjects());
        if (agent === undefined) return false;
        await unlessGone(world.kube.delete(bitVisorAgents, keyOf(agent)));
        const { name } = agent.metadata;
        const putBack = (): void => {
          if (!world.calm)
            void world.kube.create(bitVisorAgents, { metadata: { name }, spec: agent.spec }).catch(() => {});
        };
        world.clock.setTimer(1_000 + int(random, 600_000), putBack);
        return true;
      },
    },
    {
      // As a wrong selector does, or a repository that was emptied by mistake.
      name: 'people.deletesAll',
      weight: 0.3,
      strike: async (world) => {
        const all = world.allocations().filter(({ metadata }) => metadata.deletionTimestamp === undefined);
        if (all.length < fewestOfMany) return false;
        for (const allocation of all) await unlessGone(world.kube.delete(nodeAllocations, keyOf(allocation)));
        return true;
      },
    },
    {
      name: 'people.extended',
      weight: 1,
      strike: async (world, random) => {
        const running = world.allocations().filter(({ spec }) => spec.schedule?.duration !== undefined);
        const allocation = pickMaybe(random, running);
        if (allocation === undefined) return false;
        const duration = pick(random, ['10m', '30m', '4h', null]);
        const schedule = duration === null ? null : { duration };
        await unlessGone(
          world.kube.patch(nodeAllocations, keyOf(allocation), { spec: { schedule } }, { type: 'merge' }),
        );
        return true;
      },
    },
  ],
};

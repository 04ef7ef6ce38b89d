/** Machine files as ConfigMaps: those of the allocation, and one of somebody else's that bears the name of one. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { configMaps, nodeAllocations } from '../../controller/api/meta.ts';
import type { NodeAllocation } from '../../controller/api/types.generated.ts';
import { createMemoryKube, type MemoryKube } from '../../controller/kube/memory.ts';
import type { KubeObject } from '../../controller/kube/port.ts';
import type { Fleet } from '../../controller/reconcilers/fleet.ts';
import { MachineFileWriter } from '../../controller/reconcilers/machine-files.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { VirtualClock } from '../support/virtual-clock.ts';

const namespace = 'team';
/** As long as one may be: some hundreds of nodes fill a ConfigMap. */
const hostKey = `ssh-ed25519 ${'A'.repeat(2_000)}`;

interface Room {
  readonly kube: MemoryKube;
  /** The allocation has so many nodes, and all of them run. */
  write(nodes: number): Promise<void>;
  names(): Promise<string[]>;
}

function room(): Room {
  const kube = createMemoryKube({ clock: new VirtualClock(), random: seededRandom(3) });
  let count = 0;
  const fleet = {
    assignments: { nodesOf: () => Array.from({ length: count }, (_, index) => `n${index}`) },
    member: (_allocation: NodeAllocation, name: string) => ({ name, ready: true }),
    lastFactsOf: () => ({ guest: { hostKey }, inventory: { cores: 4 } }),
  } as unknown as Fleet;
  const writer = new MachineFileWriter(kube, fleet);
  return {
    kube,
    async write(nodes) {
      count = nodes;
      const status = { replicas: nodes, ready: nodes, nodes: `n[0-${nodes - 1}]` };
      const metadata = { name: 'mine', namespace, uid: 'uid-of-mine' };
      await writer.write({ metadata, spec: {}, status } as unknown as NodeAllocation);
    },
    names: async () => (await kube.list(configMaps, { namespace })).items.map(({ metadata }) => metadata.name).sort(),
  };
}

test('a part that is not needed any more goes', async () => {
  const { write, names } = room();
  await write(900);
  assert.deepEqual(await names(), ['mine-machines-0', 'mine-machines-1', 'mine-machines-2']);
  await write(2);
  assert.deepEqual(await names(), ['mine-machines-0']);
});

for (const [whose, ownerReferences] of [
  ["a person's", undefined],
  [
    "another allocation's",
    [{ apiVersion: 'bitvisor.io/v1alpha1', kind: nodeAllocations.kind, name: 'yours', uid: 'uid-of-yours' }],
  ],
] as const)
  test(`${whose} ConfigMap that bears the name of a part is neither written nor deleted`, async () => {
    const { kube, write, names } = room();
    const theirs: KubeObject & { data: Record<string, string> } = {
      ...{ apiVersion: 'v1', kind: 'ConfigMap', data: { own: 'yes' } },
      metadata: {
        ...{ name: 'mine-machines-1', namespace },
        ...(ownerReferences === undefined ? {} : { ownerReferences: [...ownerReferences] }),
      },
    };
    await kube.create(configMaps, theirs);
    await write(900);
    await write(2);
    assert.deepEqual(await names(), ['mine-machines-0', 'mine-machines-1']);
    const left = await kube.get<typeof theirs>(configMaps, { namespace, name: 'mine-machines-1' });
    assert.deepEqual(left.data, { own: 'yes' });
  });

test('what an earlier allocation of this name left is taken over', async () => {
  const { kube, write, names } = room();
  const reference = { apiVersion: 'bitvisor.io/v1alpha1', kind: nodeAllocations.kind, name: 'mine', uid: 'uid-before' };
  const before: KubeObject & { data: Record<string, string> } = {
    ...{ apiVersion: 'v1', kind: 'ConfigMap', data: { hosts: 'old' } },
    metadata: { name: 'mine-machines-1', namespace, ownerReferences: [reference] },
  };
  await kube.create(configMaps, before);
  await write(900);
  const taken = await kube.get<typeof before>(configMaps, { namespace, name: 'mine-machines-1' });
  assert.equal(taken.metadata.ownerReferences?.[0]?.uid, 'uid-of-mine');
  await write(2);
  assert.deepEqual(await names(), ['mine-machines-0']);
});

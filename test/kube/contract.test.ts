import { createMemoryKube } from '../../controller/kube/memory.ts';
import { systemClock } from '../../controller/runtime/clock.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { kubeContract, type StatusKind } from '../contract/kube.ts';

const environments: StatusKind = {
  gvk: {
    group: 'bitvisor.io',
    version: 'v1alpha1',
    kind: 'ComputeEnvironment',
    plural: 'computeenvironments',
    namespaced: true,
  },
  object: (name, namespace) => ({
    metadata: { name, namespace },
    spec: {
      os: { family: 'Linux', name: 'AlmaLinux', version: '9.4' },
      image: {
        url: 'https://images.example.org/almalinux.raw',
        format: 'Raw',
        size: '8Gi',
        sha256: 'a'.repeat(64),
      },
    },
  }),
  specPatch: { spec: { os: { version: '9.5' } } },
  statusPatches: [{ status: { observedGeneration: 1 } }, { status: { observedGeneration: 2 } }],
};

kubeContract('in the process', async () => {
  const client = createMemoryKube({ clock: systemClock, random: seededRandom(1) });
  return {
    client,
    namespace: 'contract',
    statusKind: environments,
    compact: async () => client.compact(),
    close: () => client.close(),
  };
});

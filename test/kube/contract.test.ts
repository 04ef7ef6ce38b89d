import { createMemoryKube } from '../../controller/kube/memory.ts';
import { systemClock } from '../../controller/runtime/clock.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { kubeContract } from '../contract/kube.ts';
import { environments } from '../support/kube-kinds.ts';

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

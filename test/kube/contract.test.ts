import { createMemoryKube } from '../../controller/kube/memory.ts';
import { systemClock } from '../../controller/runtime/clock.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { environments, kubeContract } from '../contract/kube.ts';

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

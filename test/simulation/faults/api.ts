/**
 * Faults of the API server and the way to it: chances per call that last for the storm, and what happens to the server as a whole.
 */
import { nodeAllocations, physicalNodes } from '../../../controller/api/meta.ts';
import { chance, int, pickMaybe } from '../chance.ts';
import type { ApiChances } from '../kube-network.ts';
import type { FaultFamily, FaultKind } from './family.ts';

/** Chances at full strength. */
const strongest: ApiChances = {
  conflict: 0.3,
  edited: 0.3,
  unavailable: 0.3,
  busy: 0.1,
  refused: 0.2,
  lostAnswer: 0.3,
  lateWrite: 0.15,
  slow: 0.3,
  slowList: 0.5,
  cutWatch: 0.1,
  goneWatch: 0.05,
  twice: 0.3,
  swapped: 0.3,
  stalled: 0.03,
};

const lasting = Object.keys(strongest).map((name): FaultKind => {
  const field = name as keyof ApiChances;
  return {
    name: `api.${field}`,
    begin: (world, strength) => {
      world.api[field] = strength * strongest[field];
    },
    end: (world) => {
      world.api[field] = 0;
    },
  };
});

export const apiFaults: FaultFamily = {
  name: 'api',
  kinds: [
    ...lasting,
    {
      name: 'api.compacted',
      weight: 1,
      strike: (world) => {
        world.kube.compact();
        return true;
      },
    },
    {
      name: 'api.outage',
      weight: 1,
      strike: (world, random) => {
        const running = world.processes.filter((one) => !one.kube.cut);
        const cut = chance(random, 0.5) ? running : running.slice(0, 1);
        if (cut.length === 0) return false;
        for (const one of cut) one.kube.cut = true;
        world.clock.setTimer(1_000 + int(random, 60_000), () => {
          for (const one of cut) one.kube.cut = false;
        });
        return true;
      },
      end: (world) => {
        for (const one of [...world.processes]) one.kube.cut = false;
      },
    },
    {
      name: 'api.touched',
      weight: 1,
      strike: async (world, random) => {
        const object = pickMaybe(random, [...world.nodes(), ...world.allocations()]);
        if (object === undefined) return false;
        const { namespace, name } = object.metadata;
        const key = namespace === undefined ? { name } : { namespace, name };
        await world.touch(namespace === undefined ? physicalNodes : nodeAllocations, key);
        return true;
      },
    },
  ],
};

/** Faults of machines, switches, BMCs and tenants, by what the simulated room offers, and steps that fail. */
import { failingSteps } from '../../../agent/drivers/simulated/options.ts';
import { pick } from '../chance.ts';
import type { FaultKind } from './family.ts';
import { roomFamily } from './room.ts';

const steps = failingSteps.map(
  (step): FaultKind => ({
    name: `machines.${step}`,
    weight: 0.4,
    strike: (world, random) => {
      const node = pick(random, world.machines);
      world.hostOf(node).rack.failNext(node, step);
      return true;
    },
  }),
);

const powerCut: FaultKind = {
  name: 'machines.powerCut',
  weight: 2,
  strike: (world, random) => {
    const node = pick(random, world.machines);
    const { rack } = world.hostOf(node);
    if (rack.machine(node).power === 'Off') return false;
    rack.cutPower(rack.machine(node));
    const back = pick(random, [0, 5_000, 120_000]);
    world.clock.setTimer(back, () => rack.givePower(rack.machine(node)));
    return true;
  },
};

export const machineFaults = roomFamily('machines', [...steps, powerCut]);
export const fabricFaults = roomFamily('fabric');
export const bmcFaults = roomFamily('bmc');
export const tenantFaults = roomFamily('tenant');

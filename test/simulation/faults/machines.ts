/**
 * Faults of machines, by what the simulated room offers: steps that fail, power that goes, resets.
 */
import type { FailingStep } from '../../../agent/drivers/simulated/options.ts';
import { pick } from '../chance.ts';
import type { FaultFamily, FaultKind } from './family.ts';

const steps: readonly FailingStep[] = [
  'power',
  'bootOrder',
  'fabric',
  'imageOpen',
  'vmmLoad',
  'guestBoot',
  'disk',
  'devirtualize',
  'attest',
  'wipe',
  'check',
];

export const machineFaults: FaultFamily = {
  name: 'machines',
  kinds: [
    ...steps.map(
      (step): FaultKind => ({
        name: `machines.${step}`,
        weight: 0.6,
        strike: (world, random) => {
          const node = pick(random, world.machines);
          world.hostOf(node).rack.failNext(node, step);
          return true;
        },
      }),
    ),
    {
      name: 'machines.reset',
      weight: 2,
      strike: (world, random) => {
        const node = pick(random, world.machines);
        const { rack } = world.hostOf(node);
        if (rack.machine(node).power === 'Off') return false;
        rack.reset(rack.machine(node));
        return true;
      },
    },
    {
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
    },
  ],
};

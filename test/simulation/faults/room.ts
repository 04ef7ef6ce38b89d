/**
 * Faults of what stands in the machine room, by the room's own table: each kind strikes at chosen moments, or by a chance at each
 * step, and is over with the storm.
 *
 * What cannot be repaired (a machine that died) is told to the truth, so that nobody waits for it.
 */
import {
  type FaultGroup,
  faultKinds,
  faultTable,
  type FaultKind as Kind,
} from '../../../agent/drivers/simulated/faults.ts';
import { pick } from '../chance.ts';
import type { World } from '../world.ts';
import type { FaultFamily, FaultKind } from './family.ts';

/** How often a kind is drawn in comparison with others; 1 where absent. What a room sees once in a life is rare here too. */
const weights: Partial<Record<Kind, number>> = {
  dies: 0.15,
  cableSwap: 0.3,
  rackDark: 0.4,
  twin: 0.2,
  diskSwap: 0.4,
  imageRot: 0.3,
  fabricStuck: 0.3,
  takesBmc: 0.4,
  reset: 2,
  powerLoss: 2,
};

/** The highest chance of a kind at each step that can have it; 0.2 where absent. */
const highestChance: Partial<Record<Kind, number>> = {
  resetsAtWorst: 0.3,
  ignoresAcpi: 1,
  fabricStuck: 0.03,
  tornMap: 0.5,
};

/** Of each world, the chances in force. */
const rates = new WeakMap<World, Partial<Record<Kind, number>>>();

function setRate(world: World, kind: Kind, rate: number): void {
  const inForce = rates.get(world) ?? {};
  inForce[kind] = rate;
  rates.set(world, inForce);
  for (const { rack } of world.agents.values()) rack.faults.setRates(inForce);
}

/** Tries some machines: most faults need one that is on, or a guest on it. */
const tries = 6;

function strike(world: World, kind: Kind, random: World['agentRandom']): boolean {
  for (let left = tries; left > 0; left--) {
    const node = pick(random, world.machines);
    if (!world.hostOf(node).rack.faults.inject(kind, { node })) continue;
    if (kind === 'dies') world.truth.machine(node).broken = 'it died';
    if (kind === 'diskSwap') world.truth.machine(node).tampered = 'a disk was exchanged';
    return true;
  }
  return false;
}

/** Ends what can be ended; the dead stay dead. */
function heal(world: World, kind: Kind): void {
  setRate(world, kind, 0);
  if (kind === 'dies') return;
  for (const { rack } of world.agents.values()) rack.faults.heal({ kinds: [kind] });
}

function ofStep(kind: Kind, name: string): FaultKind {
  return {
    name,
    begin: (world, strength) => {
      setRate(world, kind, strength * (highestChance[kind] ?? 0.2));
      for (const { rack } of world.agents.values()) {
        rack.watch(({ event, detail }) => {
          if (event === 'fault' && detail.kind === kind) world.struck(name);
        });
      }
    },
    end: (world) => heal(world, kind),
  };
}

const ofMoment = (kind: Kind, name: string): FaultKind => ({
  name,
  weight: weights[kind] ?? 1,
  strike: (world, random) => strike(world, kind, random),
  end: (world) => heal(world, kind),
});

/** The room's faults of one group. */
export function roomFamily(name: FaultGroup, others: readonly FaultKind[] = []): FaultFamily {
  const kinds = faultKinds.filter((kind) => faultTable[kind].group === name);
  const make = (kind: Kind): FaultKind =>
    faultTable[kind].occasion === 'Step' ? ofStep(kind, `${name}.${kind}`) : ofMoment(kind, `${name}.${kind}`);
  return { name, kinds: [...others, ...kinds.map(make)] };
}

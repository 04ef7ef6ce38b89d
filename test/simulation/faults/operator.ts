/**
 * Faults of the operator's processes: death at any call, all of them dead for minutes, a pause that outlasts the Lease, a second leader,
 * clocks that disagree.
 */
import { leaseKind } from '../../../controller/kube/lease.ts';
import { chance, int, pick, pickMaybe } from '../chance.ts';
import type { FaultFamily, FaultKind } from './family.ts';

/** Clocks of hosts with NTP stay within it; the checkers of times allow for it (checkers/time.ts). */
const largestSkewMs = 20_000;

/** Shorter than an agent waits for its operator, longer than any grace period, and between. */
const downMs = [60_000, 120_000, 300_000, 900_000, 1_800_000];

/** Whoever comes back reads all that happened meanwhile as one state; dying in the middle of that makes it two. */
export const operatorDown: FaultKind = {
  name: 'operator.down',
  strike: (world, random) => {
    const downFor = pick(random, downMs);
    const fuse = chance(random, 0.3)
      ? ([pick(random, ['before', 'after'] as const), 1 + int(random, 25)] as const)
      : undefined;
    return world.downOperator(downFor, (process) => {
      if (fuse !== undefined && !world.calm) process.dieAt(...fuse);
    });
  },
  end: (world) => world.upOperator(),
};

export const operatorFaults: FaultFamily = {
  name: 'operator',
  kinds: [
    {
      name: 'operator.killed',
      weight: 2,
      strike: (world, random) => {
        const victim = pickMaybe(random, world.processes);
        if (victim === undefined) return false;
        victim.kill('killed');
        world.restartOperator(victim);
        return true;
      },
    },
    {
      name: 'operator.diesAtCall',
      weight: 4,
      strike: (world, random) => {
        const victim = pickMaybe(random, world.processes);
        victim?.dieAt(pick(random, ['before', 'after']), 1 + int(random, 30));
        return victim !== undefined;
      },
    },
    {
      name: 'operator.paused',
      weight: 2,
      strike: (world, random) => {
        const victim = pickMaybe(
          random,
          world.processes.filter(({ clock }) => clock.state === 'Running'),
        );
        if (victim === undefined) return false;
        victim.clock.pause();
        world.trace.add(victim.name, 'stands still');
        world.clock.setTimer(pick(random, [500, 8_000, 30_000, 120_000, 600_000]), () => {
          world.trace.add(victim.name, 'wakes up');
          victim.clock.resume();
        });
        return true;
      },
      end: (world) => {
        for (const one of [...world.processes]) one.clock.resume();
      },
    },
    {
      name: 'operator.leaseGone',
      weight: 0.5,
      strike: async (world) => {
        const [lease] = world.kube.objects(leaseKind);
        if (lease === undefined) return false;
        const { namespace = '', name } = lease.metadata;
        await world.kube.delete(leaseKind, { namespace, name });
        return true;
      },
    },
    {
      name: 'operator.another',
      weight: 1,
      strike: (world) => {
        if (world.isOperatorDown || world.processes.length >= 3) return false;
        world.startOperator();
        return true;
      },
    },
    {
      name: 'operator.skew',
      begin: (world, strength) => {
        const random = world.random('skew');
        const before = world.processOptions;
        world.processOptions = () => {
          world.struck('operator.skew');
          return { ...before(), skewMs: Math.round((random.next() * 2 - 1) * strength * largestSkewMs) };
        };
      },
    },
    {
      // Its renew deadline lasts longer than the others' patience: two leaders, each in good faith.
      name: 'operator.slowClock',
      begin: (world, strength) => {
        const random = world.random('rate');
        const before = world.processOptions;
        world.processOptions = () => {
          world.struck('operator.slowClock');
          return { ...before(), rate: pick(random, [1, 1 - 0.7 * strength]) };
        };
      },
      end: (world) => {
        world.processOptions = () => ({});
        for (const one of [...world.processes]) {
          one.kill('is started afresh with a clock that runs well');
          world.restartOperator(one);
        }
      },
    },
    operatorDown,
  ],
};

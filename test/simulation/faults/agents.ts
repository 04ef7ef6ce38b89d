/**
 * Faults of the agents and the way to them: death at any write or act, lost logs, messages lost, late, twice and out of order,
 * a rack cut off, a snapshot that contradicts what was said before.
 */
import type { Random } from '../../../controller/runtime/random.ts';
import type { AgentHost } from '../agent-host.ts';
import type { AgentChances } from '../agent-network.ts';
import { chance, int, pick, pickMaybe } from '../chance.ts';
import type { World } from '../world.ts';
import type { FaultFamily, FaultKind } from './family.ts';

/** Chances at full strength. */
const strongest: AgentChances = {
  unreachable: 0.3,
  lostRequest: 0.2,
  lostAnswer: 0.4,
  lostCommitAnswer: 1,
  slow: 0.5,
  twice: 0.3,
  late: 0.15,
};

const lasting = Object.keys(strongest).map((name): FaultKind => {
  const field = name as keyof AgentChances;
  return {
    name: `agents.${field}`,
    begin: (world, strength) => {
      world.agentChances[field] = strength * strongest[field];
    },
    end: (world) => {
      world.agentChances[field] = 0;
    },
  };
});

const anyHost = (world: World, random: Random): AgentHost | undefined => pickMaybe(random, [...world.agents.values()]);

function die(world: World, host: AgentHost, forgets: boolean): boolean {
  if (!host.reachable) return false;
  host.kill(forgets);
  world.restartAgent(host);
  return true;
}

export const agentFaults: FaultFamily = {
  name: 'agents',
  kinds: [
    ...lasting,
    {
      name: 'agents.killed',
      weight: 2,
      strike: (world, random) => {
        const host = anyHost(world, random);
        return host !== undefined && die(world, host, false);
      },
    },
    {
      name: 'agents.diesAtWrite',
      weight: 2,
      strike: (world, random) => {
        anyHost(world, random)?.dieAt('write', 1 + int(random, 12));
        return true;
      },
    },
    {
      name: 'agents.diesAtAct',
      weight: 2,
      strike: (world, random) => {
        anyHost(world, random)?.dieAt('act', 1 + int(random, 12));
        return true;
      },
    },
    {
      // The log breaks its promise: what was written last is gone with the process.
      name: 'agents.forgets',
      weight: 1,
      begin: (world, strength) => {
        world.unflushedChance = 0.5 * strength;
      },
      strike: (world, random) => {
        const host = anyHost(world, random);
        if (host === undefined) return false;
        for (const node of host.nodes) world.truth.machine(node).tampered = "its agent's log forgot";
        return die(world, host, true);
      },
      end: (world) => {
        world.unflushedChance = 0;
      },
    },
    {
      name: 'agents.diskLost',
      weight: 0.5,
      strike: (world, random) => {
        const host = anyHost(world, random);
        if (host === undefined || !host.reachable) return false;
        host.yieldBack();
        host.loseDisk();
        world.restartAgent(host);
        for (const node of host.nodes) world.truth.machine(node).tampered = "its agent's log was lost";
        return true;
      },
    },
    {
      name: 'agents.two',
      weight: 0.5,
      strike: (world, random) => {
        const host = anyHost(world, random);
        if (host === undefined || !host.usurp()) return false;
        for (const node of host.nodes) world.truth.machine(node).tampered = 'two agents spoke for its rack';
        world.clock.setTimer(pick(random, [20_000, 120_000, 1_200_000]), () => host.yieldBack());
        return true;
      },
      end: (world) => {
        for (const host of world.agents.values()) host.yieldBack();
      },
    },
    {
      name: 'agents.partitioned',
      weight: 2,
      strike: (world, random) => {
        const host = anyHost(world, random);
        if (host === undefined) return false;
        const from = chance(random, 0.5) ? [...world.processes] : world.processes.slice(0, 1);
        for (const one of from) {
          one.agents.cut.add(host.name);
          one.agents.detach(host.name);
        }
        world.clock.setTimer(pick(random, [1_000, 20_000, 120_000, 1_200_000]), () => {
          for (const one of from) mend(one.agents, host);
        });
        return true;
      },
      end: (world) => {
        for (const one of [...world.processes]) for (const host of world.agents.values()) mend(one.agents, host);
      },
    },
    {
      name: 'agents.linesLate',
      weight: 1,
      strike: (world, random) => {
        const host = anyHost(world, random);
        if (host === undefined) return false;
        host.linesLateMs = pick(random, [0, 500, 10_000, 60_000]);
        world.attachAgent(host);
        return true;
      },
      end: (world) => {
        for (const host of world.agents.values()) {
          host.linesLateMs = 0;
          world.attachAgent(host);
        }
      },
    },
  ],
};

function mend(agents: World['processes'][number]['agents'], host: AgentHost): void {
  if (!agents.cut.delete(host.name)) return;
  agents.attach(host);
}

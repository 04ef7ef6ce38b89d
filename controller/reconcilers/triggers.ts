/**
 * What wakes whom: changes of objects, observations and conclusions become keys in the work queues.
 *
 * Invariants:
 * 1. Every change that a decision depends on adds the key of that decision; a key too many does no harm.
 * 2. What comes in bursts (observations, conclusions, free nodes) is gathered before it wakes an allocation or an agent.
 */
import type { NodeAllocation, PhysicalNode } from '../api/types.generated.ts';
import type { Clock } from '../runtime/clock.ts';
import type { WorkQueue } from '../runtime/queue.ts';
import type { Fleet } from './fleet.ts';
import { byClaimOwner, byEnvironment } from './indexes.ts';
import type { FleetPlacer } from './placer.ts';
import type { AgentTerms } from './terms.ts';

export interface Queues {
  readonly nodes: WorkQueue;
  readonly allocations: WorkQueue;
  readonly environments: WorkQueue;
  readonly agents: WorkQueue;
}

export interface TriggerOptions {
  readonly fleet: Fleet;
  readonly placer: FleetPlacer;
  readonly queues: Queues;
  readonly clock: Clock;
  readonly terms: AgentTerms;
}

export interface Triggers {
  /** The agent said something of a node. */
  readonly onObservation: (nodeName: string) => void;
  /** A link came, went or met an error. */
  readonly onLink: (agentName: string) => void;
  readonly stop: () => void;
}

/** Gathers the conclusions of a rack's nodes before their allocation is looked at. */
const gatherMs = 100;
/** 2.6 s for the 88,128 nodes of the largest room, whose decision takes some tenths of a second of CPU. */
const gatherMsPerNode = 0.03;
/** Progress of the copy is shown this often. */
const progressMs = 2_000;

const ownerKey = (node: PhysicalNode | undefined): string | undefined => {
  const owner = node?.status?.claim?.allocation;
  return owner ? `${owner.namespace}/${owner.name}` : undefined;
};

/** What of an allocation its nodes' decisions look at, besides the lists. */
const termsOf = (allocation: NodeAllocation | undefined): string =>
  JSON.stringify([
    allocation?.metadata.uid,
    allocation?.spec.suspend,
    allocation?.spec.reclaim,
    allocation?.status?.revision,
  ]);

/** What people ask of an allocation: all that can change besides its status. */
const asked = (allocation: NodeAllocation | undefined): string => {
  if (allocation === undefined) return '';
  const { uid, generation, deletionTimestamp, annotations, finalizers } = allocation.metadata;
  return JSON.stringify([uid, generation, deletionTimestamp, annotations, finalizers]);
};

interface Wakers {
  /** A decision is due for a reason of its own. */
  readonly allocation: (key: string, afterMs: number) => void;
  /** A node of the allocation changed. */
  readonly owner: (key: string, afterMs: number) => void;
  /** A node changed: whoever names or claims it. */
  readonly owners: (nodeName: string, afterMs: number) => void;
}

function wakersOf({ fleet, queues }: TriggerOptions): Wakers {
  const allocation = (key: string, afterMs: number): void => {
    const priority = fleet.allocations.getByKey(key)?.spec.priority ?? 0;
    queues.allocations.add(key, { afterMs, priority });
  };
  // A decision looks at every node of the allocation: the more there are, the longer it is gathered for.
  const owner = (key: string, afterMs: number): void => {
    // On the way back the list is empty at once, and the claims go one by one.
    const listed = fleet.allocations.getByKey(key)?.status?.replicas ?? 0;
    const nodes = Math.max(listed, fleet.nodes.countByIndex(byClaimOwner, key));
    allocation(key, Math.max(afterMs, nodes * gatherMsPerNode));
  };
  const owners = (nodeName: string, afterMs: number): void => {
    for (const key of fleet.assignments.allocationsOf(nodeName)) owner(key, afterMs);
    const claimant = ownerKey(fleet.nodes.getByKey(nodeName));
    if (claimant) owner(claimant, afterMs);
  };
  return { allocation, owner, owners };
}

export function connectTriggers(options: TriggerOptions): Triggers {
  const { fleet, placer, queues, clock } = options;
  let cancelKick: (() => void) | undefined;
  const { allocation: wakeAllocation, owner: wakeOwner, owners: wakeOwners } = wakersOf(options);
  /** Free nodes go to those that wait; gathered, because a released rack comes node by node. */
  const kickWaiting = (): void => {
    cancelKick ??= clock.setTimer(gatherMs, () => {
      cancelKick = undefined;
      for (const [key, allocation] of entries(fleet)) {
        if ((allocation.status?.replicas ?? 0) < allocation.spec.replicas) wakeAllocation(key, 0);
      }
    });
  };
  const refreshFree = (name: string): void => {
    if (placer.refresh(name)) kickWaiting();
  };
  const wakeAgentOf = (name: string, afterMs: number): void => {
    const agent = fleet.agentNameOf(name);
    if (agent) queues.agents.add(agent, { afterMs });
  };

  const unsubscribe = [
    fleet.nodes.onChange((name, before, after) => {
      queues.nodes.add(name);
      refreshFree(name);
      const [old, decision] = [before?.spec?.decision, after?.spec?.decision];
      if (decision?.action === 'Adopt' && JSON.stringify(old) !== JSON.stringify(decision)) {
        for (const key of fleet.allocations.keys()) wakeAllocation(key, gatherMs);
      }
      const owner = ownerKey(before);
      if (owner) wakeOwner(owner, gatherMs);
      wakeOwners(name, gatherMs);
      if (after === undefined) wakeAgentOf(name, 0);
      else wakeAgentOf(name, progressMs);
    }),
    fleet.allocations.onChange((key, before, after) => {
      for (const name of fleet.assignments.update(key, after)) {
        queues.nodes.add(name);
        refreshFree(name);
      }
      if (termsOf(before) !== termsOf(after)) for (const name of fleet.assignments.nodesOf(key)) queues.nodes.add(name);
      if (after === undefined || before === undefined || before.metadata.uid !== after.metadata.uid) {
        for (const node of fleet.nodes.byIndex(byClaimOwner, key)) queues.nodes.add(node.metadata.name);
      }
      // What only its own status changed is mostly our own write: it must not be looked at again for that alone, at once and
      // whole, while its nodes go one by one.
      if (asked(before) === asked(after)) wakeOwner(key, gatherMs);
      else wakeAllocation(key, 0);
    }),
    fleet.environments.onChange((key) => {
      queues.environments.add(key);
      for (const allocation of fleet.allocations.byIndex(byEnvironment, key)) {
        wakeAllocation(`${allocation.metadata.namespace}/${allocation.metadata.name}`, 0);
      }
    }),
    fleet.agents.onChange((key) => queues.agents.add(key)),
  ];
  fleet.onNote = (name) => {
    refreshFree(name);
    wakeOwners(name, gatherMs);
    wakeAgentOf(name, progressMs);
  };
  return {
    onObservation: (name) => {
      queues.nodes.add(name);
      wakeOwners(name, progressMs);
    },
    onLink: (agentName) => {
      queues.agents.add(agentName);
      const link = [...fleet.links()].find((candidate) => candidate.name === agentName);
      if (link !== undefined) options.terms.heard(link);
      for (const name of link?.nodes.keys() ?? []) {
        queues.nodes.add(name);
        // Its nodes are free while their observations count, and not without.
        refreshFree(name);
      }
    },
    stop: () => {
      cancelKick?.();
      for (const end of unsubscribe) end();
      fleet.onNote = () => {};
    },
  };
}

function* entries(fleet: Fleet): Iterable<[string, NodeAllocation]> {
  for (const key of fleet.allocations.keys()) {
    const allocation = fleet.allocations.getByKey(key);
    if (allocation) yield [key, allocation];
  }
}

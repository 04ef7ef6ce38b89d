/**
 * The running operator of one leadership: caches, queues and workers, and what wakes whom.
 *
 * Invariants:
 * 1. No decision is made before every cache has synced and every known agent was dialled.
 * 2. One worker a key: two reconcilers never work on the same object at once.
 * 3. After `stop()` resolves nothing is written or sent any more.
 */
import type { AgentConnector } from '../agents/port.ts';
import { bitVisorAgents, computeEnvironments, type KubeObject, nodeAllocations, physicalNodes } from '../api/meta.ts';
import type { BitVisorAgent, ComputeEnvironment, NodeAllocation, PhysicalNode } from '../api/types.generated.ts';
import type { EventRecorder } from '../kube/events.ts';
import { type Informer, startInformer } from '../kube/informer.ts';
import type { GroupVersionKind, KubeClient } from '../kube/port.ts';
import { createStore, type Indexer, type Store } from '../kube/store.ts';
import { type Clock, sleep } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import type { Metrics } from '../runtime/metrics.ts';
import { WorkQueue } from '../runtime/queue.ts';
import type { Random } from '../runtime/random.ts';
import { type Reconcile, startWorker, type Worker } from '../runtime/worker.ts';
import { AgentReconciler } from './agent.ts';
import { AllocationReconciler } from './allocation.ts';
import { Assignments } from './assignments.ts';
import { Dispatcher } from './dispatcher.ts';
import { reconcileEnvironment } from './environment.ts';
import { recorderFor } from './events.ts';
import { Fleet } from './fleet.ts';
import { createGuards, type GuardSettings } from './guards.ts';
import { allocationIndexes, nodeIndexes } from './indexes.ts';
import { MachineFileWriter } from './machine-files.ts';
import { NodeReconciler } from './node.ts';
import { FleetPlacer } from './placer.ts';
import { AgentTerms } from './terms.ts';
import { connectTriggers, type Queues } from './triggers.ts';

export interface OperatorOptions {
  readonly client: KubeClient;
  readonly connector: AgentConnector;
  readonly events: EventRecorder;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics?: Metrics;
  /** The term of this leadership; undefined once it is over. */
  readonly term: () => number | undefined;
  /** Somebody knows a term of `above` or higher: take one above it. */
  readonly raiseTerm: (above: number) => void;
  readonly settings: GuardSettings & {
    /** How long a guest may take to shut down, in seconds. */
    readonly drainSeconds: number;
  };
}

export interface Operator {
  readonly fleet: Fleet;
  /** Keys that are ready or under way; 0 when the operator has nothing to do now. */
  busy(): number;
  stop(): Promise<void>;
}

/** Status patches under way at once; the API server's fair queueing bears it for one client (429 begins far above). */
const nodeConcurrency = 24;
const otherConcurrency = 4;
/** How long the start waits for agents to connect before it decides without those that do not. */
const agentPatienceMs = 10_000;

interface Cache<T extends KubeObject> {
  readonly store: Store<T>;
  readonly informer: Informer;
}

function cacheOf<T extends KubeObject>(
  options: OperatorOptions,
  gvk: GroupVersionKind,
  indexes?: Readonly<Record<string, Indexer<T>>>,
): Cache<T> {
  const { client, clock, random, metrics } = options;
  const log = options.log.child({ kind: gvk.kind });
  const { reader, writer } = createStore<T>({ log, ...(indexes ? { indexes } : {}) });
  const onList = metrics ? { onList: () => metrics.relists.inc({ kind: gvk.kind }) } : {};
  return { store: reader, informer: startInformer<T>({ client, gvk, writer, clock, random, log, ...onList }) };
}

interface Caches {
  readonly nodes: Cache<PhysicalNode>;
  readonly allocations: Cache<NodeAllocation>;
  readonly environments: Cache<ComputeEnvironment>;
  readonly agents: Cache<BitVisorAgent>;
}

interface Parts {
  readonly fleet: Fleet;
  readonly queues: Queues;
  readonly reconcile: Readonly<Record<keyof Queues, Reconcile>>;
  /** Ends what the reconcilers set going by themselves. */
  readonly stop: () => void;
}

function openCaches(options: OperatorOptions): Caches {
  return {
    nodes: cacheOf<PhysicalNode>(options, physicalNodes, nodeIndexes),
    allocations: cacheOf<NodeAllocation>(options, nodeAllocations, allocationIndexes),
    environments: cacheOf<ComputeEnvironment>(options, computeEnvironments),
    agents: cacheOf<BitVisorAgent>(options, bitVisorAgents),
  };
}

function assemble(options: OperatorOptions, caches: Caches): Parts {
  const { client, clock, random, log, connector, settings } = options;
  const { nodes, allocations, environments, agents } = caches;
  const stores = {
    nodes: nodes.store,
    allocations: allocations.store,
    environments: environments.store,
    agents: agents.store,
  };
  const fleet = new Fleet(stores, new Assignments(), () => clock.now());
  const placer = new FleetPlacer(fleet);
  const guards = createGuards(fleet, clock, settings);
  const queues: Queues = {
    nodes: new WorkQueue(clock),
    allocations: new WorkQueue(clock),
    environments: new WorkQueue(clock),
    agents: new WorkQueue(clock),
  };
  const { term, raiseTerm } = options;
  const terms = new AgentTerms({ term, raiseTerm, log });
  const triggers = connectTriggers({ fleet, placer, queues, clock, terms });
  const dispatcher: Dispatcher = new Dispatcher({
    clock,
    log,
    termFor: (link) => terms.termFor(link),
    onDelivery: (instruction, delivery) => node.delivered(instruction, delivery),
  });
  const node: NodeReconciler = new NodeReconciler({
    client,
    fleet,
    dispatcher,
    events: recorderFor(options.events, physicalNodes),
    clock,
    random,
    term,
    requeue: (name, afterMs) => queues.nodes.add(name, { afterMs }),
    onStaleTerm: () => raiseTerm(term() ?? 0),
    drainSeconds: settings.drainSeconds,
  });
  const machineFiles = new MachineFileWriter(client, fleet);
  const events = recorderFor(options.events, nodeAllocations);
  const onCommitted = (committed: NodeAllocation): Promise<void> => machineFiles.write(committed);
  const allocation = new AllocationReconciler({ client, fleet, placer, guards, events, clock, onCommitted });
  const { onObservation: onNodeChange, onLink: onLinkChange } = triggers;
  const onAgentChange = (name: string): void => queues.agents.add(name);
  const agent = new AgentReconciler({
    client,
    fleet,
    connector,
    clock,
    onNodeChange,
    onLinkChange,
    onAgentChange,
  });
  return {
    fleet,
    queues,
    reconcile: {
      nodes: (key) => node.reconcile(key),
      allocations: (key) => allocation.reconcile(key),
      environments: (key) => reconcileEnvironment({ client, environments: environments.store, clock }, key),
      agents: (key) => agent.reconcile(key),
    },
    stop: () => {
      dispatcher.stop();
      triggers.stop();
      agent.stop();
    },
  };
}

/** Resolves when the caches have synced and the workers run. */
export async function startOperator(options: OperatorOptions, signal: AbortSignal): Promise<Operator> {
  const { clock, random, log, metrics } = options;
  const caches = openCaches(options);
  const { fleet, queues, reconcile, stop: stopParts } = assemble(options, caches);
  const workers: Worker[] = [];
  const start = (name: keyof Queues, concurrency: number): void => {
    const shared = { clock, random, log, ...(metrics ? { metrics } : {}) };
    workers.push(startWorker({ ...shared, name, concurrency, queue: queues[name], reconcile: reconcile[name] }));
  };
  const stop = async (): Promise<void> => {
    const informers = Object.values(caches).map(({ informer }) => informer.stop());
    await Promise.all([...workers.map((worker) => worker.stop()), ...informers]);
    stopParts();
    for (const queue of Object.values(queues)) queue.close();
  };
  try {
    await Promise.all(Object.values(caches).map(({ store }) => store.waitForSync(signal)));
    start('environments', otherConcurrency);
    start('agents', otherConcurrency);
    await dialled(fleet, clock, signal);
    start('nodes', nodeConcurrency);
    // One at a time, in the order of priority: who is served first is decided by the queue.
    start('allocations', 1);
  } catch (error) {
    await stop();
    throw error;
  }
  const busy = (): number => Object.values(queues).reduce((sum, queue) => sum + queue.depth + queue.inFlight, 0);
  return { fleet, busy, stop };
}

/** Every agent that the cache knows was dialled, and is connected or had its chance. */
async function dialled(fleet: Fleet, clock: Clock, signal: AbortSignal): Promise<void> {
  const deadline = clock.monotonic() + agentPatienceMs;
  while (clock.monotonic() < deadline) {
    const links = [...fleet.links()];
    const ready = links.length >= fleet.agents.size && links.every((link) => link.state().synced);
    if (ready) return;
    await sleep(clock, 50, signal);
  }
}

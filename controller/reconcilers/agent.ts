/**
 * The reconciler of one BitVisorAgent: keeps the link to it, makes PhysicalNodes for the machines that administrators
 * accept from it, and shows what it says. The only writer of BitVisorAgent.status.
 *
 * Invariants:
 * 1. A machine that is not in the hostlist never becomes a PhysicalNode, and nothing is ever sent for it.
 * 2. A node belongs to one agent; a second one that names it is told so and gets nothing.
 * 3. Status is written when it changed, at most once in `quietMs`.
 */
import type { AgentAddress, AgentConnector, AgentLink, LinkState } from '../agents/port.ts';
import { formatHostlist, HostlistError, parseHostlist } from '../api/hostlist.ts';
import { bitVisorAgents } from '../api/meta.ts';
import type { BitVisorAgent, BitVisorAgentStatus } from '../api/types.generated.ts';
import { type ConditionFacts, setCondition } from '../domain/conditions.ts';
import { isReclaiming } from '../domain/states.ts';
import { casPatchStatus } from '../kube/patch.ts';
import type { KubeClient } from '../kube/port.ts';
import { type Clock, toMetaTime } from '../runtime/clock.ts';
import type { Outcome } from '../runtime/worker.ts';
import type { Fleet } from './fleet.ts';
import { createNode } from './node-objects.ts';

export interface AgentReconcilerOptions {
  readonly client: KubeClient;
  readonly fleet: Fleet;
  readonly connector: AgentConnector;
  readonly clock: Clock;
  readonly onNodeChange: (nodeName: string) => void;
  readonly onLinkChange: (agentName: string) => void;
  /** Asks for another agent to be looked at. */
  readonly onAgentChange: (agentName: string) => void;
}

const quietMs = 2_000;
/** Objects made at once for one rack. */
const creationsAtOnce = 4;

interface Connection {
  readonly link: AgentLink;
  readonly address: string;
  accepted: string;
}

interface Accepted {
  own: ReadonlySet<string>;
  disputed: readonly string[];
  problem?: string;
}

export class AgentReconciler {
  readonly #options: AgentReconcilerOptions;
  readonly #connections = new Map<string, Connection>();
  readonly #writtenAt = new Map<string, number>();
  /** Agents whose hostlist names a node that another one has. */
  readonly #disputing = new Set<string>();

  constructor(options: AgentReconcilerOptions) {
    this.#options = options;
  }

  /** Closes every link. */
  stop(): void {
    for (const { link } of this.#connections.values()) link.close();
    this.#connections.clear();
  }

  async reconcile(name: string): Promise<Outcome> {
    const { fleet, clock } = this.#options;
    const agent = fleet.agents.getByKey(name);
    if (agent === undefined || agent.metadata.deletionTimestamp !== undefined) {
      this.#disconnect(name);
      this.#disputing.delete(name);
      if (fleet.setAccepted(name, []).changed) this.#wakeOthers(name);
      fleet.setCommission(name, undefined);
      return { kind: 'done' };
    }
    const accepted = this.#accept(agent);
    const link = this.#connect(agent, accepted.own);
    await this.#enrol(agent, link, accepted.own);
    const sinceMs = clock.monotonic() - (this.#writtenAt.get(name) ?? Number.NEGATIVE_INFINITY);
    if (sinceMs < quietMs) return { kind: 'after', ms: quietMs - sinceMs };
    return this.#report(agent, link.state(), accepted);
  }

  #accept(agent: BitVisorAgent): Accepted {
    const { fleet } = this.#options;
    const { name } = agent.metadata;
    let field = 'spec.nodes';
    try {
      const accepted = fleet.setAccepted(name, parseHostlist(agent.spec.nodes));
      if (accepted.disputed.length > 0) this.#disputing.add(name);
      else this.#disputing.delete(name);
      if (accepted.changed) this.#wakeOthers(name);
      field = 'spec.commission.nodes';
      const { commission } = agent.spec;
      const names = commission === undefined ? undefined : new Set(parseHostlist(commission.nodes));
      fleet.setCommission(name, commission && names ? { storeId: commission.storeId, names } : undefined);
      return accepted;
    } catch (error) {
      if (!(error instanceof HostlistError)) throw error;
      // The last good hostlist stays in force: a typing mistake must not make a rack vanish.
      const own = new Set<string>();
      for (const node of fleet.nodes.values())
        if (fleet.agentNameOf(node.metadata.name) === name) own.add(node.metadata.name);
      return { own, disputed: [], problem: `${field}: ${error.message}` };
    }
  }

  /** A node moves from one hostlist to another, in either order of the two edits. */
  #wakeOthers(name: string): void {
    for (const other of [...this.#connections.keys(), ...this.#disputing])
      if (other !== name) this.#options.onAgentChange(other);
  }

  #connect(agent: BitVisorAgent, own: ReadonlySet<string>): AgentLink {
    const { fleet, connector, onLinkChange, onNodeChange } = this.#options;
    const { name } = agent.metadata;
    const { endpoint, trust } = agent.spec;
    const { caBundle } = trust;
    const serverName = trust.serverName ?? name;
    const address = JSON.stringify([endpoint, caBundle, serverName]);
    const accepted = [...own].sort().join();
    const known = this.#connections.get(name);
    if (known?.address === address) {
      if (known.accepted !== accepted) {
        known.accepted = accepted;
        known.link.accept(own);
      }
      return known.link;
    }
    this.#disconnect(name);
    const trusted = caBundle === undefined ? {} : { caPem: caBundle };
    const dialled: AgentAddress = { name, endpoint, ...trusted, serverName, acceptedNodes: own };
    const link = connector.connect(dialled);
    link.onChange((nodeName) => {
      if (nodeName === null) {
        onLinkChange(name);
        return;
      }
      for (const other of fleet.observed(nodeName)) onNodeChange(other);
      if (fleet.nodes.getByKey(nodeName) === undefined) onLinkChange(name);
      onNodeChange(nodeName);
    });
    this.#connections.set(name, { link, address, accepted });
    fleet.setLink(name, link);
    return link;
  }

  #disconnect(name: string): void {
    this.#connections.get(name)?.link.close();
    this.#connections.delete(name);
    this.#options.fleet.setLink(name, undefined);
  }

  async #enrol(agent: BitVisorAgent, link: AgentLink, own: ReadonlySet<string>): Promise<void> {
    const { client, fleet } = this.#options;
    if (!link.state().synced) return;
    const missing = [...link.nodes.keys()]
      .filter((name) => own.has(name) && fleet.nodes.getByKey(name) === undefined)
      .sort();
    const queue = missing.values();
    const work = async (): Promise<void> => {
      for (const name of queue) {
        fleet.observed(name);
        await createNode(client, fleet, name, agent.metadata.name, agent.spec.location);
      }
    };
    await Promise.all(Array.from({ length: creationsAtOnce }, work));
  }

  async #report(agent: BitVisorAgent, link: LinkState, accepted: Accepted): Promise<Outcome> {
    const { client, fleet, clock } = this.#options;
    const status = this.#statusOf(agent, link, accepted);
    const result = await casPatchStatus(
      client,
      bitVisorAgents,
      agent,
      (draft) => {
        draft.status = status;
      },
      { noteWrite: (written) => fleet.agents.noteWrite(written) },
    );
    if (result.outcome === 'unknown') return { kind: 'retry', error: result.error };
    if (result.outcome === 'conflict') return { kind: 'after', ms: 0 };
    if (result.outcome === 'written' && result.changed) this.#writtenAt.set(agent.metadata.name, clock.monotonic());
    return { kind: 'done' };
  }

  #statusOf(agent: BitVisorAgent, link: LinkState, accepted: Accepted): BitVisorAgentStatus {
    const { fleet, clock } = this.#options;
    const counts = { accepted: accepted.own.size, reported: 0, available: 0, inUse: 0, reclaiming: 0, held: 0 };
    for (const name of accepted.own) {
      if (fleet.lastFactsOf(name) !== undefined) counts.reported++;
      const node = fleet.nodes.getByKey(name);
      if (node === undefined) continue;
      const state = fleet.stateOf(name);
      if (state === 'Available') counts.available++;
      else if (state === 'Quarantined' || state === 'Orphaned' || state === 'Maintenance') counts.held++;
      else if (isReclaiming(state)) counts.reclaiming++;
      else if (node.status?.claim !== undefined) counts.inUse++;
    }
    const generation = agent.metadata.generation ?? 0;
    let conditions = agent.status?.conditions ?? [];
    for (const truth of truthsOf(link, accepted)) {
      conditions = setCondition(conditions, truth, toMetaTime(clock.now()), generation);
    }
    const { hello } = link;
    return {
      ...agent.status,
      observedGeneration: generation,
      nodes: counts,
      conditions,
      ...(hello === undefined
        ? {}
        : {
            version: hello.version,
            protocol: hello.protocol,
            storeId: hello.storeId,
            capabilities: hello.capabilities,
          }),
      strangers: strangersOf(link.strangers),
    };
  }
}

/** Bounded as the schema bounds it; names that are no host names are left to the log. */
function strangersOf(names: readonly string[]): string {
  return formatHostlist(names).slice(0, 4096);
}

/** A condition of its own would be False on a rack that does what it was configured to. */
const connectedMessage = (capabilities: readonly string[]): string =>
  capabilities.includes('attestation:Token')
    ? 'its observations are complete; its nodes are attested by token alone, which does not prove what they booted'
    : 'its observations are complete';

function truthsOf(link: LinkState, accepted: Accepted): ConditionFacts[] {
  const error = link.lastError;
  const up = link.connected && link.synced;
  const problem =
    accepted.problem !== undefined
      ? { reason: 'InvalidHostlist', message: accepted.problem }
      : accepted.disputed.length > 0
        ? {
            reason: 'NodesDisputed',
            message: `another BitVisorAgent already speaks for ${formatHostlist(accepted.disputed)}`,
          }
        : error !== undefined && (error.reason === 'Protocol' || error.reason === 'Untrusted')
          ? { reason: error.reason, message: error.message }
          : undefined;
  return [
    up
      ? {
          type: 'Ready',
          status: 'True',
          reason: 'Connected',
          message: connectedMessage(link.hello?.capabilities ?? []),
        }
      : {
          type: 'Ready',
          status: 'False',
          reason: error?.reason ?? 'Connecting',
          message: error?.message ?? 'dialling',
        },
    {
      type: 'Reconciling',
      status: !up && problem === undefined ? 'True' : 'False',
      reason: up ? 'Settled' : 'Dialling',
      message: up ? 'nothing is left to do' : 'the connection is not complete',
    },
    problem === undefined
      ? { type: 'Stalled', status: 'False', reason: 'Working', message: 'nothing stands in the way' }
      : { type: 'Stalled', status: 'True', ...problem },
  ];
}

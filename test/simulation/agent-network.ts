/**
 * The way between one operator process and the agents, with everything that can happen on it.
 *
 * Invariants:
 * 1. A request that failed as `Unavailable` never arrives; after `Unknown` it was carried out, or will be, or never.
 * 2. The lines of one stream come in order, possibly late.
 */
import { MemoryAgents } from '../../controller/agents/memory.ts';
import { type AgentAddress, type AgentConnector, AgentError, type AgentLink } from '../../controller/agents/port.ts';
import type { Instruction, InstructionBatch, InstructionResult } from '../../controller/api/protocol.generated.ts';
import { sleep } from '../../controller/runtime/clock.ts';
import type { Random } from '../../controller/runtime/random.ts';
import type { AgentHost } from './agent-host.ts';
import { chance, int } from './chance.ts';
import type { CallSite } from './kube-network.ts';
import type { ProcessClock } from './process-clock.ts';
import type { World } from './world.ts';

/** Chances per request, 0 to 1, and how late lines may come; families set them. */
export interface AgentChances {
  /** Never arrives, and the operator knows. */
  unreachable: number;
  /** Never arrives, and the operator does not know. */
  lostRequest: number;
  lostAnswer: number;
  /** Only answers to the commit of a devirtualization. */
  lostCommitAnswer: number;
  slow: number;
  /** Arrives twice, the second time later. */
  twice: number;
  /** The operator gets no answer, and the request arrives minutes later. */
  late: number;
}

export const noAgentChances: AgentChances = {
  unreachable: 0,
  lostRequest: 0,
  lostAnswer: 0,
  lostCommitAnswer: 0,
  slow: 0,
  twice: 0,
  late: 0,
};

const longestLateMs = 600_000;
const longestSlowMs = 8_000;

export class AgentNetwork implements AgentConnector {
  readonly #world: World;
  readonly #clock: ProcessClock;
  readonly #random: Random;
  readonly #memory: MemoryAgents;
  readonly #links = new Set<AgentLink>();
  readonly #site: CallSite;
  readonly who: string;
  /** Racks that this process cannot reach. */
  readonly cut = new Set<string>();

  constructor(world: World, clock: ProcessClock, who: string, site: CallSite) {
    this.#world = world;
    this.#clock = clock;
    this.who = who;
    this.#site = site;
    this.#random = world.random(`agents of ${who}`);
    this.#memory = new MemoryAgents(clock);
  }

  /** Whoever speaks for the rack now is reached from now on; undefined: nobody. */
  attach(host: AgentHost): void {
    this.#clock.run(() => {
      if (this.cut.has(host.name) || !host.reachable) this.#memory.detach(host.name);
      else this.#memory.attach(host.name, host.peer());
    });
  }

  detach(name: string): void {
    this.#clock.run(() => this.#memory.detach(name));
  }

  connect(address: AgentAddress): AgentLink {
    const link = this.#memory.connect(address);
    this.#links.add(link);
    return new Proxy(link, {
      get: (target, property) => {
        if (property === 'instruct') {
          return (batch: readonly Instruction[], term: number) => this.#instruct(target, batch, term);
        }
        const value: unknown = Reflect.get(target, property, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
  }

  closeAll(): void {
    for (const link of this.#links) link.close();
    this.#links.clear();
  }

  #hit(kind: keyof AgentChances): boolean {
    if (!chance(this.#random, this.#world.agentChances[kind])) return false;
    this.#world.struck(`agents.${kind}`);
    return true;
  }

  #instruct(link: AgentLink, batch: readonly Instruction[], term: number): Promise<InstructionResult[]> {
    if (this.#clock.state === 'Dead') return new Promise(() => {});
    return this.#clock.receive(this.#travel(link, batch, term));
  }

  async #travel(link: AgentLink, batch: readonly Instruction[], term: number): Promise<InstructionResult[]> {
    const { clock } = this.#world;
    const what = `instruct ${link.name}`;
    if (!this.#site.passed('before', what)) return new Promise(() => {});
    if (this.#hit('unreachable')) throw new AgentError('Unavailable', link.name, 'simulated: not reached');
    if (this.#hit('lostRequest')) throw new AgentError('Unknown', link.name, 'simulated: no answer');
    if (this.#hit('late')) {
      this.#later(link.name, { term, instructions: [...batch] }, 1 + int(this.#random, longestLateMs));
      throw new AgentError('Unknown', link.name, 'simulated: no answer');
    }
    if (this.#hit('slow')) await sleep(clock, int(this.#random, longestSlowMs));
    if (this.#hit('twice')) {
      this.#later(link.name, { term, instructions: [...batch] }, 1 + int(this.#random, longestLateMs));
    }
    const results = await link.instruct(batch, term);
    if (!this.#site.passed('after', what)) return new Promise(() => {});
    if (this.#hit('lostAnswer')) throw new AgentError('Unknown', link.name, 'simulated: no answer');
    const commits = batch.some((one) => one.verb === 'devirtualize' && one.args.phase === 'Commit');
    if (commits && this.#hit('lostCommitAnswer')) throw new AgentError('Unknown', link.name, 'simulated: no answer');
    return results;
  }

  /** A message that was long under way to this very process of the agent, whatever became of its sender. */
  #later(name: string, batch: InstructionBatch, delayMs: number): void {
    const life = this.#world.agents.get(name)?.life;
    this.#world.clock.setTimer(delayMs, () => {
      const host = this.#world.agents.get(name);
      if (host?.life === undefined || host.life !== life) return;
      this.#world.trace.add(this.who, `late message to ${name}`);
      try {
        host.peer().instruct(batch);
      } catch {
        // Nobody waits for the answer.
      }
    });
  }
}

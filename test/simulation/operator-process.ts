/**
 * One process of the operator, as `bitvisor-operator controller` runs it: leader election, and the operator while it leads.
 *
 * Invariants:
 * 1. It can die at any call to the API server or to an agent, before or after that took effect, and then does nothing more.
 * 2. It ends when it lost leadership, as the real one does; a process that ended is started again with an empty memory.
 */

import { AgentError } from '../../controller/agents/port.ts';
import { type Leader, startLeader } from '../../controller/cli/leadership.ts';
import { defaultBlastSettings } from '../../controller/domain/blast.ts';
import { defaultGuardSettings } from '../../controller/domain/deletion-guard.ts';
import { KubeError } from '../../controller/kube/port.ts';
import type { Operator } from '../../controller/reconcilers/operator.ts';
import type { LogFields, Logger } from '../../controller/runtime/log.ts';
import { AgentNetwork } from './agent-network.ts';
import { gitCompanion, operatorNamespace, watchedSync } from './git-sync.ts';
import { KubeNetwork } from './kube-network.ts';
import { ProcessClock } from './process-clock.ts';
import type { World } from './world.ts';

export interface ProcessOptions {
  /** Of its wall clock. */
  readonly skewMs?: number;
  /** Of its monotonic clock: 0.5 runs at half the speed. */
  readonly rate?: number;
}

export class OperatorProcess {
  readonly name: string;
  readonly clock: ProcessClock;
  readonly kube: KubeNetwork;
  readonly agents: AgentNetwork;
  readonly #world: World;
  readonly #leader: Leader;
  readonly #close: () => void;
  /** It dies at the n-th call from now on, at this point of it. */
  #dieAt: { readonly point: 'before' | 'after'; left: number } | undefined;

  constructor(world: World, name: string, { skewMs = 0, rate = 1 }: ProcessOptions) {
    this.#world = world;
    this.name = name;
    this.clock = new ProcessClock(world.clock, skewMs, rate);
    const site = { passed: (point: 'before' | 'after', what: string) => this.#passed(point, what) };
    const connection = world.kube.connect();
    this.#close = () => void connection.close();
    const { git } = world;
    const watched = git === undefined ? connection : watchedSync(connection, world);
    this.kube = new KubeNetwork(world, watched, this.clock, name, site);
    this.agents = new AgentNetwork(world, this.clock, name, site);
    for (const host of world.agents.values()) this.agents.attach(host);
    world.trace.add(name, `starts, clock off by ${skewMs} ms, rate ${rate}`);
    this.#leader = startLeader({
      client: this.kube,
      connector: this.agents,
      clock: this.clock,
      random: world.random(`process ${name}`),
      log: simulatedLogger(world, name),
      settings: { deletions: defaultGuardSettings, blast: defaultBlastSettings, drainSeconds: 30 },
      namespace: operatorNamespace,
      identity: name,
      ...(git === undefined
        ? {}
        : {
            companion: gitCompanion(world, git.repository, {
              name,
              clock: this.clock,
              log: syncLogger(world, name),
            }),
          }),
      onLost: (reason) => {
        this.kill(`lost leadership: ${reason}`);
        world.restartOperator(this);
      },
    });
  }

  get alive(): boolean {
    return this.clock.state !== 'Dead';
  }

  operator(): Operator | undefined {
    return this.alive ? this.#leader.operator() : undefined;
  }

  /** As it believes. */
  leads(): boolean {
    return this.alive && this.#leader.isLeader();
  }

  dieAt(point: 'before' | 'after', calls: number): void {
    this.#dieAt = { point, left: calls };
  }

  #passed(point: 'before' | 'after', what: string): boolean {
    const fuse = this.#dieAt;
    if (fuse === undefined || fuse.point !== point || --fuse.left > 0) return this.alive;
    this.kill(`dies ${point} ${what}`);
    this.#world.restartOperator(this);
    return false;
  }

  kill(why: string): void {
    if (!this.alive) return;
    this.#world.trace.add(this.name, why);
    this.clock.kill();
    this.#dieAt = undefined;
    this.agents.closeAll();
    this.#close();
  }
}

const routine = (error: unknown): boolean => error instanceof KubeError || error instanceof AgentError;

/** What a process logs as an error and is no failure of its surroundings is a fault of its own. */
function simulatedLogger(world: World, who: string): Logger {
  const line = (level: string, message: string, fields: LogFields | undefined): void => {
    if (!world.verbose) return;
    const { err, ...rest } = fields ?? {};
    const shown = err instanceof Error ? ` ${err.message}` : '';
    world.print(`${world.clock.monotonic()} ${who} ${level}: ${message} ${JSON.stringify(rest)}${shown}`);
  };
  const logger: Logger = {
    debug: () => {},
    info: (message, fields) => line('info', message, fields),
    warn: (message, fields) => line('warn', message, fields),
    error: (message, fields) => {
      line('error', message, fields);
      const err = fields?.err;
      if (err instanceof Error && !routine(err)) world.unexpected(`${who}: ${message}`, err);
    },
    child: () => logger,
  };
  return logger;
}

/** The sync's loop goes on whatever a pass throws, and only says so. */
function syncLogger(world: World, name: string): Logger {
  const logger = simulatedLogger(world, name);
  const syncs: Logger = { ...logger, warn: logger.error, child: () => syncs };
  return syncs;
}

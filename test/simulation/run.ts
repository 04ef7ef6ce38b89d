/**
 * One seed: the room is brought in, the storm of people and faults, then rest, and the verdict.
 *
 * Invariants:
 * 1. Same seed, same kinds, same code: same trace, same verdict.
 * 2. A run never throws: whatever goes wrong is a violation of the result.
 */
import { defaultRoom } from '../../agent/drivers/simulated/options.ts';
import { confirmDeletionAnnotation } from '../../controller/domain/allocation-draft.ts';
import type { Random } from '../../controller/runtime/random.ts';
import { chance, pick, weighted } from './chance.ts';
import type { Violation } from './checkers/checker.ts';
import { families, kindsOf } from './faults/families.ts';
import type { FaultKind } from './faults/family.ts';
import { gitFaults, isOfGit } from './faults/git.ts';
import { operatorDown } from './faults/operator.ts';
import { People } from './people.ts';
import { type DownPlan, downPlanOf, type GitPlan, gitPlanOf, type Plan, planOf } from './plan.ts';
import { World } from './world.ts';

export interface RunOptions {
  readonly seed: number;
  /** Families or kinds that may strike; absent or empty: all. */
  readonly faults?: readonly string[];
  /** Instead of the mode that the seed draws. */
  readonly mode?: Plan['mode'];
  /** Gets every line of the trace, and what processes log. */
  readonly print?: (line: string) => void;
}

export interface SeedResult {
  readonly seed: number;
  /** Of the whole trace. */
  readonly hash: string;
  readonly traceLines: number;
  readonly virtualMs: number;
  /** Node-tenancies: claims that were written. */
  readonly tenancies: number;
  readonly plan: Plan;
  /** Faults that struck, by kind. */
  readonly strikes: Readonly<Record<string, number>>;
  readonly violations: readonly Violation[];
  /** The newest lines of the trace before the end. */
  readonly recent: readonly string[];
}

const enrolmentMs = 3 * 3_600_000;
const stepMs = 600_000;
/** Retries, backoff and a full wipe are over by then. */
const restBoundMs = 24 * 3_600_000;
/** So long without a write or a deed is rest: longer than an operation waits for its machine, and a pause after it. */
const quietMs = 3_600_000;

class Run {
  readonly world: World;
  readonly plan: Plan;
  readonly gitPlan: GitPlan | undefined;
  readonly downPlan: DownPlan | undefined;
  readonly people: People;

  constructor({ seed, faults = [], mode, print }: RunOptions) {
    const asked = kindsOf(faults);
    const kinds = asked.filter((kind) => kind !== operatorDown && !isOfGit(kind.name));
    const gitKinds = faults.length === 0 ? gitFaults.kinds : asked.filter(({ name }) => isOfGit(name));
    if (faults.length === 0 || gitKinds.length > 0)
      this.gitPlan = gitPlanOf(seed, gitKinds, gitKinds.length > 0 && faults.length > 0);
    if (asked.includes(operatorDown)) this.downPlan = downPlanOf(seed, faults.includes(operatorDown.name));
    this.plan = planOf(seed, faults.length === 0 ? families : [{ name: 'asked', kinds }], kinds, mode);
    const { racks, replicas, flushMs } = this.plan;
    const room = { durations: { ...defaultRoom.durations, flush: flushMs } };
    const git = this.gitPlan !== undefined;
    this.world = new World({ seed, racks, replicas, room, git, ...(print === undefined ? {} : { print }) });
    this.people = new People(this.world);
  }

  async storm(): Promise<void> {
    const { world, plan, people } = this;
    world.truth.faultless = plan.kinds.length === 0 && this.downPlan === undefined;
    await people.moveIn();
    if (plan.fromTheStart) this.#begin();
    else {
      const clean = (): boolean => {
        const nodes = world.nodes();
        return (
          nodes.length === world.machines.length &&
          nodes.every(({ status }) => status?.state === 'Available' || status?.state === 'Quarantined')
        );
      };
      for (let waited = 0; waited < enrolmentMs && !clean(); waited += 30_000) await world.clock.advance(30_000);
      if (!clean())
        world.truth.violated(8, `the room is not clean ${enrolmentMs / 3_600_000} h after it was brought in`);
      this.#begin();
    }
    const random = world.random('storm');
    const striking = plan.kinds
      .filter(({ kind }) => kind.strike !== undefined)
      .map(({ kind, strength }) => [kind, (kind.weight ?? 1) * strength] as const);
    for (let action = 0; action < plan.actions; action++) {
      const kind = chance(random, plan.peopleShare) ? undefined : weighted(random, striking);
      if (kind === undefined) await people.act();
      else {
        world.trace.add('fault', kind.name);
        const struck = await kind.strike?.(world, random);
        if (struck !== false) world.struck(kind.name);
      }
      await world.clock.advance(pick(random, plan.gapsMs));
    }
  }

  #begin(): void {
    for (const { kind, strength } of this.plan.kinds) {
      kind.begin?.(this.world, strength, this.world.random(kind.name));
    }
    this.#commitLater();
    this.#downLater();
  }

  /** The operator goes down beside everything else, until the storm is over. */
  #downLater(): void {
    const { world, downPlan } = this;
    if (downPlan === undefined) return;
    const random = world.random(operatorDown.name);
    world.clock.setTimer(pick(random, downPlan.gapsMs), () => {
      if (world.calm) return;
      void this.#strike(operatorDown, random);
      this.#downLater();
    });
  }

  /** Commits and what befalls the repository, beside everything else, until the storm is over. */
  #commitLater(): void {
    const { world, gitPlan } = this;
    if (gitPlan === undefined) return;
    const random = world.random('git storm');
    const striking = gitPlan.kinds.map(({ kind, strength }) => [kind, (kind.weight ?? 1) * strength] as const);
    world.clock.setTimer(pick(random, gitPlan.gapsMs), () => {
      if (world.calm) return;
      const kind = chance(random, gitPlan.faultShare) ? weighted(random, striking) : undefined;
      if (kind === undefined) world.git?.act();
      else void this.#strike(kind, world.random('git faults'));
      this.#commitLater();
    });
  }

  async #strike(kind: FaultKind, random: Random): Promise<void> {
    const { world } = this;
    world.trace.add('fault', kind.name);
    try {
      if ((await kind.strike?.(world, random)) !== false) world.struck(kind.name);
    } catch (error) {
      world.unexpected(kind.name, error);
    }
  }

  /** Faults stop, people say what they still owe, and everything gets its time. */
  async rest(): Promise<void> {
    const { world } = this;
    world.trace.add('fault', 'over');
    world.calm = true;
    for (const { kind } of this.plan.kinds) await kind.end?.(world);
    await operatorDown.end?.(world);
    for (const host of world.agents.values()) {
      host.dieAt('act', Number.POSITIVE_INFINITY);
      host.start();
    }
    world.git?.settle();
    await this.people.putAgentsRight();
    for (const one of [...world.processes]) one.dieAt('after', Number.POSITIVE_INFINITY);
    for (const node of world.nodes()) if (node.spec?.maintenance) await this.people.maintain(node, false);
    for (const { metadata, spec } of world.allocations()) {
      await this.people.editAllocation(metadata.name, {
        metadata: { annotations: { [confirmDeletionAnnotation]: metadata.uid } },
        ...(spec.suspend ? { spec: { suspend: false } } : {}),
      });
    }
    let quiet = 0;
    for (let waited = 0; waited < restBoundMs && quiet < quietMs; waited += stepMs) {
      const before = world.truth.writes + world.truth.deeds;
      await world.clock.advance(stepMs);
      quiet = world.truth.writes + world.truth.deeds === before ? quiet + stepMs : 0;
    }
    if (quiet < quietMs)
      world.truth.violated(8, `something is still written ${restBoundMs / 3_600_000} h after the faults`);
    world.truth.atRest();
  }

  result(): SeedResult {
    const { world, plan } = this;
    const errors = world.unexpectedErrors.map(({ where, error }): Violation => {
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
      return { rule: 0, message: `${where}: ${text}`, atMs: world.clock.monotonic() };
    });
    return {
      seed: world.seed,
      hash: world.trace.digest(),
      traceLines: world.trace.length,
      virtualMs: world.clock.monotonic(),
      tenancies: world.truth.tenancies,
      plan,
      strikes: Object.fromEntries([...world.strikes].sort(([a], [b]) => (a < b ? -1 : 1))),
      violations: [...world.truth.violations, ...errors],
      recent: world.trace.recent(),
    };
  }
}

export async function runSeed(options: RunOptions): Promise<SeedResult> {
  const run = new Run(options);
  try {
    await run.storm();
    await run.rest();
  } catch (error) {
    run.world.unexpected('the run', error);
  }
  run.world.stop();
  return run.result();
}

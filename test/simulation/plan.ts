/**
 * What a seed stands for: how large the room is, how long the storm lasts, and which faults strike how strongly.
 *
 * Invariant: the plan follows from the seed and the kinds asked for alone.
 */
import { chance, int, pick, stream, weighted } from './chance.ts';
import type { FaultFamily, FaultKind } from './faults/family.ts';

export interface PlannedKind {
  readonly kind: FaultKind;
  /** 0 (exclusive) to 1. */
  readonly strength: number;
}

export interface Plan {
  /** Asked: all that were asked for, together and strongly. */
  readonly mode: 'Calm' | 'OneKind' | 'OneFamily' | 'Some' | 'All' | 'Asked';
  readonly racks: Readonly<Record<string, string>>;
  readonly replicas: number;
  readonly kinds: readonly PlannedKind[];
  /** Actions of people and strikes of faults together. */
  readonly actions: number;
  /** Of the actions, the share that is people's. */
  readonly peopleShare: number;
  /** Faults strike from the first moment on, not only once the room is clean. */
  readonly fromTheStart: boolean;
  /** Milliseconds between two actions are drawn from these. */
  readonly gapsMs: readonly number[];
  /** From the last block until the disks have it out of their write cache. */
  readonly flushMs: number;
}

const denseGapsMs = [0, 100, 500, 2_000, 10_000, 30_000, 90_000];
const sparseGapsMs = [0, 1_000, 30_000, 120_000, 300_000];

/** @param asked instead of the mode that the seed draws */
export function planOf(
  seed: number,
  families: readonly FaultFamily[],
  kinds: readonly FaultKind[],
  asked?: Plan['mode'],
): Plan {
  const random = stream(seed, 'plan');
  const drawnMode =
    weighted<Plan['mode']>(random, [
      ['Calm', 1],
      ['OneKind', 4],
      ['OneFamily', 5],
      ['Some', 7],
      ['All', 3],
    ]) ?? 'Some';
  const mode = asked ?? drawnMode;
  const strength = (): number => (mode === 'Asked' ? 0.5 + random.next() / 2 : Math.max(0.02, random.next() ** 2));
  const family = pick(random, families);
  const only = kinds.length === 0 ? undefined : pick(random, kinds);
  const chosen = kinds.filter((kind) => {
    const drawn = chance(random, 0.35);
    if (mode === 'OneKind') return kind === only;
    if (mode === 'OneFamily') return family.kinds.includes(kind);
    return mode === 'All' || mode === 'Asked' || (mode === 'Some' && drawn);
  });
  const rackCount = 1 + int(random, 3);
  const racks: Record<string, string> = {};
  for (let rack = 0; rack < rackCount; rack++) racks[`r${rack}`] = `r${rack}n[0-${2 + int(random, 4)}]`;
  return {
    mode,
    racks,
    replicas: chance(random, 0.6) ? 2 : 1,
    kinds: chosen.map((kind) => ({ kind, strength: mode === 'All' ? strength() * 0.4 : strength() })),
    actions: 40 + int(random, 50),
    peopleShare: chosen.some(({ weight = 0 }) => weight > 0) ? 0.35 + 0.4 * random.next() : 1,
    fromTheStart: chance(random, 0.25),
    gapsMs: chance(random, 0.75) ? denseGapsMs : sparseGapsMs,
    flushMs: pick(random, [500, 500, 30_000]),
  };
}

/** What happens in the repository of a world that has one. */
export interface GitPlan {
  readonly kinds: readonly PlannedKind[];
  /** Of the commits, the share that is a fault. */
  readonly faultShare: number;
  /** Milliseconds between two commits are drawn from these. */
  readonly gapsMs: readonly number[];
}

const gitShare = 0.25;

/**
 * Drawn from a stream of its own: whatever a seed stood for before there was git, it stands for where it has none.
 * @param asked the seed has git, whatever it draws; undefined: it has git if it draws so
 */
export function gitPlanOf(seed: number, kinds: readonly FaultKind[], asked: boolean): GitPlan | undefined {
  const random = stream(seed, 'git plan');
  if (!chance(random, gitShare) && !asked) return undefined;
  const isSome = chance(random, 0.7);
  const chosen = kinds.filter(() => chance(random, 0.5) || !isSome);
  return {
    kinds: chosen.map((kind) => ({ kind, strength: Math.max(0.05, random.next()) })),
    faultShare: chosen.length === 0 ? 0 : 0.2 + 0.5 * random.next(),
    gapsMs: chance(random, 0.5) ? [1_000, 10_000, 30_000, 90_000] : [30_000, 120_000, 300_000],
  };
}

/** When all of the operator is down, in a seed that has it. */
export interface DownPlan {
  /** Milliseconds from one time to the next, the time down included, are drawn from these. */
  readonly gapsMs: readonly number[];
}

const downShare = 0.15;

/**
 * Drawn from a stream of its own, as git's plan is, and under a name with which no seed that shows a mutant has it.
 * @param asked the seed has it, whatever it draws
 */
export function downPlanOf(seed: number, asked: boolean): DownPlan | undefined {
  const random = stream(seed, 'down times');
  if (!chance(random, downShare) && !asked) return undefined;
  return { gapsMs: chance(random, 0.5) ? [60_000, 180_000, 400_000] : [200_000, 600_000, 1_500_000] };
}

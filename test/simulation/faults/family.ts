/**
 * A family of faults: what a fault is to the runner. One file a family; `families.ts` lists them.
 *
 * A kind either strikes (once each time that it is drawn), or is set at the start of the run and ends with the storm, or both.
 * The seed draws which kinds are on and how strong each is; some seeds have only one, so that it can be blamed.
 *
 * Invariants that a family keeps:
 * 1. Chance comes from the `random` given or from `world.random(name)`, time from `world.clock`; nothing else.
 * 2. `end` leaves nothing behind that would keep the system from coming to rest: machines that were broken for good are told
 *    to the truth (`world.truth`), so that the checkers do not wait for them.
 */
import type { Random } from '../../../controller/runtime/random.ts';
import type { World } from '../world.ts';

export interface FaultKind {
  /** `family.kind`; unique, as the summary shows it. */
  readonly name: string;
  /** How often it is drawn in comparison with others; 0 or absent for a kind that only begins and ends. */
  readonly weight?: number;
  /** Does it once. @returns false when there was nothing to do it to, which is not counted */
  readonly strike?: (world: World, random: Random) => boolean | Promise<boolean>;
  /** Sets a lasting chance for the whole storm; whoever then rolls it calls `world.struck(name)` for each hit. */
  readonly begin?: (world: World, strength: number, random: Random) => void;
  /** The storm is over: undo what lasts. Called for every kind that was on. */
  readonly end?: (world: World) => void | Promise<void>;
}

export interface FaultFamily {
  /** As `--faults` names it. */
  readonly name: string;
  readonly kinds: readonly FaultKind[];
}

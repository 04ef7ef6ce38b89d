/**
 * Under which term an agent may be instructed: above every one that it had heard of when this leadership first met it.
 *
 * Invariants:
 * 1. What an agent knows at the first meeting is somebody else's term, also when it is the very number of ours: a Lease that was
 *    restored from a backup gives numbers out again. Nothing is sent to the agent until a term above it was taken.
 * 2. A report that leaps further ahead than leaderships could have is a lie: it raises nothing, and that agent alone gets nothing.
 */
import type { AgentLink } from '../agents/port.ts';
import type { Logger } from '../runtime/log.ts';

/** A leadership a second for eleven days; so many lies that each leap so far use up no number that a Lease can hold. */
const furthestLeap = 1_000_000;

export interface TermOptions {
  /** The term of this leadership; undefined once it is over. */
  readonly term: () => number | undefined;
  /** Asks for a term above `above`. */
  readonly raiseTerm: (above: number) => void;
  readonly log: Logger;
}

export class AgentTerms {
  readonly #options: TermOptions;
  /** The highest term of others that each link's agent reported. */
  readonly #others = new WeakMap<AgentLink, number>();

  constructor(options: TermOptions) {
    this.#options = options;
  }

  /** Takes in the hello of a link, if it has one. */
  heard(link: AgentLink): void {
    const { hello } = link.state();
    const term = this.#options.term();
    if (hello === undefined || term === undefined) return;
    const { highestTerm } = hello;
    const known = this.#others.get(link);
    if (known === highestTerm || (known !== undefined && highestTerm <= term)) return;
    this.#others.set(link, highestTerm);
    if (highestTerm < term) return;
    if (highestTerm - term <= furthestLeap) this.#options.raiseTerm(highestTerm);
    else this.#options.log.warn('an agent reports a term that cannot be', { agent: link.name, highestTerm, term });
  }

  /** Undefined: nothing may be sent now. */
  termFor(link: AgentLink): number | undefined {
    if (!this.#others.has(link)) this.heard(link);
    const term = this.#options.term();
    const others = this.#others.get(link);
    return term !== undefined && others !== undefined && others < term ? term : undefined;
  }
}

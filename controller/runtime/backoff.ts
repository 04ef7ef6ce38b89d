/**
 * How long to wait after a failure: exponential, capped, jittered, counted per key.
 *
 * Invariants:
 * 1. A delay never exceeds `capMs`, and never falls below `(1 - jitter)` of its unjittered value.
 * 2. Only keys that failed since their last success are remembered.
 */
import type { Random } from './random.ts';

export interface BackoffPolicy {
  /** The first delay, before jitter. */
  readonly initialMs: number;
  /** Each further delay is this many times the one before. */
  readonly factor: number;
  readonly capMs: number;
  /** 0 to 1: the share of the delay that chance may take away, so that many failures at once do not retry at once. */
  readonly jitter: number;
}

/** Reconcilers: quick enough to hide one lost race, and at most a look every five minutes at what stays broken. */
export const reconcileBackoff: BackoffPolicy = { initialMs: 200, factor: 2, capMs: 300_000, jitter: 0.5 };

/** Watches and connections: client-go's reflector waits 0.8 s to 30 s. */
export const connectionBackoff: BackoffPolicy = { initialMs: 800, factor: 2, capMs: 30_000, jitter: 0.5 };

/**
 * The delay after the `failures`-th failure in a row (1 for the first).
 * @param chance a draw from [0, 1)
 */
export function backoffDelayMs(policy: BackoffPolicy, failures: number, chance: number): number {
  const exponent = Math.max(0, failures - 1);
  const full = Math.min(policy.capMs, policy.initialMs * policy.factor ** exponent);
  return full * (1 - policy.jitter * chance);
}

export class KeyedBackoff {
  readonly #failures = new Map<string, number>();
  readonly #policy: BackoffPolicy;
  readonly #random: Random;

  constructor(policy: BackoffPolicy, random: Random) {
    this.#policy = policy;
    this.#random = random;
  }

  /** Counts a failure of `key` and returns how long to wait. */
  next(key: string): number {
    const failures = (this.#failures.get(key) ?? 0) + 1;
    this.#failures.set(key, failures);
    return backoffDelayMs(this.#policy, failures, this.#random.next());
  }

  /** Failures of `key` since its last success. */
  failures(key: string): number {
    return this.#failures.get(key) ?? 0;
  }

  succeeded(key: string): void {
    this.#failures.delete(key);
  }
}

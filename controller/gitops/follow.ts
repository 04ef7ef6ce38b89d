/**
 * Keeps the cluster at what a branch says: a pass now and then, and at once when something happened.
 *
 * Invariants:
 * 1. One pass at a time; a trigger during a pass brings exactly one more after it.
 * 2. A pass that throws is followed by another after a growing, jittered delay; nothing ends the loop but `stop`.
 */
import { type BackoffPolicy, backoffDelayMs } from '../runtime/backoff.ts';
import { type Clock, sleep } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import type { Random } from '../runtime/random.ts';
import type { SyncResult } from './status.ts';

export interface FollowOptions {
  readonly pass: (signal: AbortSignal) => Promise<SyncResult>;
  /** Cheap; see Source.changeToken. */
  readonly changeToken: () => Promise<string | undefined>;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** Between passes, with up to a tenth less by chance. Default one minute. */
  readonly intervalMs?: number;
  /** Between looks at the change token. Default one second. */
  readonly tokenIntervalMs?: number;
  readonly onResult?: (result: SyncResult) => void;
}

export interface Follower {
  /** Asks for a pass now. */
  trigger(): void;
  /** Ends the pass under way and resolves when nothing runs any more. */
  stop(): Promise<void>;
}

const failureBackoff: BackoffPolicy = { initialMs: 1_000, factor: 2, capMs: 60_000, jitter: 0.5 };

class Loop implements Follower {
  readonly #options: FollowOptions;
  readonly #stopping = new AbortController();
  readonly #ended: Promise<unknown>;
  #isWanted = true;
  #wake: AbortController = new AbortController();

  constructor(options: FollowOptions) {
    this.#options = options;
    this.#ended = Promise.all([this.#passes(), this.#watchToken()]);
  }

  trigger(): void {
    this.#isWanted = true;
    this.#wake.abort();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#wake.abort();
    await this.#ended;
  }

  async #passes(): Promise<void> {
    const { clock, random, log, intervalMs = 60_000, onResult, pass } = this.#options;
    let failures = 0;
    while (!this.#stopping.signal.aborted) {
      this.#isWanted = false;
      this.#wake = new AbortController();
      let delayMs = intervalMs * (1 - 0.1 * random.next());
      try {
        const result = await pass(this.#stopping.signal);
        failures = 0;
        onResult?.(result);
      } catch (error) {
        if (this.#stopping.signal.aborted) return;
        failures += 1;
        delayMs = Math.min(delayMs, backoffDelayMs(failureBackoff, failures, random.next()));
        log.warn('sync failed', { err: error, retryInMs: Math.round(delayMs) });
      }
      if (!this.#isWanted) await sleep(clock, delayMs, this.#wake.signal).catch(() => undefined);
    }
  }

  async #watchToken(): Promise<void> {
    const { clock, changeToken, tokenIntervalMs = 1_000 } = this.#options;
    let known = await changeToken().catch(() => undefined);
    while (!this.#stopping.signal.aborted) {
      await sleep(clock, tokenIntervalMs, this.#stopping.signal).catch(() => undefined);
      const token = await changeToken().catch(() => undefined);
      if (token !== known && !this.#stopping.signal.aborted) this.trigger();
      known = token;
    }
  }
}

/** Starts with a pass at once. */
export function follow(options: FollowOptions): Follower {
  return new Loop(options);
}

/**
 * Certificates on disk, followed while the program runs: whoever rotates them replaces files, and restarts nothing.
 *
 * Invariants:
 * 1. What cannot be read, or does not fit together, changes nothing; it is said once, and looked at again.
 * 2. Files are looked at by their content: a mounted Secret changes by a link, which no file's own time shows.
 */
import { type Clock, sleep } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';

/** Certificates are renewed days before they end; a person who tries it out should not wait for a minute. */
const lookEveryMs = 5_000;

export interface FollowOptions<T> {
  readonly clock: Clock;
  readonly log: Logger;
  readonly signal: AbortSignal;
  /** What is in force now. */
  readonly current: T;
  /** @throws when a file cannot be read */
  readonly read: () => T;
  /** @throws when they do not fit together */
  readonly apply: (files: T) => void;
}

/** Resolves when the signal has ended it. Files are compared by their JSON. */
export async function followFiles<T>(options: FollowOptions<T>): Promise<void> {
  const { clock, log, signal, read, apply } = options;
  let inForce = JSON.stringify(options.current);
  let said = '';
  while (!signal.aborted) {
    try {
      await sleep(clock, lookEveryMs, signal);
    } catch {
      return;
    }
    try {
      const files = read();
      const text = JSON.stringify(files);
      if (text !== inForce) {
        apply(files);
        inForce = text;
        log.info('renewed certificates are in force');
      }
      said = '';
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      if (why !== said) log.warn('renewed certificates cannot be used; those before stay in force', { err: error });
      said = why;
    }
  }
}

/**
 * Seeds on several processes at once, one seed at a time each: what a run with many cores, or of an hour, is made of.
 *
 * Invariants:
 * 1. A seed's result is the same whichever process ran it, and beside whatever others.
 * 2. A process that dies takes its own seed alone with it, which is then a seed that failed; another process takes its place.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { SeedResult } from './run.ts';

/** What a process says of a seed. */
export interface JobAnswer {
  readonly result: Pick<SeedResult, 'seed' | 'hash' | 'virtualMs' | 'tenancies' | 'plan' | 'strikes' | 'violations'>;
  readonly cpuSeconds: number;
}

export interface JobsOptions {
  readonly jobs: number;
  readonly faults: readonly string[];
  /** The next seed, in their order; undefined: no more. */
  readonly next: () => number | undefined;
  readonly done: (answer: JobAnswer) => void;
  /** A process ended in the middle of this seed; what it said of it stands on stderr. */
  readonly died: (seed: number, how: string) => void;
  /** The module that a process runs; tests have one of their own. */
  readonly worker?: URL;
}

/** Resolves when every seed was answered. */
export async function runJobs({ jobs, faults, next, done, died, worker }: JobsOptions): Promise<void> {
  const path = fileURLToPath(worker ?? new URL('job.ts', import.meta.url));
  await Promise.all(
    Array.from({ length: jobs }, async () => {
      let child: ChildProcess | undefined;
      for (let seed = next(); seed !== undefined; seed = next()) {
        child ??= fork(path, [...faults]);
        const answer = await ask(child, seed);
        if (typeof answer !== 'string') {
          done(answer);
          continue;
        }
        child = undefined;
        died(seed, answer);
      }
      child?.disconnect();
    }),
  );
}

/** @returns a text when the process ended instead */
function ask(child: ChildProcess, seed: number): Promise<JobAnswer | string> {
  return new Promise((resolve) => {
    const end = (answer: JobAnswer | string): void => {
      child.removeAllListeners();
      resolve(answer);
    };
    child.once('message', (message) => end(message as JobAnswer));
    child.once('exit', (code, signal) => end(`its process ended with ${signal ?? code}`));
    child.once('error', (error) => end(error.message));
    child.send(seed);
  });
}

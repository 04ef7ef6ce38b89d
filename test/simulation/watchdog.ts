/**
 * Ends a run that hangs in promises of which none ever waits for a timer: no timer of the same thread can, and the virtual clock's own
 * guard (HotLoopError) sees only timers. It says which seed it was and where the thread is.
 *
 * Invariant: it looks from outside; a run that goes on is the same with it and without.
 */
import { Worker } from 'node:worker_threads';

/** Of a run; a hundred times what one needs. */
export const patienceMs = 60_000;

export interface Watchdog {
  /** What it calls the run when that hangs. */
  begins(seed: number): void;
}

/** @param limitMs for which the thread must neither come to wait for anything nor begin a run, before the process is ended by SIGKILL */
export function startWatchdog(limitMs: number): Watchdog {
  const beats = new Int32Array(new SharedArrayBuffer(4));
  const seeds = new BigInt64Array(new SharedArrayBuffer(8));
  const workerData = { beats, seeds, patienceMs: limitMs };
  // None of what the process itself loads first is for this thread.
  new Worker(new URL('watchdog-worker.ts', import.meta.url), { workerData, execArgv: [] }).unref();
  const beat = (): void => void Atomics.add(beats, 0, 1);
  // Where the thread does wait. A run of the simulator need not, from its first line to its last, and the next one follows at once.
  setInterval(beat, limitMs / 16).unref();
  return {
    begins: (seed) => {
      Atomics.store(seeds, 0, BigInt(seed));
      beat();
    },
  };
}

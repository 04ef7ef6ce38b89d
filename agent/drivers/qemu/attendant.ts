/**
 * Attends to the background copy of a machine: starts it, paces it by what the guest does with its disk, and sees it to its end.
 *
 * Invariants:
 * 1. The copy that is shown was read from QEMU; it is shown in steps of a sixty-fourth, and its end at once.
 * 2. A QEMU that does not answer is asked again; only a copy that ended in error fails.
 */
import type { Environment } from '../../../controller/api/protocol.generated.ts';
import type { Clock } from '../../../controller/runtime/clock.ts';
import { CopyFailed, type CopyState, type GuestTraffic, type Mediator } from './mediator.ts';
import { type Pace, paceOf } from './pace.ts';

export interface AttendantOptions {
  readonly mediator: Mediator;
  readonly clock: Clock;
  readonly changed: () => void;
  /** Runs it while nothing else is done with the machine's disks. */
  readonly inTurn: (work: () => Promise<void>) => Promise<void>;
  readonly onFailed: (message: string) => void;
  readonly onError: (error: unknown) => void;
}

interface Task {
  readonly disk: string;
  readonly yielding: Environment['install']['yield'];
}

const lookEveryMs = 200;
/** After a look that failed. */
const lookAgainMs = 1_000;
const steps = 64;
/** A pace that differs less is not worth a command. */
const sameShare = 0.2;

export class Attendant {
  readonly #options: AttendantOptions;
  #task: Task | undefined;
  #maxRateBytes: number | undefined;
  #copy: CopyState | undefined;
  #cancel: (() => void) | undefined;
  #traffic: (GuestTraffic & { readonly atMs: number }) | undefined;
  #quietSinceMs = 0;
  #pace: Pace = { isPaused: false, bytesPerSecond: 0 };

  constructor(options: AttendantOptions) {
    this.#options = options;
  }

  get copy(): CopyState | undefined {
    return this.#copy;
  }

  start(task: Task, maxRateBytes: number | undefined): void {
    this.stop();
    this.#task = task;
    this.#copy = undefined;
    this.#maxRateBytes = maxRateBytes;
    this.#pace = { isPaused: false, bytesPerSecond: maxRateBytes ?? 0 };
    this.#traffic = undefined;
    this.#quietSinceMs = this.#options.clock.monotonic();
    this.#lookIn(0);
  }

  throttle(maxRateBytes: number): void {
    this.#maxRateBytes = maxRateBytes;
  }

  stop(): void {
    this.#task = undefined;
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #lookIn(delayMs: number): void {
    const task = this.#task;
    if (task === undefined) return;
    const { clock, inTurn, onError } = this.#options;
    this.#cancel = clock.setTimer(delayMs, () => {
      inTurn(async () => {
        if (this.#task === task) await this.#look(task);
      })
        .then(
          () => lookEveryMs,
          (error: unknown) => {
            onError(error);
            return lookAgainMs;
          },
        )
        .then((nextMs) => {
          if (this.#task === task && this.#copy?.complete !== true) this.#lookIn(nextMs);
        });
    });
  }

  async #look(task: Task): Promise<void> {
    const { mediator, onFailed } = this.#options;
    if (this.#copy === undefined) await mediator.startCopy(task.disk, this.#pace.bytesPerSecond);
    let found: CopyState;
    try {
      found = await mediator.copyState(task.disk);
    } catch (error) {
      if (error instanceof CopyFailed) {
        this.stop();
        onFailed(error.message);
      }
      throw error;
    }
    if (this.#task !== task) return;
    this.#show(found);
    if (!found.complete) await this.#setPace(task);
  }

  #show(found: CopyState): void {
    const before = this.#copy;
    const step = (state: CopyState): number => Math.floor((state.localBytes / Math.max(1, state.totalBytes)) * steps);
    if (before !== undefined && before.complete === found.complete && step(before) === step(found)) return;
    this.#copy = found;
    this.#options.changed();
  }

  async #setPace({ disk, yielding }: Task): Promise<void> {
    const { mediator, clock } = this.#options;
    const now = clock.monotonic();
    const traffic = { ...(await mediator.traffic(disk)), atMs: now };
    const before = this.#traffic ?? traffic;
    this.#traffic = traffic;
    if (traffic.operations !== before.operations) this.#quietSinceMs = now;
    const seconds = Math.max(0.001, (now - before.atMs) / 1000);
    const wanted = paceOf({
      yielding,
      ...(this.#maxRateBytes === undefined ? {} : { maxRateBytes: this.#maxRateBytes }),
      guestBytesPerSecond: (traffic.bytes - before.bytes) / seconds,
      quietMs: now - this.#quietSinceMs,
    });
    await this.#apply(disk, wanted);
  }

  async #apply(disk: string, wanted: Pace): Promise<void> {
    const { mediator } = this.#options;
    const { isPaused, bytesPerSecond } = this.#pace;
    if (wanted.isPaused !== isPaused) await mediator.pauseCopy(disk, wanted.isPaused);
    const isSame =
      wanted.bytesPerSecond === bytesPerSecond ||
      (wanted.bytesPerSecond > 0 && Math.abs(wanted.bytesPerSecond - bytesPerSecond) < sameShare * bytesPerSecond);
    if (!wanted.isPaused && !isSame) await mediator.setRate(disk, wanted.bytesPerSecond);
    this.#pace = {
      isPaused: wanted.isPaused,
      bytesPerSecond: isSame || wanted.isPaused ? bytesPerSecond : wanted.bytesPerSecond,
    };
  }
}

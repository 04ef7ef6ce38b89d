/**
 * Attends to the background copy of a machine: starts it, paces it by what the guest does with its disk, and sees it to its end.
 *
 * Invariants:
 * 1. The copy that is shown was read from QEMU; it is shown in steps of a sixty-fourth, and its end at once.
 * 2. A QEMU that does not answer is asked again; only a copy that ended in error fails.
 * 3. A copy that has a part of the time goes at the beginning of each turn, from one look to the next, and stands for the rest of it.
 */
import type { Environment } from '../../../controller/api/protocol.generated.ts';
import type { Clock } from '../../../controller/runtime/clock.ts';
import { CopyFailed, type CopyState, type GuestTraffic, type Mediator } from './mediator.ts';
import { isHeldUp, type Pace, paceOf } from './pace.ts';
import { QmpError } from './qmp.ts';

export interface AttendantOptions {
  readonly mediator: Pick<Mediator, 'startCopy' | 'copyState' | 'traffic' | 'setRate' | 'pauseCopy'>;
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
/** Less than that is no pause worth two commands. */
const leastPauseMs = 20;

export class Attendant {
  readonly #options: AttendantOptions;
  #task: Task | undefined;
  #maxRateBytes: number | undefined;
  #copy: CopyState | undefined;
  #cancel: (() => void) | undefined;
  #cancelPause: (() => void) | undefined;
  #traffic: (GuestTraffic & { readonly atMs: number }) | undefined;
  #quietSinceMs = 0;
  #easySinceMs = 0;
  /** As QEMU was told. */
  #isPaused = false;
  #bytesPerSecond = 0;

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
    this.#isPaused = false;
    this.#bytesPerSecond = maxRateBytes ?? 0;
    this.#traffic = undefined;
    this.#quietSinceMs = this.#options.clock.monotonic();
    this.#easySinceMs = this.#quietSinceMs;
    this.#lookIn(0);
  }

  throttle(maxRateBytes: number): void {
    this.#maxRateBytes = maxRateBytes;
  }

  stop(): void {
    this.#task = undefined;
    this.#cancel?.();
    this.#cancel = undefined;
    this.#cancelPause?.();
    this.#cancelPause = undefined;
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
    if (this.#copy === undefined) await mediator.startCopy(task.disk, this.#bytesPerSecond);
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

  async #setPace(task: Task): Promise<void> {
    const { mediator, clock } = this.#options;
    const now = clock.monotonic();
    const traffic = { ...(await mediator.traffic(task.disk)), atMs: now };
    const before = this.#traffic ?? traffic;
    this.#traffic = traffic;
    if (traffic.operations !== before.operations) this.#quietSinceMs = now;
    if (isHeldUp(traffic.waitedMs - before.waitedMs, now - before.atMs)) this.#easySinceMs = now;
    const wanted = paceOf({
      yielding: task.yielding,
      ...(this.#maxRateBytes === undefined ? {} : { maxRateBytes: this.#maxRateBytes }),
      quietMs: now - this.#quietSinceMs,
      easyMs: now - this.#easySinceMs,
    });
    if (this.#task === task) await this.#apply(task, wanted);
  }

  async #apply(task: Task, { timeShare, bytesPerSecond }: Pace): Promise<void> {
    const { mediator, clock, inTurn, onError } = this.#options;
    this.#cancelPause?.();
    this.#cancelPause = undefined;
    if (timeShare > 0 && bytesPerSecond !== this.#bytesPerSecond) {
      await mediator.setRate(task.disk, bytesPerSecond);
      this.#bytesPerSecond = bytesPerSecond;
    }
    await this.#pause(task, timeShare === 0);
    const goesMs = timeShare * lookEveryMs;
    if (timeShare === 0 || lookEveryMs - goesMs < leastPauseMs || this.#task !== task) return;
    this.#cancelPause = clock.setTimer(goesMs, () => {
      inTurn(async () => {
        if (this.#task === task) await this.#pause(task, true);
      }).catch((error: unknown) => {
        // A copy that has just come to its end cannot be paused: the next look finds that.
        if (!(error instanceof QmpError)) onError(error);
      });
    });
  }

  async #pause({ disk }: Task, isPaused: boolean): Promise<void> {
    if (isPaused === this.#isPaused) return;
    await this.#options.mediator.pauseCopy(disk, isPaused);
    this.#isPaused = isPaused;
  }
}

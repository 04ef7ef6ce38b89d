/**
 * Looks at a machine from outside until it was seen without its hypervisor.
 *
 * Invariant: silence is counted from the last sign of life, and from the last moment at which the machine could not have been heard.
 */
import type { Clock } from '../../../controller/runtime/clock.ts';
import { type DepartureTimes, type Evidence, hasLeft } from './departure.ts';

export interface DepartureWatchOptions {
  readonly clock: Clock;
  readonly times: DepartureTimes & { readonly lookMs: number };
  readonly evidence: () => Omit<Evidence, 'silentMs' | 'answers'>;
  /** Whether something answers at the machine's address on the control network. */
  readonly answers: () => Promise<boolean>;
  readonly onLeft: () => void;
  readonly onError: (error: unknown) => void;
}

export class DepartureWatch {
  readonly #options: DepartureWatchOptions;
  #silentSince: number;
  #run = 0;
  #cancel = (): void => {};

  constructor(options: DepartureWatchOptions) {
    this.#options = options;
    this.#silentSince = options.clock.monotonic();
  }

  start(): void {
    const run = ++this.#run;
    this.#silentSince = this.#options.clock.monotonic();
    this.#lookLater(run);
  }

  stop(): void {
    this.#run++;
    this.#cancel();
  }

  /** The hypervisor was heard, or its connection ended. */
  heard(): void {
    this.#silentSince = this.#options.clock.monotonic();
  }

  #lookLater(run: number): void {
    const { clock, times, onError } = this.#options;
    this.#cancel();
    this.#cancel = clock.setTimer(times.lookMs, () => {
      this.#look(run)
        .catch(onError)
        .finally(() => {
          if (run === this.#run) this.#lookLater(run);
        });
    });
  }

  async #look(run: number): Promise<void> {
    const { clock, times, evidence, answers, onLeft } = this.#options;
    const now = evidence();
    if (now.connected || !(now.couldSpeak || now.saidSo)) this.heard();
    const silentMs = clock.monotonic() - this.#silentSince;
    // The question comes last, when silence has lasted for long enough: an earlier answer says nothing of now.
    const isAsked = !now.saidSo && silentMs >= times.quietMs;
    const answered = isAsked ? await answers() : undefined;
    if (run !== this.#run) return;
    if (!hasLeft({ ...evidence(), silentMs, answers: answered }, times)) return;
    this.stop();
    onLeft();
  }
}

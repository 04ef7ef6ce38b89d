/** Waiting for what a listener hears: no driver is asked for anything meanwhile, and no time passes in vain. */

/** Generous to a machine that others share: what comes about ends it at once. */
const patienceMs = 60_000;

export class Wakers {
  readonly #waiting = new Set<() => void>();

  /** Something changed: whoever waits looks again. */
  wake(): void {
    for (const wake of this.#waiting) wake();
  }

  /** @param state what to say when it does not come about @throws with what was waited for */
  async until(what: string, holds: () => boolean, state: () => unknown = () => ''): Promise<void> {
    const { promise: overdue, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => reject(new Error(`${what} did not come about: ${state()}`)), patienceMs);
    try {
      while (!holds()) {
        let wake = (): void => {};
        const woken = new Promise<void>((resolve) => {
          wake = resolve;
          this.#waiting.add(wake);
        });
        await Promise.race([woken, overdue]).finally(() => this.#waiting.delete(wake));
      }
    } finally {
      clearTimeout(timer);
    }
  }
}

/**
 * Lets in what fits: a semaphore by weight, first come, first served.
 *
 * Invariant: the weight inside exceeds the limit only by one that is alone heavier than the limit.
 */

export class Gate {
  readonly #limit: number;
  #used = 0;
  readonly #queue: { readonly weight: number; readonly enter: () => void }[] = [];
  #watchers: (() => void)[] = [];

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Weight inside and waiting. */
  get used(): number {
    return this.#used + this.#queue.reduce((sum, { weight }) => sum + weight, 0);
  }

  /** Resolves when there is room, with what must be called once to leave. */
  async enter(weight = 1): Promise<() => void> {
    if (this.#queue.length > 0 || !this.#fits(weight)) {
      await new Promise<void>((enter) => this.#queue.push({ weight, enter }));
    } else {
      this.#used += weight;
    }
    return () => this.#leave(weight);
  }

  /** Resolves when somebody leaves. */
  change(): Promise<void> {
    return new Promise((resolve) => this.#watchers.push(resolve));
  }

  /** Resolves when nobody is inside or waits. */
  async idle(): Promise<void> {
    while (this.#used > 0 || this.#queue.length > 0) await this.change();
  }

  #fits(weight: number): boolean {
    return this.#used === 0 || this.#used + weight <= this.#limit;
  }

  #leave(weight: number): void {
    this.#used -= weight;
    for (let next = this.#queue[0]; next !== undefined && this.#fits(next.weight); next = this.#queue[0]) {
      this.#queue.shift();
      this.#used += next.weight;
      next.enter();
    }
    const watchers = this.#watchers;
    this.#watchers = [];
    for (const watcher of watchers) watcher();
  }
}

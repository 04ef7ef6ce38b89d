/** Lets a bounded number of BMCs of a rack be asked at once: those with something to change first, then in the order of asking. */
export class Gate {
  #free: number;
  readonly #urgent: (() => void)[] = [];
  readonly #others: (() => void)[] = [];

  constructor(places: number) {
    this.#free = places;
  }

  async run<T>(urgent: boolean, task: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => (urgent ? this.#urgent : this.#others).push(resolve));
    try {
      return await task();
    } finally {
      // The place goes on to who waits, and is free only when nobody does.
      const next = this.#urgent.shift() ?? this.#others.shift();
      if (next === undefined) this.#free++;
      else next();
    }
  }
}

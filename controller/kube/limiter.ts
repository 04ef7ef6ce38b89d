/**
 * How many calls to the API server are under way at once, and who goes first.
 *
 * Invariants:
 * 1. Never more than `maxInFlight` ordinary calls; urgent ones have `urgentPlaces` of their own beside them, so that a
 *    Lease is renewed at once however many status patches wait.
 * 2. Within a lane, calls start in the order they came; a freed place goes to the highest lane that waits.
 * A service account meets 429 at a concurrency of 400 and none at 32 (kube-apiserver's default flow control).
 */

/** `urgent`: leases. `normal`: reads and writes that a decision waits for. `bulk`: lists, events. */
export type Lane = 'urgent' | 'normal' | 'bulk';

export const urgentPlaces = 2;

type Place = 'ordinary' | 'urgent';

/** Takes over the place that is given to it. */
type Waiting = (place: Place) => void;

/** First in, first out, without moving the whole array at every exit. */
class Line {
  #items: Waiting[] = [];
  #head = 0;

  push(item: Waiting): void {
    this.#items.push(item);
  }

  shift(): Waiting | undefined {
    const item = this.#items[this.#head];
    if (item === undefined) return undefined;
    this.#head += 1;
    if (this.#head > 1_024 && this.#head * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    }
    return item;
  }
}

export class Limiter {
  readonly #maxInFlight: number;
  readonly #lines: Readonly<Record<Lane, Line>> = { urgent: new Line(), normal: new Line(), bulk: new Line() };
  #ordinary = 0;
  #urgent = 0;

  constructor(maxInFlight: number) {
    if (!Number.isInteger(maxInFlight) || maxInFlight < 1) {
      throw new Error(`maxInFlight must be a whole number of at least 1, got ${maxInFlight}`);
    }
    this.#maxInFlight = maxInFlight;
  }

  /** Runs `call` as soon as its lane has a place; settles as `call` does. */
  async run<R>(lane: Lane, call: () => Promise<R>): Promise<R> {
    const place = this.#enter(lane) ?? (await this.#wait(lane));
    try {
      return await call();
    } finally {
      this.#leave(place);
    }
  }

  #enter(lane: Lane): Place | undefined {
    if (this.#ordinary < this.#maxInFlight) {
      this.#ordinary += 1;
      return 'ordinary';
    }
    if (lane === 'urgent' && this.#urgent < urgentPlaces) {
      this.#urgent += 1;
      return 'urgent';
    }
    return undefined;
  }

  #wait(lane: Lane): Promise<Place> {
    return new Promise((resolve) => this.#lines[lane].push(resolve));
  }

  #leave(place: Place): void {
    const { urgent, normal, bulk } = this.#lines;
    const next = urgent.shift() ?? (place === 'ordinary' ? (normal.shift() ?? bulk.shift()) : undefined);
    if (next !== undefined) next(place);
    else if (place === 'urgent') this.#urgent -= 1;
    else this.#ordinary -= 1;
  }
}

/**
 * Shares a bandwidth among lines (the exports of a rack), in proportion to nothing: each that wants gets the same.
 *
 * Invariants:
 * 1. Over any time T, all lines together send at most `rate * (T + burst)` bytes and one more piece; each line likewise by its own rate.
 * 2. Among lines that wait, the one that sent least since it began to wait is next; a line cannot save up turns while it is silent.
 */
import type { Clock } from '../../controller/runtime/clock.ts';

/** How much may go at once after a pause: small, so that a rate holds over tenths of a second, and more than a timer's imprecision. */
const burstSeconds = 0.02;

/** Lets through while it is not in debt; what is taken may lead into debt, by one piece. */
class TokenBucket {
  rateBytes: number;
  readonly #clock: Clock;
  #tokens = 0;
  #filledAt: number;

  /** @param rateBytes a second; Infinity for no bound */
  constructor(rateBytes: number, clock: Clock) {
    this.rateBytes = rateBytes;
    this.#clock = clock;
    this.#filledAt = clock.monotonic();
  }

  /** Milliseconds until something may be taken; 0: now. */
  waitMs(): number {
    if (this.rateBytes === Number.POSITIVE_INFINITY) return 0;
    const now = this.#clock.monotonic();
    const filled = this.#tokens + ((now - this.#filledAt) / 1000) * this.rateBytes;
    this.#tokens = Math.min(filled, this.rateBytes * burstSeconds);
    this.#filledAt = now;
    return this.#tokens >= 0 ? 0 : (-this.#tokens / this.rateBytes) * 1000;
  }

  take(bytes: number): void {
    if (this.rateBytes !== Number.POSITIVE_INFINITY) this.#tokens -= bytes;
  }
}

interface Waiting {
  readonly bytes: number;
  readonly go: () => void;
}

export class Line {
  readonly bucket: TokenBucket;
  readonly queue: Waiting[] = [];
  #isClosed = false;
  /** Bytes sent, moved up to the others' when it begins to wait. */
  sent = 0;
  readonly #share: BandwidthShare;

  constructor(share: BandwidthShare, bucket: TokenBucket) {
    this.#share = share;
    this.bucket = bucket;
  }

  /** Resolves when `bytes` may be sent. */
  take(bytes: number): Promise<void> {
    return this.#isClosed ? Promise.resolve() : this.#share.take(this, bytes);
  }

  /** From now on; Infinity for no bound. */
  setRate(rateBytes: number): void {
    this.bucket.rateBytes = rateBytes;
  }

  /** Lets everything go that waits, and whatever comes later: it leads nowhere any more. */
  close(): void {
    this.#isClosed = true;
    for (const { go } of this.queue.splice(0)) go();
    this.#share.forget(this);
  }
}

export class BandwidthShare {
  readonly #clock: Clock;
  readonly #total: TokenBucket;
  readonly #waiting = new Set<Line>();
  #cancelTimer: (() => void) | undefined;

  /** @param rateBytes a second for all lines together; Infinity for no bound */
  constructor(clock: Clock, rateBytes: number) {
    this.#clock = clock;
    this.#total = new TokenBucket(rateBytes, clock);
  }

  line(rateBytes: number): Line {
    return new Line(this, new TokenBucket(rateBytes, this.#clock));
  }

  /** From now on; Infinity for no bound. */
  setRate(rateBytes: number): void {
    this.#total.rateBytes = rateBytes;
    this.#dispatch();
  }

  take(line: Line, bytes: number): Promise<void> {
    if (this.#waiting.size === 0 && this.#total.waitMs() === 0 && line.bucket.waitMs() === 0) {
      this.#spend(line, bytes);
      return Promise.resolve();
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    if (line.queue.length === 0) {
      const least = Math.min(...[...this.#waiting].map(({ sent }) => sent));
      if (least !== Number.POSITIVE_INFINITY) line.sent = Math.max(line.sent, least);
      this.#waiting.add(line);
    }
    line.queue.push({ bytes, go: resolve });
    this.#dispatch();
    return promise;
  }

  forget(line: Line): void {
    this.#waiting.delete(line);
  }

  #spend(line: Line, bytes: number): void {
    this.#total.take(bytes);
    line.bucket.take(bytes);
    line.sent += bytes;
  }

  #dispatch(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    while (this.#waiting.size > 0) {
      const totalMs = this.#total.waitMs();
      const waits = [...this.#waiting].map((line) => ({ line, waitMs: line.bucket.waitMs() }));
      const [next] = waits.filter(({ waitMs }) => waitMs === 0).sort((a, b) => a.line.sent - b.line.sent);
      if (totalMs > 0 || next === undefined) {
        const soonest = next === undefined ? Math.min(...waits.map(({ waitMs }) => waitMs)) : 0;
        this.#cancelTimer = this.#clock.setTimer(Math.ceil(Math.max(totalMs, soonest, 1)), () => this.#dispatch());
        return;
      }
      const { line } = next;
      const waiting = line.queue.shift();
      if (line.queue.length === 0) this.#waiting.delete(line);
      if (waiting === undefined) continue;
      this.#spend(line, waiting.bytes);
      waiting.go();
    }
  }
}

/**
 * Cuts a stream of bytes into lines, bounded in length and in rate.
 *
 * Invariants:
 * 1. At most one unfinished line is held, of at most `longestLineBytes`.
 * 2. Over any time, an agent gets at most a burst plus a rate of lines and bytes; beyond, it is cut off.
 */
import { longestLineBytes, ProtocolViolation } from '../api/protocol.ts';
import type { Clock } from '../runtime/clock.ts';

export interface FloodBound {
  readonly linesPerSecond: number;
  readonly burstLines: number;
  readonly bytesPerSecond: number;
  readonly burstBytes: number;
}

/** A rack of 102 nodes has a snapshot of about 100 KB, and while it boots a few lines a node and second. */
export const defaultFloodBound: FloodBound = {
  linesPerSecond: 2_000,
  burstLines: 20_000,
  bytesPerSecond: 4e6,
  burstBytes: 64e6,
};

const newline = 0x0a;

export class LineCutter {
  readonly #bound: FloodBound;
  readonly #clock: Clock;
  #rest: Buffer[] = [];
  #restBytes = 0;
  #linesLeft: number;
  #bytesLeft: number;
  #filledAtMs: number;

  constructor(bound: FloodBound, clock: Clock) {
    this.#bound = bound;
    this.#clock = clock;
    this.#linesLeft = bound.burstLines;
    this.#bytesLeft = bound.burstBytes;
    this.#filledAtMs = clock.monotonic();
  }

  /** The lines that the chunk completes. @throws ProtocolViolation */
  push(chunk: Buffer): string[] {
    this.#refill();
    this.#bytesLeft -= chunk.length;
    if (this.#bytesLeft < 0) throw flood(`more than ${this.#bound.bytesPerSecond} bytes a second`);
    const lines: string[] = [];
    let start = 0;
    for (let end = chunk.indexOf(newline); end >= 0; end = chunk.indexOf(newline, start)) {
      lines.push(this.#complete(chunk.subarray(start, end)));
      start = end + 1;
      if (--this.#linesLeft < 0) throw flood(`more than ${this.#bound.linesPerSecond} lines a second`);
    }
    this.#keep(chunk.subarray(start));
    return lines;
  }

  #complete(part: Buffer): string {
    if (this.#restBytes === 0) {
      if (part.length > longestLineBytes) throw tooLong();
      return part.toString('utf8');
    }
    this.#keep(part);
    const line = Buffer.concat(this.#rest, this.#restBytes).toString('utf8');
    this.#rest = [];
    this.#restBytes = 0;
    return line;
  }

  #keep(part: Buffer): void {
    if (part.length === 0) return;
    this.#restBytes += part.length;
    if (this.#restBytes > longestLineBytes) throw tooLong();
    this.#rest.push(part);
  }

  #refill(): void {
    const now = this.#clock.monotonic();
    const seconds = (now - this.#filledAtMs) / 1000;
    this.#filledAtMs = now;
    this.#linesLeft = Math.min(this.#bound.burstLines, this.#linesLeft + seconds * this.#bound.linesPerSecond);
    this.#bytesLeft = Math.min(this.#bound.burstBytes, this.#bytesLeft + seconds * this.#bound.bytesPerSecond);
  }
}

const flood = (what: string): ProtocolViolation => new ProtocolViolation(`it flooded: ${what}, after its burst`);
const tooLong = (): ProtocolViolation => new ProtocolViolation(`a line longer than ${longestLineBytes} bytes`);

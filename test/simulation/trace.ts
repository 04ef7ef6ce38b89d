/**
 * The trace of a run: one line for everything that crossed a border between processes and machines, and its hash.
 *
 * Invariant: two runs of one seed have the same lines in the same order; nothing in a line comes from outside the run.
 */
import { createHash } from 'node:crypto';

/** Lines hashed at once: a call into the hash costs more than a line. */
const linesAtOnce = 512;
/** Lines kept for the report of a violation. */
const linesKept = 400;

export class Trace {
  readonly #hash = createHash('sha256');
  readonly #nowMs: () => number;
  readonly #print: ((line: string) => void) | undefined;
  #buffer: string[] = [];
  #tail: string[] = [];
  #count = 0;

  constructor(nowMs: () => number, print?: (line: string) => void) {
    this.#nowMs = nowMs;
    this.#print = print;
  }

  get length(): number {
    return this.#count;
  }

  /** @param who the process, agent, machine or person it is about */
  add(who: string, what: string): void {
    const line = `${this.#nowMs()} ${who} ${what}`;
    this.#count++;
    this.#print?.(line);
    this.#buffer.push(line);
    if (this.#buffer.length < linesAtOnce) return;
    this.#flush();
  }

  #flush(): void {
    if (this.#buffer.length === 0) return;
    this.#hash.update(`${this.#buffer.join('\n')}\n`);
    this.#tail = this.#buffer;
    this.#buffer = [];
  }

  /** The newest lines, oldest first. */
  recent(): readonly string[] {
    return [...this.#tail, ...this.#buffer].slice(-linesKept);
  }

  /** Of everything so far; the trace goes on. */
  digest(): string {
    this.#flush();
    return this.#hash.copy().digest('hex').slice(0, 16);
  }
}

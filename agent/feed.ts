/**
 * One stream of observations as a consumer of it reads: hello, what it lacks, synced, then changes.
 *
 * Invariants:
 * 1. Lines come in the order of their sequence numbers, so that the last one read is where a later stream may resume.
 * 2. A slow reader gets the newest observation of each node: what waits for it is at most one line a node.
 * 3. It resumes only under this core's boot nonce and a sequence number that this core gave out.
 */
import type { Line } from '../controller/api/protocol.generated.ts';
import type { AgentCore } from './core.ts';

export interface Resume {
  readonly bootNonce: string;
  readonly since: number;
}

export class ObservationFeed {
  readonly #core: AgentCore;
  readonly #stop: () => void;
  /** Nodes to be sent, in the order of their newest change. */
  readonly #waiting = new Map<string, number>();
  readonly #resumed: boolean;
  readonly #seqAtStart: number;
  #stage: 'Hello' | 'Lacking' | 'Changes' = 'Hello';
  /** Nodes whose first line is still to come; the snapshot is complete without them. */
  readonly #lacking: Set<string>;
  #lastSeq: number;
  /** Called when `take` would return something after it had returned nothing. */
  onReadable: (() => void) | undefined;

  constructor(core: AgentCore, resume: Resume | undefined) {
    this.#core = core;
    this.#resumed = resume !== undefined && resume.bootNonce === core.bootNonce && resume.since <= core.seq;
    const since = this.#resumed ? (resume?.since ?? 0) : 0;
    const lacking = [...core.sequence()].filter(([, seq]) => seq > since).sort(([, a], [, b]) => a - b);
    for (const [node, seq] of lacking) this.#waiting.set(node, seq);
    this.#lacking = new Set(this.#waiting.keys());
    this.#lastSeq = since;
    this.#seqAtStart = core.seq;
    this.#stop = core.onChange((node, seq) => {
      this.#waiting.delete(node);
      this.#waiting.set(node, seq);
      this.onReadable?.();
    });
  }

  /** At most `count` lines that are due now. */
  take(count: number): Line[] {
    const lines: Line[] = [];
    if (this.#stage === 'Hello' && count > 0) {
      lines.push(this.#core.hello(this.#resumed));
      this.#stage = 'Lacking';
    }
    for (const node of this.#waiting.keys()) {
      if (lines.length >= count) return lines;
      if (this.#stage === 'Lacking' && this.#lacking.size === 0) {
        this.#sync(lines);
        if (lines.length >= count) return lines;
      }
      this.#waiting.delete(node);
      this.#lacking.delete(node);
      const newest = this.#core.observation(node);
      if (newest === undefined) continue;
      this.#lastSeq = newest.seq;
      lines.push({ type: 'node', ...newest });
    }
    if (this.#stage === 'Lacking' && this.#lacking.size === 0 && lines.length < count) this.#sync(lines);
    return lines;
  }

  #sync(lines: Line[]): void {
    this.#stage = 'Changes';
    this.#lastSeq = Math.max(this.#lastSeq, this.#seqAtStart);
    lines.push({ type: 'synced', seq: this.#lastSeq });
  }

  alive(): Line {
    return { type: 'alive', seq: this.#lastSeq, counters: this.#core.counters() };
  }

  close(): void {
    this.#stop();
    this.onReadable = undefined;
  }
}

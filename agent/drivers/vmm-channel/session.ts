/**
 * One connection of the VMM channel, for either end: frames both ways over a stream, keys changed after the handshake.
 *
 * Invariants:
 * 1. `onMessage` sees what the other end sent, whole and in order; after `onEnd`, which comes once, it sees nothing.
 * 2. A stream that breaks the protocol, or is silent for too long, is destroyed.
 */
import type { Duplex } from 'node:stream';
import type { Clock } from '../../../controller/runtime/clock.ts';
import { type DirectionKeys, encodeFrame, FrameReader } from './frame.ts';
import { decode, encode, type Message } from './messages.ts';

/** STATUS comes at least every 5 s. */
const silenceMs = 15_000;

export interface SessionOptions {
  readonly stream: Duplex;
  readonly clock: Clock;
  readonly side: 'Agent' | 'Vmm';
  readonly onMessage: (message: Message) => void;
  readonly onEnd: (reason: string) => void;
}

export class Session {
  readonly #options: SessionOptions;
  #reader: FrameReader | undefined;
  /** What came before the key was known. */
  #early: Buffer[] = [];
  #sendKey = Buffer.alloc(0);
  #sequence = 0n;
  #isOver = false;
  #cancelSilence: () => void = () => {};

  constructor(options: SessionOptions) {
    this.#options = options;
    const { stream } = options;
    stream.on('data', (chunk: Buffer) => this.#take(chunk));
    stream.on('error', (error: Error) => this.end(error.message));
    stream.on('close', () => this.end('the connection closed'));
    this.#watchSilence();
  }

  /** Both directions use the boot's key until `rekey`. */
  start(bootKey: Buffer): void {
    this.#sendKey = Buffer.from(bootKey);
    this.#reader = new FrameReader(bootKey);
    const early = Buffer.concat(this.#early);
    this.#early = [];
    this.#take(early);
  }

  /** Called between the last message under the boot's key and the first under the connection's, in each direction. */
  rekey({ toAgent, toVmm }: DirectionKeys): void {
    const isAgent = this.#options.side === 'Agent';
    this.#sendKey = Buffer.from(isAgent ? toVmm : toAgent);
    if (this.#reader !== undefined) this.#reader.key = isAgent ? toAgent : toVmm;
  }

  send(message: Message): void {
    if (this.#isOver) return;
    this.#options.stream.write(encodeFrame(this.#sendKey, this.#sequence, encode(message)));
    this.#sequence += 1n;
  }

  end(reason: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#cancelSilence();
    this.#options.stream.destroy();
    this.#options.onEnd(reason);
  }

  #take(chunk: Buffer): void {
    if (this.#isOver) return;
    if (this.#reader === undefined) {
      this.#early.push(chunk);
      return;
    }
    try {
      this.#reader.push(chunk);
      for (let frame = this.#reader.next(); frame !== undefined && !this.#isOver; frame = this.#reader.next()) {
        this.#watchSilence();
        const message = decode(frame);
        if (message !== undefined) this.#options.onMessage(message);
      }
    } catch (error) {
      this.end(error instanceof Error ? error.message : String(error));
    }
  }

  #watchSilence(): void {
    this.#cancelSilence();
    this.#cancelSilence = this.#options.clock.setTimer(silenceMs, () => this.end('silent for too long'));
  }
}

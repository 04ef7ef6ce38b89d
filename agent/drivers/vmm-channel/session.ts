/**
 * One connection of the VMM channel, for either end: frames both ways over a stream, keys changed after the handshake.
 *
 * Invariants:
 * 1. `onMessage` sees what the other end sent, whole and in order; after `onEnd`, which comes once, it sees nothing.
 * 2. A stream that breaks the protocol, or is silent for too long, is destroyed.
 * 3. An end that sends without a pause is read no faster than it has a right to: it waits, nobody else does.
 */
import type { Duplex } from 'node:stream';
import type { Clock } from '../../../controller/runtime/clock.ts';
import { type DirectionKeys, encodeFrame, FrameReader } from './frame.ts';
import { decode, encode, type Message } from './messages.ts';

/** STATUS comes at least every 5 s. */
const silenceMs = 15_000;
/** Bytes that are read in a second; a VMM sends a STATUS of less than a hundred when something changes. */
const bytesPerSecond = 65_536;
const secondMs = 1_000;

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
  #cancelRest: () => void = () => {};
  #secondFrom = Number.NEGATIVE_INFINITY;
  #bytesInSecond = 0;

  constructor(options: SessionOptions) {
    this.#options = options;
    const { stream } = options;
    stream.on('data', (chunk: Buffer) => {
      if (options.side === 'Agent') this.#rest(chunk.length);
      this.#take(chunk);
    });
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
    this.#cancelRest();
    this.#options.stream.destroy();
    this.#options.onEnd(reason);
  }

  /** Reads on in the next second when this one has its bytes. */
  #rest(bytes: number): void {
    const { stream, clock } = this.#options;
    const now = clock.monotonic();
    if (now - this.#secondFrom >= secondMs) {
      this.#secondFrom = now;
      this.#bytesInSecond = 0;
    }
    this.#bytesInSecond += bytes;
    if (this.#bytesInSecond < bytesPerSecond || stream.isPaused()) return;
    stream.pause();
    this.#cancelRest = clock.setTimer(this.#secondFrom + secondMs - now, () => stream.resume());
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

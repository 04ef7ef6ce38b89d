/**
 * Reads a socket in parts of known length.
 *
 * Invariant: nothing is taken from the socket before it is asked for, so that TCP holds back a client that sends more than is read.
 */
import type { Socket } from 'node:net';

export class ByteReader {
  readonly #socket: Socket;
  #wake: (() => void) | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    const wake = (): void => {
      this.#wake?.();
      this.#wake = undefined;
    };
    for (const event of ['readable', 'end', 'close', 'error']) socket.on(event, wake);
  }

  /** Exactly `length` bytes, 1 or more; `undefined` when the peer has ended before them. One call at a time. */
  async take(length: number): Promise<Buffer | undefined> {
    while (!this.#socket.destroyed) {
      const bytes: Buffer | null = this.#socket.read(length);
      if (bytes !== null) return bytes.length === length ? bytes : undefined;
      if (this.#socket.readableEnded) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return undefined;
  }

  /** Takes and forgets `length` bytes. @returns whether they came */
  async skip(length: number): Promise<boolean> {
    for (let left = length; left > 0; ) {
      const part = Math.min(left, 65_536);
      if ((await this.take(part)) === undefined) return false;
      left -= part;
    }
    return true;
  }
}

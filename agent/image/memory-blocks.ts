/**
 * Verified blocks in memory, the least recently used dropped first, for all images of a rack together.
 *
 * Invariant: what is held never exceeds the limit; a block that is larger than the limit is not held.
 */

/** Blocks of one image are numbered below this; 2^32 blocks of 64 KiB are 256 TiB. */
const blocksAnImage = 2 ** 32;

export class MemoryBlocks {
  readonly limitBytes: number;
  /** A Map keeps the order in which keys were set: the first is the oldest. */
  readonly #blocks = new Map<number, Buffer>();
  #heldBytes = 0;

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  get heldBytes(): number {
    return this.#heldBytes;
  }

  has(image: number, block: number): boolean {
    return this.#blocks.has(image * blocksAnImage + block);
  }

  get(image: number, block: number): Buffer | undefined {
    const key = image * blocksAnImage + block;
    const bytes = this.#blocks.get(key);
    if (bytes === undefined) return undefined;
    this.#blocks.delete(key);
    this.#blocks.set(key, bytes);
    return bytes;
  }

  put(image: number, block: number, bytes: Buffer): void {
    const key = image * blocksAnImage + block;
    if (this.#blocks.has(key) || bytes.length > this.limitBytes) return;
    this.#blocks.set(key, bytes);
    this.#heldBytes += bytes.length;
    for (const [oldest, { length }] of this.#blocks) {
      if (this.#heldBytes <= this.limitBytes) break;
      this.#blocks.delete(oldest);
      this.#heldBytes -= length;
    }
  }

  /** Forgets every block of an image. */
  drop(image: number): void {
    for (const [key, { length }] of this.#blocks) {
      if (Math.floor(key / blocksAnImage) !== image) continue;
      this.#blocks.delete(key);
      this.#heldBytes -= length;
    }
  }
}

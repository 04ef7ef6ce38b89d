/**
 * Reads and writes the structures of the TPM 2.0 library specification: big-endian, sizes in front.
 *
 * Invariant: reading beyond the end throws; nothing is guessed.
 */

export class TpmReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  take(size: number): Buffer {
    if (size > this.#bytes.length - this.#at) throw new Error('a structure of the TPM ends too early');
    this.#at += size;
    return this.#bytes.subarray(this.#at - size, this.#at);
  }

  u8(): number {
    return this.take(1).readUInt8(0);
  }

  u16(): number {
    return this.take(2).readUInt16BE(0);
  }

  u32(): number {
    return this.take(4).readUInt32BE(0);
  }

  /** A TPM2B: size, then so many bytes. */
  sized(): Buffer {
    return this.take(this.u16());
  }
}

export const u8 = (value: number): Buffer => Buffer.from([value]);

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** A TPM2B. */
export const sized = (...parts: readonly Buffer[]): Buffer => {
  const bytes = Buffer.concat(parts);
  return Buffer.concat([u16(bytes.length), bytes]);
};

export const algorithm = {
  rsa: 0x0001,
  aes: 0x0006,
  sha256: 0x000b,
  nothing: 0x0010,
  ecdsa: 0x0018,
  ecc: 0x0023,
  cfb: 0x0043,
} as const;

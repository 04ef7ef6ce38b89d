/**
 * Bytes that fill images: as long as wanted, incompressible, and the same each time, so that an image's digest stays.
 */
import { createCipheriv, createHash } from 'node:crypto';

/** `length` bytes of the endless sequence that belongs to `name`, from `offset`, a multiple of 16, on. */
export function patternedBytes(name: string, offset: number, length: number): Buffer {
  const counter = Buffer.alloc(16);
  counter.writeBigUInt64BE(BigInt(offset / 16), 8);
  const key = createHash('sha256').update(name).digest().subarray(0, 16);
  return createCipheriv('aes-128-ctr', key, counter).update(Buffer.alloc(length));
}

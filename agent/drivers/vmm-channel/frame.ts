/**
 * Frames of the VMM channel (docs/vmm-channel.md, "Frames"): length, type, sequence number, body, MAC.
 *
 * Invariants:
 * 1. A frame is handed out only when its length is within bounds, its MAC is right, and its number is the next one.
 * 2. After the first wrong frame nothing is handed out any more: the connection has to end.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';

export const headerBytes = 16;
const macBytes = 16;
export const largestBodyBytes = 65_536;

export interface Frame {
  readonly type: number;
  readonly body: Buffer;
}

/** Keys of one connection; before WELCOME both directions use the key of the boot. */
export interface DirectionKeys {
  readonly toAgent: Buffer;
  readonly toVmm: Buffer;
}

export function connectionKeys(bootKey: Buffer, vmmNonce: Buffer, agentNonce: Buffer): DirectionKeys {
  const derive = (label: string): Buffer =>
    createHmac('sha256', bootKey).update(label, 'latin1').update(vmmNonce).update(agentNonce).digest();
  return { toAgent: derive('BVCH to agent'), toVmm: derive('BVCH to vmm') };
}

export function encodeFrame(key: Buffer, sequence: bigint, { type, body }: Frame): Buffer {
  if (body.length > largestBodyBytes) throw new Error(`a body of ${body.length} bytes is too long for a frame`);
  const header = Buffer.alloc(headerBytes);
  header.writeUInt32LE(body.length, 0);
  header.writeUInt16LE(type, 4);
  header.writeBigUInt64LE(sequence, 8);
  return Buffer.concat([header, body, macOf(key, header, body)]);
}

function macOf(key: Buffer, header: Buffer, body: Buffer): Buffer {
  return createHmac('sha256', key).update(header).update(body).digest().subarray(0, macBytes);
}

/** Takes a stream apart. */
export class FrameReader {
  /** Of the frame that comes next: changed once, after the handshake. */
  key: Buffer;
  #sequence = 0n;
  #pending = Buffer.alloc(0);
  #isBroken = false;

  constructor(key: Buffer) {
    this.key = key;
  }

  push(chunk: Buffer): void {
    if (!this.#isBroken) this.#pending = Buffer.concat([this.#pending, chunk]);
  }

  /** The next whole frame, or `undefined`. @throws when the stream is not what it should be; from then on nothing comes. */
  next(): Frame | undefined {
    if (this.#isBroken || this.#pending.length < headerBytes) return undefined;
    const length = this.#pending.readUInt32LE(0);
    if (length > largestBodyBytes) return this.#broken(`a frame says that it has ${length} bytes`);
    const end = headerBytes + length + macBytes;
    if (this.#pending.length < end) return undefined;
    const header = this.#pending.subarray(0, headerBytes);
    const body = Buffer.from(this.#pending.subarray(headerBytes, headerBytes + length));
    if (!timingSafeEqual(macOf(this.key, header, body), this.#pending.subarray(end - macBytes, end))) {
      return this.#broken('a frame has the wrong MAC');
    }
    const sequence = header.readBigUInt64LE(8);
    if (sequence !== this.#sequence) return this.#broken(`frame ${sequence} came instead of ${this.#sequence}`);
    if (header.readUInt16LE(6) !== 0) return this.#broken('a frame has flags that are not defined');
    this.#sequence += 1n;
    this.#pending = this.#pending.subarray(end);
    return { type: header.readUInt16LE(4), body };
  }

  #broken(reason: string): never {
    this.#isBroken = true;
    this.#pending = Buffer.alloc(0);
    throw new Error(reason);
  }
}

/**
 * Messages of the VMM channel (docs/vmm-channel.md, "Messages"): fixed little-endian fields, then texts and bytes with lengths.
 *
 * Invariants:
 * 1. Bytes behind the fields of a known message are ignored, so that later versions can add fields.
 * 2. A field that is not there, a text that is too long or no UTF-8, a value that is not defined: the message is refused whole.
 */
import { type Frame, largestBodyBytes } from './frame.ts';

export const protocolVersion = 1;
export const tokenBytes = 16;

export type GuestState = 'NotStarted' | 'Running' | 'Off';
export type MapState = 'None' | 'Valid' | 'Invalid';

export interface Hello {
  readonly kind: 'Hello';
  readonly version: number;
  readonly bootId: Buffer;
  readonly nonce: Buffer;
  readonly epoch: bigint;
  /** Of the PREPARE that holds; zeros: none. */
  readonly preparedToken: Buffer;
}

export interface Status {
  readonly kind: 'Status';
  readonly epoch: bigint;
  readonly guest: GuestState;
  readonly map: MapState;
  readonly flushed: boolean;
  /** Boots of the guest under this epoch. */
  readonly starts: number;
  readonly totalBytes: bigint;
  readonly localBytes: bigint;
  /** Redirected reads and writes under way. */
  readonly inFlight: number;
  /** Read from the image since the VMM started. */
  readonly fetchedBytes: bigint;
}

export interface Source {
  readonly transport: 'Nbd' | 'Aoe';
  /** Nbd: host:port of the server; Aoe: shelf.slot. */
  readonly address: string;
  /** Nbd: the export's name; Aoe: the config string that the target must answer. */
  readonly name: string;
}

export interface Plan {
  readonly kind: 'Plan';
  readonly epoch: bigint;
  readonly start: 'Fresh' | 'Keep';
  readonly yields: 'Strict' | 'Fair' | 'None';
  readonly totalBytes: bigint;
  /** 0: no bound. */
  readonly maxRateBytes: bigint;
  readonly imageDigest: Buffer;
  readonly diskSerial: string;
  readonly source: Source;
  /** What this machine's boot adds to the image; written before the guest starts, and only with Fresh. */
  readonly writes: readonly { readonly offset: bigint; readonly bytes: Buffer }[];
}

export type Message =
  | Hello
  | Status
  | Plan
  | { readonly kind: 'Welcome'; readonly version: number; readonly nonce: Buffer }
  | { readonly kind: 'Failure'; readonly epoch: bigint; readonly code: string; readonly text: string }
  | { readonly kind: 'Throttle'; readonly maxRateBytes: bigint }
  | { readonly kind: 'Notify'; readonly text: string }
  | { readonly kind: 'Prepare'; readonly token: Buffer }
  | { readonly kind: 'Prepared'; readonly token: Buffer }
  | { readonly kind: 'NotPrepared'; readonly token: Buffer; readonly text: string }
  | { readonly kind: 'Commit'; readonly token: Buffer }
  | { readonly kind: 'Leaving'; readonly token: Buffer };

export type Kind = Message['kind'];

/** Odd: from the VMM; even: from the agent. */
const typeOf: Readonly<Record<Kind, number>> = {
  Hello: 1,
  Welcome: 2,
  Status: 3,
  Plan: 4,
  Failure: 5,
  Throttle: 6,
  Prepared: 7,
  Prepare: 8,
  NotPrepared: 9,
  Commit: 10,
  Leaving: 11,
  Notify: 12,
};
const kindOf = new Map<number, Kind>(Object.entries(typeOf).map(([kind, type]) => [type, kind as Kind]));

const guestStates: readonly GuestState[] = ['NotStarted', 'Running', 'Off'];
const mapStates: readonly MapState[] = ['None', 'Valid', 'Invalid'];
const starts: readonly Plan['start'][] = ['Fresh', 'Keep'];
const yields: readonly Plan['yields'][] = ['Strict', 'Fair', 'None'];
const transports: readonly Source['transport'][] = ['Nbd', 'Aoe'];
/** Texts for people, names and addresses. */
const longestTextBytes = 1024;
const mostWrites = 16;

class Writer {
  readonly #parts: Buffer[] = [];
  integer(value: number | bigint, size: 1 | 2 | 4 | 8): this {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(value));
    this.#parts.push(bytes.subarray(0, size));
    return this;
  }
  raw(bytes: Buffer, size: number): this {
    if (bytes.length !== size) throw new Error(`${bytes.length} bytes where ${size} are defined`);
    this.#parts.push(bytes);
    return this;
  }
  bytes(bytes: Buffer): this {
    return this.integer(bytes.length, 4).raw(bytes, bytes.length);
  }
  text(text: string): this {
    const bytes = Buffer.from(text);
    if (bytes.length > longestTextBytes) throw new Error(`a text of ${bytes.length} bytes is too long`);
    return this.bytes(bytes);
  }
  whole(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

class Reader {
  readonly #body: Buffer;
  #at = 0;
  constructor(body: Buffer) {
    this.#body = body;
  }
  raw(size: number): Buffer {
    if (size > this.#body.length - this.#at) throw new Error('a message ends within a field');
    this.#at += size;
    return this.#body.subarray(this.#at - size, this.#at);
  }
  integer(size: 1 | 2 | 4): number {
    return this.raw(size).readUIntLE(0, size);
  }
  long(): bigint {
    return this.raw(8).readBigUInt64LE();
  }
  bytes(most: number): Buffer {
    const length = this.integer(4);
    if (length > most) throw new Error(`a message says that a field has ${length} bytes`);
    return this.raw(length);
  }
  text(): string {
    return new TextDecoder('utf-8', { fatal: true }).decode(this.bytes(longestTextBytes));
  }
  choice<Value>(values: readonly Value[]): Value {
    const value = values[this.integer(1)];
    if (value === undefined) throw new Error('a message has a value that is not defined');
    return value;
  }
}

export function encode(message: Message): Frame {
  return { type: typeOf[message.kind], body: bodyOf(message) };
}

function bodyOf(message: Message): Buffer {
  const writer = new Writer();
  switch (message.kind) {
    case 'Hello':
      writer.integer(message.version, 2).raw(message.bootId, 16).raw(message.nonce, 16).integer(message.epoch, 8);
      return writer.raw(message.preparedToken, tokenBytes).whole();
    case 'Welcome':
      return writer.integer(message.version, 2).raw(message.nonce, 16).whole();
    case 'Status':
      writer.integer(message.epoch, 8).integer(guestStates.indexOf(message.guest), 1);
      writer
        .integer(mapStates.indexOf(message.map), 1)
        .integer(message.flushed ? 1 : 0, 1)
        .integer(0, 1);
      writer.integer(message.starts, 4).integer(message.totalBytes, 8).integer(message.localBytes, 8);
      return writer.integer(message.inFlight, 4).integer(message.fetchedBytes, 8).whole();
    case 'Plan':
      return planBody(writer, message);
    case 'Failure':
      return writer.integer(message.epoch, 8).text(message.code).text(message.text).whole();
    case 'Throttle':
      return writer.integer(message.maxRateBytes, 8).whole();
    case 'Notify':
      return writer.text(message.text).whole();
    case 'NotPrepared':
      return writer.raw(message.token, tokenBytes).text(message.text).whole();
    case 'Prepare':
    case 'Prepared':
    case 'Commit':
    case 'Leaving':
      return writer.raw(message.token, tokenBytes).whole();
  }
}

function planBody(writer: Writer, plan: Plan): Buffer {
  writer.integer(plan.epoch, 8).integer(starts.indexOf(plan.start), 1).integer(yields.indexOf(plan.yields), 1);
  writer.integer(transports.indexOf(plan.source.transport), 1).integer(plan.writes.length, 1);
  writer.integer(plan.totalBytes, 8).integer(plan.maxRateBytes, 8).raw(plan.imageDigest, 32);
  writer.text(plan.diskSerial).text(plan.source.address).text(plan.source.name);
  for (const { offset, bytes } of plan.writes) writer.integer(offset, 8).bytes(bytes);
  return writer.whole();
}

/** `undefined`: a type that this version does not know, to be ignored. @throws when a known message is not what it should be. */
export function decode({ type, body }: Frame): Message | undefined {
  const kind = kindOf.get(type);
  const reader = new Reader(body);
  switch (kind) {
    case undefined:
      return undefined;
    case 'Hello':
      return {
        kind,
        version: reader.integer(2),
        bootId: reader.raw(16),
        nonce: reader.raw(16),
        epoch: reader.long(),
        preparedToken: reader.raw(tokenBytes),
      };
    case 'Welcome':
      return { kind, version: reader.integer(2), nonce: reader.raw(16) };
    case 'Status':
      return readStatus(reader);
    case 'Plan':
      return readPlan(reader);
    case 'Failure':
      return { kind, epoch: reader.long(), code: reader.text(), text: reader.text() };
    case 'Throttle':
      return { kind, maxRateBytes: reader.long() };
    case 'Notify':
      return { kind, text: reader.text() };
    case 'NotPrepared':
      return { kind, token: reader.raw(tokenBytes), text: reader.text() };
    case 'Prepare':
    case 'Prepared':
    case 'Commit':
    case 'Leaving':
      return { kind, token: reader.raw(tokenBytes) };
  }
}

function readStatus(reader: Reader): Status {
  const epoch = reader.long();
  const guest = reader.choice(guestStates);
  const map = reader.choice(mapStates);
  const flushed = reader.choice([false, true]);
  reader.raw(1);
  const status: Status = {
    kind: 'Status',
    epoch,
    guest,
    map,
    flushed,
    starts: reader.integer(4),
    totalBytes: reader.long(),
    localBytes: reader.long(),
    inFlight: reader.integer(4),
    fetchedBytes: reader.long(),
  };
  if (status.localBytes > status.totalBytes) throw new Error('more is local than there is');
  return status;
}

function readPlan(reader: Reader): Plan {
  const epoch = reader.long();
  const start = reader.choice(starts);
  const yieldsTo = reader.choice(yields);
  const transport = reader.choice(transports);
  const count = reader.integer(1);
  if (count > mostWrites) throw new Error(`a plan has ${count} writes`);
  return {
    kind: 'Plan',
    epoch,
    start,
    yields: yieldsTo,
    totalBytes: reader.long(),
    maxRateBytes: reader.long(),
    imageDigest: reader.raw(32),
    diskSerial: reader.text(),
    source: { transport, address: reader.text(), name: reader.text() },
    writes: Array.from({ length: count }, () => ({ offset: reader.long(), bytes: reader.bytes(largestBodyBytes) })),
  };
}

/**
 * The parts of the NBD protocol that a read-only server needs: numbers and bytes, nothing else.
 * Source: doc/proto.md of the NetworkBlockDevice project. All numbers are big-endian.
 */

/** The largest read that the protocol asks every server to take. */
export const mostReadBytes = 33_554_432;

export const serverGreeting = Buffer.concat([
  Buffer.from('NBDMAGICIHAVEOPT'),
  // NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES
  Buffer.from([0, 3]),
]);
export const clientFlagNoZeroes = 2;
/** Every client flag that is defined. */
export const clientFlagsKnown = 3;

export const option = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const;

export const optionReply = {
  ack: 1,
  info: 3,
  metaContext: 4,
  unsupported: 0x8000_0001,
  policy: 0x8000_0002,
  invalid: 0x8000_0003,
  unknown: 0x8000_0006,
  tooBig: 0x8000_0009,
} as const;

const infoType = { export: 0, blockSize: 3 } as const;

/** HAS_FLAGS | READ_ONLY | SEND_FLUSH | CAN_MULTI_CONN */
const transmissionFlags = 0x107;

export const command = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4, writeZeroes: 6, blockStatus: 7 } as const;
/** NBD_CMD_FLAG_REQ_ONE */
export const flagOneExtent = 8;

export const errno = { perm: 1, io: 5, inval: 22, overflow: 75, shutdown: 108 } as const;

export const chunk = { none: 0, data: 1, hole: 2, blockStatus: 5, error: 0x8001 } as const;
const chunkDone = 1;

/** NBD_STATE_HOLE | NBD_STATE_ZERO */
const stateOfZeros = 3;

export const allocationContext = 'base:allocation';
export const allocationContextId = 1;

const magic = {
  option: Buffer.from('IHAVEOPT'),
  optionReply: 0x0003_e889_0455_65a9n,
  request: 0x2560_9513,
  simpleReply: 0x6744_6698,
  structuredReply: 0x668e_33ef,
} as const;

export const optionHeaderBytes = 16;
export const requestBytes = 28;

/** What a client sends that no client sends: the connection is dropped. */
export class NbdProtocolError extends Error {
  override readonly name = 'NbdProtocolError';
}

export function parseOptionHeader(bytes: Buffer): { readonly option: number; readonly length: number } {
  if (!bytes.subarray(0, 8).equals(magic.option)) throw new NbdProtocolError('no option begins here');
  return { option: bytes.readUInt32BE(8), length: bytes.readUInt32BE(12) };
}

export function optionReplyBytes(of: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(20);
  header.writeBigUInt64BE(magic.optionReply, 0);
  header.writeUInt32BE(of, 8);
  header.writeUInt32BE(type, 12);
  header.writeUInt32BE(data.length, 16);
  return Buffer.concat([header, data]);
}

/** The name of NBD_OPT_INFO and NBD_OPT_GO; `undefined` when the option is malformed. */
export function parseGo(data: Buffer): string | undefined {
  if (data.length < 6) return undefined;
  const nameBytes = data.readUInt32BE(0);
  if (nameBytes > data.length - 6) return undefined;
  const infos = data.readUInt16BE(4 + nameBytes);
  if (data.length !== 6 + nameBytes + 2 * infos) return undefined;
  return data.toString('utf8', 4, 4 + nameBytes);
}

/** NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT; `undefined` when malformed. */
export function parseMetaContext(data: Buffer): { readonly name: string; readonly queries: string[] } | undefined {
  let at = 0;
  const text = (): string | undefined => {
    if (data.length - at < 4) return undefined;
    const length = data.readUInt32BE(at);
    if (length > data.length - at - 4) return undefined;
    at += 4 + length;
    return data.toString('utf8', at - length, at);
  };
  const name = text();
  if (name === undefined || data.length - at < 4) return undefined;
  const count = data.readUInt32BE(at);
  at += 4;
  const queries: string[] = [];
  for (let query = 0; query < count; query++) {
    const found = text();
    if (found === undefined) return undefined;
    queries.push(found);
  }
  return at === data.length ? { name, queries } : undefined;
}

export function infoExportBytes(sizeBytes: number): Buffer {
  const data = Buffer.alloc(12);
  data.writeUInt16BE(infoType.export, 0);
  data.writeBigUInt64BE(BigInt(sizeBytes), 2);
  data.writeUInt16BE(transmissionFlags, 10);
  return data;
}

export function infoBlockSizeBytes(preferred: number, most: number): Buffer {
  const data = Buffer.alloc(14);
  data.writeUInt16BE(infoType.blockSize, 0);
  data.writeUInt32BE(1, 2);
  data.writeUInt32BE(preferred, 6);
  data.writeUInt32BE(most, 10);
  return data;
}

/** The answer to NBD_OPT_EXPORT_NAME, which has no header. */
export function exportNameBytes(sizeBytes: number, withZeroes: boolean): Buffer {
  const data = Buffer.alloc(withZeroes ? 134 : 10);
  data.writeBigUInt64BE(BigInt(sizeBytes), 0);
  data.writeUInt16BE(transmissionFlags, 8);
  return data;
}

export function metaContextBytes(id: number, name: string): Buffer {
  const data = Buffer.alloc(4 + name.length);
  data.writeUInt32BE(id, 0);
  data.write(name, 4);
  return data;
}

export interface NbdRequest {
  readonly flags: number;
  readonly type: number;
  /** The client's own name of the request, given back with the reply. */
  readonly cookie: Buffer;
  readonly offset: bigint;
  readonly length: number;
}

export function parseRequest(bytes: Buffer): NbdRequest {
  if (bytes.readUInt32BE(0) !== magic.request) throw new NbdProtocolError('no request begins here');
  return {
    flags: bytes.readUInt16BE(4),
    type: bytes.readUInt16BE(6),
    cookie: Buffer.from(bytes.subarray(8, 16)),
    offset: bytes.readBigUInt64BE(16),
    length: bytes.readUInt32BE(24),
  };
}

export function simpleReplyBytes(cookie: Buffer, error: number): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt32BE(magic.simpleReply, 0);
  header.writeUInt32BE(error, 4);
  cookie.copy(header, 8);
  return header;
}

/** Header of a structured chunk, and the fields before its data. */
export function chunkBytes(cookie: Buffer, type: number, isLast: boolean, fields: Buffer, dataBytes = 0): Buffer {
  const header = Buffer.alloc(20 + fields.length);
  header.writeUInt32BE(magic.structuredReply, 0);
  header.writeUInt16BE(isLast ? chunkDone : 0, 4);
  header.writeUInt16BE(type, 6);
  cookie.copy(header, 8);
  header.writeUInt32BE(fields.length + dataBytes, 16);
  fields.copy(header, 20);
  return header;
}

export function dataFields(offset: number): Buffer {
  const fields = Buffer.alloc(8);
  fields.writeBigUInt64BE(BigInt(offset), 0);
  return fields;
}

export function holeFields(offset: number, bytes: number): Buffer {
  const fields = Buffer.alloc(12);
  fields.writeBigUInt64BE(BigInt(offset), 0);
  fields.writeUInt32BE(bytes, 8);
  return fields;
}

export function errorFields(error: number, message: string): Buffer {
  const text = Buffer.from(message.slice(0, 1024));
  const fields = Buffer.alloc(6 + text.length);
  fields.writeUInt32BE(error, 0);
  fields.writeUInt16BE(text.length, 4);
  text.copy(fields, 6);
  return fields;
}

export function blockStatusFields(extents: readonly { readonly bytes: number; readonly isZero: boolean }[]): Buffer {
  const fields = Buffer.alloc(4 + 8 * extents.length);
  fields.writeUInt32BE(allocationContextId, 0);
  for (const [index, { bytes, isZero }] of extents.entries()) {
    fields.writeUInt32BE(bytes, 4 + 8 * index);
    fields.writeUInt32BE(isZero ? stateOfZeros : 0, 8 + 8 * index);
  }
  return fields;
}

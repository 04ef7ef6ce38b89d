/**
 * The handshake of an NBD client, up to the export that it reads.
 *
 * Invariants:
 * 1. The list of exports is refused: a name is what entitles a client, and cannot be learnt here.
 * 2. An option is bounded in length and options in number; a client that sends what no client sends is dropped.
 */
import type { Socket } from 'node:net';
import type { ByteReader } from './byte-reader.ts';
import {
  allocationContext,
  allocationContextId,
  clientFlagNoZeroes,
  clientFlagsKnown,
  exportNameBytes,
  infoBlockSizeBytes,
  infoExportBytes,
  metaContextBytes,
  mostReadBytes,
  NbdProtocolError,
  option,
  optionHeaderBytes,
  optionReply,
  optionReplyBytes,
  parseGo,
  parseMetaContext,
  parseOptionHeader,
  serverGreeting,
} from './nbd-protocol.ts';
import type { SessionExport, SessionOptions } from './nbd-session.ts';

/** A name (4 KiB at most by the protocol) and a few queries. */
const mostOptionBytes = 16_384;
const mostOptions = 64;

export interface Negotiated {
  readonly target: SessionExport;
  readonly isStructured: boolean;
  /** Whether the client may ask for base:allocation. */
  readonly hasAllocation: boolean;
}

interface State {
  readonly send: (of: number, type: number, data?: Buffer) => void;
  readonly options: Pick<SessionOptions, 'attach' | 'find'>;
  isStructured: boolean;
  /** The export for which base:allocation was set. */
  allocationOf: string | undefined;
}

/** @returns what the client may read; `undefined` when it left. @throws NbdProtocolError */
export async function negotiate(
  socket: Socket,
  reader: ByteReader,
  options: Pick<SessionOptions, 'attach' | 'find'>,
): Promise<Negotiated | undefined> {
  socket.write(serverGreeting);
  const flags = (await reader.take(4))?.readUInt32BE(0);
  if (flags === undefined) return undefined;
  if ((flags & ~clientFlagsKnown) !== 0) throw new NbdProtocolError(`client flags ${flags}`);
  const send = (of: number, type: number, data?: Buffer): void => void socket.write(optionReplyBytes(of, type, data));
  const state: State = { send, options, isStructured: false, allocationOf: undefined };
  for (let asked = 0; asked < mostOptions; asked++) {
    const header = await reader.take(optionHeaderBytes);
    if (header === undefined) return undefined;
    const { option: of, length } = parseOptionHeader(header);
    if (length > mostOptionBytes) throw new NbdProtocolError(`an option of ${length} bytes`);
    const data = length === 0 ? Buffer.alloc(0) : await reader.take(length);
    if (data === undefined) return undefined;
    if (of === option.abort) {
      send(of, optionReply.ack);
      socket.end();
      return undefined;
    }
    if (of === option.exportName) {
      return byName(socket, state, data.toString('utf8'), (flags & clientFlagNoZeroes) === 0);
    }
    const negotiated = answerOption(state, of, data);
    if (negotiated !== undefined) return negotiated;
  }
  throw new NbdProtocolError(`more than ${mostOptions} options`);
}

/** The old way has no error: an unknown name ends the connection. */
function byName(socket: Socket, state: State, name: string, withZeroes: boolean): Negotiated {
  const target = state.options.attach(name);
  if (target === undefined) throw new NbdProtocolError('no such export');
  socket.write(exportNameBytes(target.image.sizeBytes, withZeroes));
  return { target, isStructured: state.isStructured, hasAllocation: state.allocationOf === name };
}

function answerOption(state: State, of: number, data: Buffer): Negotiated | undefined {
  const { send } = state;
  switch (of) {
    case option.go:
    case option.info:
      return answerGo(state, of, data);
    case option.structuredReply:
      state.isStructured ||= data.length === 0;
      send(of, data.length === 0 ? optionReply.ack : optionReply.invalid);
      return undefined;
    case option.listMetaContext:
    case option.setMetaContext:
      answerMetaContext(state, of, data);
      return undefined;
    case option.list:
      send(of, optionReply.policy, Buffer.from('exports are not listed'));
      return undefined;
    default:
      send(of, optionReply.unsupported);
      return undefined;
  }
}

function answerGo(state: State, of: number, data: Buffer): Negotiated | undefined {
  const { send, options } = state;
  const name = parseGo(data);
  if (name === undefined) {
    send(of, optionReply.invalid);
    return undefined;
  }
  const target = of === option.go ? options.attach(name) : undefined;
  const image = target?.image ?? (of === option.info ? options.find(name) : undefined);
  if (image === undefined) {
    send(of, optionReply.unknown, Buffer.from('no such export'));
    return undefined;
  }
  send(of, optionReply.info, infoExportBytes(image.sizeBytes));
  send(of, optionReply.info, infoBlockSizeBytes(image.blockBytes, mostReadBytes));
  send(of, optionReply.ack);
  if (target === undefined) return undefined;
  return { target, isStructured: state.isStructured, hasAllocation: state.allocationOf === name };
}

function answerMetaContext(state: State, of: number, data: Buffer): void {
  const { send, options } = state;
  const asked = parseMetaContext(data);
  const isSet = of === option.setMetaContext;
  if (asked === undefined || (isSet && !state.isStructured)) {
    send(of, optionReply.invalid);
    return;
  }
  if (options.find(asked.name) === undefined) {
    send(of, optionReply.unknown, Buffer.from('no such export'));
    return;
  }
  const isAsked = asked.queries.some((query) => query === allocationContext || (!isSet && query === 'base:'));
  const isListed = isAsked || (!isSet && asked.queries.length === 0);
  if (isSet) state.allocationOf = isListed ? asked.name : undefined;
  if (isListed) send(of, optionReply.metaContext, metaContextBytes(isSet ? allocationContextId : 0, allocationContext));
  send(of, optionReply.ack);
}

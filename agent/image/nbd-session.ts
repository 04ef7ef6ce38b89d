/**
 * One NBD client: the fixed newstyle handshake, then reads of one export. Protocol: doc/proto.md of the NetworkBlockDevice project.
 *
 * Invariants:
 * 1. A client sees the export that it names and nothing of any other; which exports there are is not told.
 * 2. What a client can make this process hold is bounded: options, requests and replies in flight, and the time it may keep an answer waiting.
 * 3. A reply is sent whole or the connection is dropped; an error after the first byte of a simple reply cannot be told otherwise.
 */
import type { Socket } from 'node:net';
import type { Clock } from '../../controller/runtime/clock.ts';
import type { Line } from './bandwidth.ts';
import { ByteReader } from './byte-reader.ts';
import type { Extent, Piece } from './cached-image.ts';
import { Gate } from './gate.ts';
import { type Negotiated, negotiate } from './nbd-handshake.ts';
import {
  blockStatusFields,
  chunk,
  chunkBytes,
  command,
  dataFields,
  errno,
  errorFields,
  flagOneExtent,
  holeFields,
  mostReadBytes,
  type NbdRequest,
  parseRequest,
  requestBytes,
  simpleReplyBytes,
} from './nbd-protocol.ts';

/** Of a reply, sent at a time: one turn in the shared bandwidth. */
const turnBytes = 262_144;
/** What a background copy needs to keep a gigabit busy, with time to spare; a rack of 102 nodes holds 408 MiB at worst. */
const mostInFlightBytes = 4_194_304;
const mostInFlight = 64;
/** An answer to a question about more blocks than that stops here; the client asks on. Eight bytes for each at worst. */
const mostStatusBlocks = 16_384;

/** What an export gives: a CachedImage, or something like it. Reads wait while their data is not there. */
export interface ExportedImage {
  readonly sizeBytes: number;
  /** The unit in which reads are cheapest. */
  readonly blockBytes: number;
  pieces(offset: number, length: number): Promise<Piece[]>;
  extents(offset: number, length: number): Extent[];
}

/** An export as a session sees it. */
export interface SessionExport {
  readonly name: string;
  readonly image: ExportedImage;
  readonly line: Line;
  /** Bytes of images in replies; only grows. */
  servedBytes: number;
  /** Requests that are being answered. */
  inFlight: number;
}

export interface SessionOptions {
  readonly socket: Socket;
  readonly clock: Clock;
  /** The export of this name for this client, now counted as its client's; `undefined` when there is none for it. */
  readonly attach: (name: string) => SessionExport | undefined;
  /** Whether there is such an export for this client. */
  readonly find: (name: string) => ExportedImage | undefined;
  /** How long a client may take for its handshake. */
  readonly handshakeMs: number;
  /** How long a client may leave a reply unread. */
  readonly stallMs: number;
  /** Of errors inside the process. */
  readonly onError: (error: unknown) => void;
}

const zeros = Buffer.alloc(turnBytes);

export class NbdSession {
  readonly #options: SessionOptions;
  readonly #socket: Socket;
  readonly #reader: ByteReader;
  readonly #bytes = new Gate(mostInFlightBytes);
  readonly #requests = new Gate(mostInFlight);
  #drained: Promise<void> | undefined;

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#socket = options.socket;
    this.#reader = new ByteReader(options.socket);
  }

  /** Resolves when the client is gone. Never throws. */
  async run(): Promise<void> {
    const { clock, handshakeMs, onError } = this.#options;
    try {
      const cancel = clock.setTimer(handshakeMs, () => this.#socket.destroy());
      const negotiated = await negotiate(this.#socket, this.#reader, this.#options).finally(cancel);
      if (negotiated !== undefined) await this.#serve(negotiated);
    } catch (error) {
      if (!(error instanceof Error && error.name === 'NbdProtocolError')) onError(error);
    }
    this.#socket.destroy();
  }

  async #serve(negotiated: Negotiated): Promise<void> {
    for (;;) {
      const header = await this.#reader.take(requestBytes);
      if (header === undefined) return;
      const request = parseRequest(header);
      if (request.type === command.disconnect) {
        await this.#requests.idle();
        this.#socket.end();
        return;
      }
      const hasPayload = request.type === command.write;
      if (hasPayload && (request.length > mostReadBytes || !(await this.#reader.skip(request.length)))) return;
      const leaveRequests = await this.#requests.enter();
      const leaveBytes = await this.#bytes.enter(
        request.type === command.blockStatus
          ? 8 * mostStatusBlocks
          : request.type === command.read
            ? Math.min(request.length, mostReadBytes)
            : 0,
      );
      negotiated.target.inFlight++;
      void this.#answer(negotiated, request).finally(() => {
        negotiated.target.inFlight--;
        leaveBytes();
        leaveRequests();
      });
    }
  }

  /** Never throws: what cannot be answered ends the connection. */
  async #answer(negotiated: Negotiated, request: NbdRequest): Promise<void> {
    try {
      const refused = refusal(negotiated, request);
      if (refused !== undefined) await this.#error(negotiated, request, ...refused);
      else if (request.type === command.flush) await this.#done(negotiated, request);
      else if (request.type === command.blockStatus) await this.#blockStatus(negotiated, request);
      else if (negotiated.isStructured) await this.#structuredRead(negotiated, request);
      else await this.#simpleRead(negotiated, request);
    } catch (error) {
      if (!this.#socket.destroyed) this.#options.onError(error);
      this.#socket.destroy();
    }
  }

  async #structuredRead(negotiated: Negotiated, request: NbdRequest): Promise<void> {
    const { target } = negotiated;
    const start = Number(request.offset);
    for (let done = 0; done < request.length && !this.#socket.destroyed; ) {
      const bytes = Math.min(turnBytes, request.length - done);
      const offset = start + done;
      const pieces = await this.#pieces(target, offset, bytes).catch((error: unknown) => String(error));
      if (typeof pieces === 'string') return this.#error(negotiated, request, errno.io, pieces);
      done += bytes;
      await target.line.take(pieces.reduce((sum, { data }) => sum + (data?.length ?? 0), 0));
      await this.#send(contentChunks(request.cookie, offset, pieces, done === request.length));
      target.servedBytes += bytes;
    }
  }

  async #simpleRead(negotiated: Negotiated, request: NbdRequest): Promise<void> {
    const { target } = negotiated;
    const start = Number(request.offset);
    const parts: Promise<Piece[]>[] = [];
    for (let done = 0; done < request.length; done += turnBytes) {
      parts.push(this.#pieces(target, start + done, Math.min(turnBytes, request.length - done)));
    }
    const ready = await Promise.all(parts).catch((error: unknown) => String(error));
    if (typeof ready === 'string') return this.#error(negotiated, request, errno.io, ready);
    // Turns are taken before the first byte: nothing may come between the parts of a simple reply.
    for (const pieces of ready) await target.line.take(pieces.reduce((sum, { bytes }) => sum + bytes, 0));
    const data = ready.flat().map((piece) => piece.data ?? zeros.subarray(0, piece.bytes));
    await this.#send([simpleReplyBytes(request.cookie, 0), ...data]);
    target.servedBytes += request.length;
  }

  async #blockStatus(negotiated: Negotiated, request: NbdRequest): Promise<void> {
    const { image } = negotiated.target;
    const extents = image.extents(
      Number(request.offset),
      Math.min(request.length, mostStatusBlocks * image.blockBytes),
    );
    const fields = blockStatusFields((request.flags & flagOneExtent) === 0 ? extents : extents.slice(0, 1));
    await this.#send([chunkBytes(request.cookie, chunk.blockStatus, true, fields)]);
  }

  async #done({ isStructured }: Negotiated, { cookie }: NbdRequest): Promise<void> {
    const none = Buffer.alloc(0);
    await this.#send([isStructured ? chunkBytes(cookie, chunk.none, true, none) : simpleReplyBytes(cookie, 0)]);
  }

  async #error({ isStructured }: Negotiated, { cookie }: NbdRequest, error: number, message: string): Promise<void> {
    const structured = (): Buffer => chunkBytes(cookie, chunk.error, true, errorFields(error, message));
    await this.#send([isStructured ? structured() : simpleReplyBytes(cookie, error)]);
  }

  #pieces({ image }: SessionExport, offset: number, bytes: number): Promise<Piece[]> {
    return image.pieces(offset, bytes);
  }

  /** Sends the parts one after the other with nothing between them; resolves when the client has taken what was sent before. */
  async #send(parts: readonly Buffer[]): Promise<void> {
    if (this.#socket.destroyed) return;
    this.#socket.cork();
    let isFlowing = true;
    for (const part of parts) isFlowing = this.#socket.write(part);
    this.#socket.uncork();
    if (!isFlowing) await this.#drain();
  }

  #drain(): Promise<void> {
    this.#drained ??= new Promise<void>((resolve) => {
      const cancel = this.#options.clock.setTimer(this.#options.stallMs, () => this.#socket.destroy());
      const done = (): void => {
        cancel();
        this.#socket.off('drain', done);
        this.#socket.off('close', done);
        this.#drained = undefined;
        resolve();
      };
      this.#socket.once('drain', done);
      this.#socket.once('close', done);
    });
    return this.#drained;
  }
}

/** Why a request is not served, as the protocol's number and a sentence. */
function refusal(
  { target, hasAllocation }: Negotiated,
  { type, flags, offset, length }: NbdRequest,
): readonly [number, string] | undefined {
  const isStatus = type === command.blockStatus;
  if (type === command.write || type === command.trim || type === command.writeZeroes) {
    return [errno.perm, 'the export is read-only'];
  }
  if (type === command.flush) return flags === 0 ? undefined : [errno.inval, 'flags of a flush'];
  if (type !== command.read && !isStatus) return [errno.inval, `command ${type} is not known`];
  if ((flags & ~(isStatus ? flagOneExtent : 0)) !== 0) return [errno.inval, `flags ${flags} are not known here`];
  if (isStatus && !hasAllocation) return [errno.inval, 'no metadata context was negotiated'];
  if (length === 0) return [errno.inval, 'nothing was asked for'];
  if (offset + BigInt(length) > BigInt(target.image.sizeBytes)) return [errno.inval, 'the export ends before that'];
  if (!isStatus && length > mostReadBytes) return [errno.overflow, `a read takes ${mostReadBytes} bytes at most`];
  return undefined;
}

/** Neighbouring data makes one chunk, zeros another. */
function contentChunks(cookie: Buffer, start: number, pieces: readonly Piece[], isLast: boolean): Buffer[] {
  const groups: { offset: number; bytes: number; data: Buffer[] }[] = [];
  let offset = start;
  for (const { bytes, data } of pieces) {
    const before = groups.at(-1);
    const isSameKind = before !== undefined && before.data.length > 0 === (data !== undefined);
    const group = isSameKind ? before : { offset, bytes: 0, data: [] };
    if (!isSameKind) groups.push(group);
    group.bytes += bytes;
    if (data !== undefined) group.data.push(data);
    offset += bytes;
  }
  return groups.flatMap(({ offset, bytes, data }, index) => {
    const isDone = isLast && index === groups.length - 1;
    return data.length > 0
      ? [chunkBytes(cookie, chunk.data, isDone, dataFields(offset), bytes), ...data]
      : [chunkBytes(cookie, chunk.hole, isDone, holeFields(offset, bytes))];
  });
}

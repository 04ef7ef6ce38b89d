/**
 * Where an image comes from: a file, or a server that speaks HTTP. Each call is one attempt; who calls decides about another.
 *
 * Invariants:
 * 1. Nothing that arrives is trusted: lengths are held to what was asked for, and contents are verified by who reads them.
 * 2. An error says whether another attempt can help. `Refused` is final for the address as it is; `Away` and `Changed` may end.
 * 3. A file is read only below the directories that the rack's administrator named: addresses are written by tenants.
 */
import { constants, type FileHandle, open, realpath } from 'node:fs/promises';
import { sep } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Away: no answer, or an answer that says "later". Refused: it will not do. Changed: not the file that was there before. */
export type OriginFault = 'Away' | 'Refused' | 'Changed';

/** The message is a sentence for people and names the address. */
export class OriginError extends Error {
  override readonly name = 'OriginError';
  readonly fault: OriginFault;

  constructor(fault: OriginFault, message: string, options?: ErrorOptions) {
    super(message, options);
    this.fault = fault;
  }
}

export interface OriginFacts {
  readonly sizeBytes: number;
  /** Whether any part can be asked for. Without it the file can be read once, from its start to its end. */
  readonly ranges: boolean;
}

export interface Origin {
  /** As people know it, without a password. */
  readonly address: string;
  /** The same for the same place; may hold a signature, and is shown to nobody. */
  readonly id: string;
  /** @throws OriginError */
  probe(signal: AbortSignal): Promise<OriginFacts>;
  /**
   * `length` bytes from `offset` on, in pieces of any size; ends early only by throwing.
   * @throws OriginError
   */
  read(offset: number, length: number, signal: AbortSignal): AsyncIterable<Buffer>;
  /** The file whose name is this one's and a suffix. */
  beside(suffix: string): Origin;
}

/** As long as a pipe's buffer, so that a slow reader holds little. */
const fileChunkBytes = 1_048_576;

function fileFault(error: unknown, path: string): OriginError {
  if (error instanceof OriginError) return error;
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  const isFinal = ['ENOENT', 'EACCES', 'EPERM', 'ENOTDIR', 'EISDIR', 'ELOOP', 'ENAMETOOLONG'].includes(code);
  const why =
    code === 'ENOENT' ? 'does not exist' : `cannot be read: ${error instanceof Error ? error.message : error}`;
  return new OriginError(isFinal ? 'Refused' : 'Away', `${path} ${why}`, { cause: error });
}

/** @param below directories that the file must be in, symbolic links followed; absent: anywhere */
export class FileOrigin implements Origin {
  readonly address: string;
  readonly id: string;
  readonly #below: readonly string[] | undefined;

  constructor(path: string, below?: readonly string[]) {
    this.address = path;
    this.id = path;
    this.#below = below;
  }

  beside(suffix: string): Origin {
    return new FileOrigin(this.address + suffix, this.#below);
  }

  async probe(signal: AbortSignal): Promise<OriginFacts> {
    signal.throwIfAborted();
    const { handle, sizeBytes } = await this.#open();
    await handle.close();
    return { sizeBytes, ranges: true };
  }

  async *read(offset: number, length: number, signal: AbortSignal): AsyncIterable<Buffer> {
    const { handle } = await this.#open();
    try {
      for (let done = 0; done < length; ) {
        signal.throwIfAborted();
        const wanted = Math.min(fileChunkBytes, length - done);
        const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(wanted), 0, wanted, offset + done);
        if (bytesRead === 0) throw new OriginError('Changed', `${this.address} ends at byte ${offset + done}`);
        done += bytesRead;
        yield buffer.subarray(0, bytesRead);
      }
    } catch (error) {
      throw signal.aborted ? signal.reason : fileFault(error, this.address);
    } finally {
      await handle.close();
    }
  }

  async #open(): Promise<{ handle: FileHandle; sizeBytes: number }> {
    let handle: FileHandle | undefined;
    try {
      const path = await this.#resolved();
      // A FIFO would otherwise be waited for; and the last part of a resolved path is no link, unless it was just made one.
      const noLink = this.#below === undefined ? 0 : constants.O_NOFOLLOW;
      handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK | noLink);
      const stat = await handle.stat();
      if (!stat.isFile()) throw new OriginError('Refused', `${this.address} is not a regular file`);
      return { handle, sizeBytes: stat.size };
    } catch (error) {
      await handle?.close();
      throw fileFault(error, this.address);
    }
  }

  async #resolved(): Promise<string> {
    if (this.#below === undefined) return this.address;
    const path = await realpath(this.address);
    const roots = await Promise.all(this.#below.map((root) => realpath(root)));
    if (roots.some((root) => path.startsWith(root.endsWith(sep) ? root : root + sep))) return path;
    throw new OriginError('Refused', `${this.address} is not in a directory that this rack serves images from`);
  }
}

/** @returns a path of this machine, or what to tell the person */
export function pathOfFileUrl(url: URL): string | OriginError {
  try {
    return fileURLToPath(url);
  } catch {
    return new OriginError('Refused', `${url.href} names no file of this machine: write file:///path`);
  }
}

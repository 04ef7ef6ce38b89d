/**
 * The serial console of a lab guest, over QEMU's socket: what the guest prints, and commands that run in it as root.
 *
 * Invariants:
 * 1. Commands run one at a time, in the order asked; output is matched to its command by an id that no other one has.
 * 2. What is kept is bounded: the newest 256 KiB.
 */
import { connect, type Socket } from 'node:net';
import type { Clock } from '../../../controller/runtime/clock.ts';
import { Turns } from '../turns.ts';

export interface CommandResult {
  /** Standard output and error, without the line break at the end. */
  readonly output: string;
  readonly status: number;
}

interface Watcher {
  readonly pattern: RegExp;
  resolve(match: RegExpExecArray): void;
  reject(error: Error): void;
}

/** The guest did not begin with a command. */
export class NotBegun extends Error {
  override readonly name = 'NotBegun';
}

const keptCharacters = 256 << 10;
let lastCommand = 0;

export class Console {
  readonly #socket: Socket;
  readonly #clock: Clock;
  readonly #watchers = new Set<Watcher>();
  #text = '';
  #isClosed = false;
  readonly #turns = new Turns();

  private constructor(socket: Socket, clock: Clock) {
    this.#socket = socket;
    this.#clock = clock;
    socket.setEncoding('latin1');
    socket.on('data', (text: string) => {
      this.#text = (this.#text + text).slice(-keptCharacters);
      this.#look();
    });
    socket.on('error', () => {});
    socket.on('close', () => this.#closed());
  }

  /** @throws when nobody listens at the path */
  static async connect(path: string, clock: Clock): Promise<Console> {
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return new Console(socket, clock);
  }

  /** All that was printed since the connection, as far as it is kept. */
  get text(): string {
    return this.#text;
  }

  /** The first match in what was printed since the connection. Rejects with the last lines when there is none in time. */
  waitFor(pattern: RegExp, timeoutMs: number): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      const finish = (): void => {
        cancel();
        this.#watchers.delete(watcher);
      };
      const watcher: Watcher = {
        pattern,
        resolve(match) {
          finish();
          resolve(match);
        },
        reject(error) {
          finish();
          reject(error);
        },
      };
      const cancel = this.#clock.setTimer(timeoutMs, () =>
        watcher.reject(
          new Error(
            `the guest did not print ${pattern} in ${timeoutMs / 1000} s; its last words: ${this.#text.slice(-600)}`,
          ),
        ),
      );
      this.#watchers.add(watcher);
      if (this.#isClosed) watcher.reject(new Error('the console is closed'));
      else this.#look();
    });
  }

  /**
   * Runs a shell command of one line in the guest. Rejects when the guest does not answer in time, with NotBegun when it did not even
   * begin within `beginMs`: it may be booting, and never have got the command.
   */
  run(command: string, timeoutMs: number, beginMs = timeoutMs): Promise<CommandResult> {
    return this.#turns.take(async () => {
      lastCommand += 1;
      const id = `c${lastCommand}`;
      this.#socket.write(`LAB-RUN ${id} ${command.replaceAll('\n', '; ')}\n`);
      await this.waitFor(new RegExp(`LAB-BEGIN ${id}\\r?\\n`), beginMs).catch((error: Error) => {
        throw new NotBegun(error.message);
      });
      const [, output = '', status] = await this.waitFor(
        new RegExp(`LAB-BEGIN ${id}\\r?\\n([^]*?)\\r?\\nLAB-END ${id} rc=(\\d+)`),
        timeoutMs,
      );
      return { output: output.replace(/\r?\n$/, ''), status: Number(status) };
    });
  }

  close(): void {
    this.#socket.destroy();
    this.#closed();
  }

  #look(): void {
    for (const watcher of this.#watchers) {
      const match = watcher.pattern.exec(this.#text);
      if (match !== null) watcher.resolve(match);
    }
  }

  #closed(): void {
    this.#isClosed = true;
    for (const watcher of this.#watchers) watcher.reject(new Error('the console is closed'));
  }
}

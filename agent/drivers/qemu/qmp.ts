/**
 * A client of one QMP socket (the QEMU Machine Protocol): commands with answers, and events.
 *
 * Invariants:
 * 1. A command's promise settles: with its answer, or with an error when QEMU refuses, does not answer in time or is gone.
 * 2. After `onClose` was called nothing is sent and no event arrives any more.
 */
import { connect, type Socket } from 'node:net';
import type { Clock } from '../../../controller/runtime/clock.ts';

export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

/** QEMU refused a command; `message` is its description. */
export class QmpError extends Error {
  /** QEMU's class of the error, such as "GenericError" or "DeviceNotFound". */
  readonly errorClass: string;

  constructor(command: string, errorClass: string, description: string) {
    super(`QEMU refused ${command}: ${description}`);
    this.errorClass = errorClass;
  }
}

export interface QmpOptions {
  readonly path: string;
  readonly clock: Clock;
  readonly onEvent?: (event: QmpEvent) => void;
  readonly onClose?: () => void;
}

interface Waiting {
  readonly command: string;
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** A busy host answers slowly, and a node that flushes its map takes its time. */
const answerMs = 20_000;
const greetingMs = 10_000;
const longestLineBytes = 16 * 2 ** 20;

export class Qmp {
  readonly #options: QmpOptions;
  readonly #socket: Socket;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  #buffer = '';
  #isClosed = false;
  #onGreeting: (() => void) | undefined;

  private constructor(options: QmpOptions, socket: Socket) {
    this.#options = options;
    this.#socket = socket;
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => this.#read(text));
    socket.on('error', () => {});
    socket.on('close', () => this.#closed());
  }

  /** Connects and negotiates. @throws when nobody listens, or no monitor greets in time */
  static async connect(options: QmpOptions): Promise<Qmp> {
    const socket = connect(options.path);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    const qmp = new Qmp(options, socket);
    try {
      await qmp.#greeting();
      await qmp.execute('qmp_capabilities');
    } catch (error) {
      qmp.close();
      throw error;
    }
    return qmp;
  }

  #greeting(): Promise<void> {
    return new Promise((resolve, reject) => {
      const cancel = this.#options.clock.setTimer(greetingMs, () =>
        reject(new Error(`no greeting from the monitor ${this.#options.path} in ${greetingMs / 1000} s`)),
      );
      this.#onGreeting = () => {
        cancel();
        resolve();
      };
      this.#socket.once('close', () => {
        cancel();
        reject(new Error(`the monitor ${this.#options.path} closed`));
      });
    });
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /**
   * @param timeoutMs how long QEMU may take; whether the command has an effect is unknown afterwards
   * @throws QmpError when QEMU refuses; Error when it is gone or does not answer
   */
  execute<Answer = unknown>(command: string, args: object = {}, timeoutMs: number = answerMs): Promise<Answer> {
    if (this.#isClosed) return Promise.reject(new Error(`${command}: the monitor is closed`));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const cancel = this.#options.clock.setTimer(timeoutMs, () => {
        this.#waiting.delete(id);
        reject(new Error(`QEMU did not answer ${command} in ${timeoutMs / 1000} s`));
      });
      this.#waiting.set(id, {
        command,
        resolve(value) {
          cancel();
          resolve(value as Answer);
        },
        reject(error) {
          cancel();
          reject(error);
        },
      });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
  }

  #read(text: string): void {
    this.#buffer += text;
    if (this.#buffer.length > longestLineBytes) {
      this.close();
      return;
    }
    for (let end = this.#buffer.indexOf('\n'); end >= 0; end = this.#buffer.indexOf('\n')) {
      const line = this.#buffer.slice(0, end).trim();
      this.#buffer = this.#buffer.slice(end + 1);
      if (line !== '' && !this.#isClosed) this.#take(JSON.parse(line) as Record<string, unknown>);
    }
  }

  #take(message: Record<string, unknown>): void {
    if ('QMP' in message) {
      this.#onGreeting?.();
      return;
    }
    if (typeof message.event === 'string') {
      this.#options.onEvent?.({ event: message.event, data: (message.data ?? {}) as Record<string, unknown> });
      return;
    }
    const waiting = this.#waiting.get(Number(message.id));
    this.#waiting.delete(Number(message.id));
    if (waiting === undefined) return;
    if (!('error' in message)) {
      waiting.resolve(message.return);
      return;
    }
    const { class: errorClass, desc } = message.error as { class?: string; desc?: string };
    waiting.reject(new QmpError(waiting.command, errorClass ?? 'GenericError', desc ?? 'no reason'));
  }

  #closed(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const { command, reject } of this.#waiting.values()) reject(new Error(`${command}: QEMU is gone`));
    this.#waiting.clear();
    this.#options.onClose?.();
  }

  /** Leaves the machine running. */
  close(): void {
    this.#socket.destroy();
    this.#closed();
  }
}

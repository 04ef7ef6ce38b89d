/**
 * The reference VMM of the channel: what a BitVisor does on its side, over whatever plays the machine.
 *
 * Invariants:
 * 1. The machine leaves only for a COMMIT with the token of the PREPARE that holds, and only if it still is as it was prepared;
 *    LEAVING is the last that is sent, and nothing depends on its arrival.
 * 2. A broken connection changes nothing for the guest: redirection and copy go on, a PREPARE holds, and it connects again.
 */
import type { Duplex } from 'node:stream';
import type { Clock } from '../../../controller/runtime/clock.ts';
import type { Random } from '../../../controller/runtime/random.ts';
import type { BootKey } from './agent-side.ts';
import { connectionKeys } from './frame.ts';
import { type Message, type Plan, protocolVersion, type Status, tokenBytes } from './messages.ts';
import { Session } from './session.ts';

/** What the channel needs of a VMM. */
export interface VmmMachine {
  status(): Omit<Status, 'kind'>;
  /** The first plan of this boot: fill the places, start guest and copy. Rejects with what failed. */
  start(plan: Plan): Promise<void>;
  throttle(maxRateBytes: bigint): void;
  notify(text: string): void;
  /** Stops the copy, writes everything out. Resolves with the reason why it is not ready, or `undefined`. */
  prepare(): Promise<string | undefined>;
  /** Every block local and flushed, nothing in flight, as `prepare` left it. */
  isPrepared(): boolean;
  /** One way. */
  leave(): void;
}

export interface VmmPeerOptions {
  readonly boot: BootKey;
  readonly epoch: bigint;
  readonly machine: VmmMachine;
  readonly connect: () => Duplex;
  readonly clock: Clock;
  readonly random: Random;
}

const statusMs = 5_000;
const firstPauseMs = 1_000;
const longestPauseMs = 30_000;
const none = Buffer.alloc(tokenBytes);

export class VmmPeer {
  readonly #options: VmmPeerOptions;
  #session: Session | undefined;
  #isWelcome = false;
  #token: Buffer = none;
  #hasPlan = false;
  #hasLeft = false;
  #pauseMs = firstPauseMs;
  #cancel: () => void = () => {};

  constructor(options: VmmPeerOptions) {
    this.#options = options;
    this.#connect();
  }

  /** Tells what the machine is doing; also called by itself every five seconds. */
  report(): void {
    if (this.#hasLeft || !this.#isWelcome) return;
    this.#cancel();
    this.#session?.send({ kind: 'Status', ...this.#options.machine.status() });
    this.#cancel = this.#options.clock.setTimer(statusMs, () => this.report());
  }

  /** Power is gone. */
  stop(): void {
    this.#hasLeft = true;
    this.#cancel();
    this.#session?.end('stopped');
  }

  #connect(): void {
    const { boot, epoch, random, clock } = this.#options;
    this.#isWelcome = false;
    const nonce = Buffer.from(random.uuid().replaceAll('-', ''), 'hex');
    const session = new Session({
      stream: this.#options.connect(),
      clock,
      side: 'Vmm',
      onMessage: (message) => {
        if (message.kind === 'Welcome' && !this.#isWelcome) {
          session.rekey(connectionKeys(boot.key, nonce, message.nonce));
          this.#isWelcome = true;
          this.#pauseMs = firstPauseMs;
          this.report();
        } else this.#take(message, session);
      },
      onEnd: () => {
        this.#cancel();
        if (this.#hasLeft) return;
        this.#cancel = clock.setTimer(this.#pauseMs, () => this.#connect());
        this.#pauseMs = Math.min(longestPauseMs, this.#pauseMs * 2);
      },
    });
    this.#session = session;
    session.start(boot.key);
    session.send({
      kind: 'Hello',
      version: protocolVersion,
      bootId: boot.bootId,
      nonce,
      epoch,
      preparedToken: this.#token,
    });
  }

  #take(message: Message, session: Session): void {
    const { machine, epoch } = this.#options;
    if (message.kind === 'Throttle') machine.throttle(message.maxRateBytes);
    else if (message.kind === 'Notify') machine.notify(message.text);
    else if (message.kind === 'Prepare') this.#prepare(message.token).catch(() => session.end('prepare failed'));
    else if (message.kind === 'Commit') this.#commit(message.token, session);
    else if (message.kind === 'Plan' && !this.#hasPlan && message.epoch === epoch) {
      this.#hasPlan = true;
      machine.start(message).then(
        () => this.report(),
        (error: unknown) => {
          const text = error instanceof Error ? error.message : String(error);
          this.#session?.send({ kind: 'Failure', epoch, code: 'VmmFailed', text: text.slice(0, 256) });
        },
      );
    }
  }

  async #prepare(token: Buffer): Promise<void> {
    this.#token = none;
    const reason = await this.#options.machine.prepare();
    if (reason === undefined) this.#token = Buffer.from(token);
    this.report();
    this.#session?.send(
      reason === undefined ? { kind: 'Prepared', token } : { kind: 'NotPrepared', token, text: reason.slice(0, 256) },
    );
  }

  #commit(token: Buffer, session: Session): void {
    const { machine } = this.#options;
    if (this.#hasLeft) return;
    if (this.#token.equals(none) || !this.#token.equals(token) || !machine.isPrepared()) {
      this.#token = none;
      session.send({ kind: 'NotPrepared', token, text: 'the token is not that of the PREPARE that holds' });
      return;
    }
    session.send({ kind: 'Leaving', token });
    this.#hasLeft = true;
    machine.leave();
    session.end('left');
  }
}

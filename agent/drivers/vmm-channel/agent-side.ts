/**
 * The agent's side of the VMM channel: knows which boots it gave keys to, what their VMMs say, and tells them what to do.
 *
 * Invariants:
 * 1. A connection is a node's only with a HELLO under the key of the node's newest boot, and replaces an earlier connection only
 *    once a frame under its own keys came: a repeated HELLO alone moves nothing.
 * 2. COMMIT goes only out for a token that the VMM said it is prepared for. Once it went out nothing but the same COMMIT follows,
 *    also on a new connection: whether the VMM left is found out from outside, never from silence here.
 * 3. A boot that is handed in again (`KeptBoot`), as by an agent that starts anew, goes on where it was.
 */
import type { Duplex } from 'node:stream';
import type { Clock } from '../../../controller/runtime/clock.ts';
import type { Random } from '../../../controller/runtime/random.ts';
import { connectionKeys, headerBytes } from './frame.ts';
import { type Hello, type Message, type Plan, protocolVersion, type Status } from './messages.ts';
import { Session } from './session.ts';

export interface VmmChannelsOptions {
  readonly clock: Clock;
  /** The operating system's: keys come of it. */
  readonly random: Random;
  readonly onChange: (node: string) => void;
  /** Right before the plan goes out to a VMM: from then on a guest may run under it. False: it must not. */
  readonly mayPlan?: (node: string) => boolean;
}

/** For the boot record that the boot server hands to the port that asked. */
export interface BootKey {
  readonly bootId: Buffer;
  readonly key: Buffer;
}

/** What has to outlive the process of a boot, so that its VMM is known again. */
export interface KeptBoot extends BootKey {
  /** Of a COMMIT that may have gone out. */
  readonly committed?: Buffer;
}

export interface ChannelReading {
  readonly connected: boolean;
  /** The newest; kept over a broken connection. */
  readonly status?: Status;
  readonly failure?: { readonly code: string; readonly text: string };
  /** The last word of a VMM on its way out. Its absence means nothing. */
  readonly leaving: boolean;
  /** Why the VMM did not follow a COMMIT. */
  readonly refusal?: string;
}

interface Boot extends BootKey {
  readonly node: string;
  readonly plan: Plan;
  /** Of the newest throttle; the plan's when none came. */
  maxRateBytes: bigint;
  session?: Session;
  status?: Status;
  failure?: { code: string; text: string };
  leaving: boolean;
  refusal?: string;
  /** Of the newest PREPARE. */
  token?: Buffer;
  prepared: boolean;
  committed: boolean;
  settle?: { resolve(): void; reject(error: Error): void };
}

const helloMs = 10_000;
/** Of connections that have not said who they are: from one control port, and where it is not known from which. */
const mostOfPort = 4;
const mostStrangers = 64;
const nonceOf = (random: Random): Buffer => Buffer.from(random.uuid().replaceAll('-', ''), 'hex');

export class VmmChannels {
  readonly #options: VmmChannelsOptions;
  readonly #byNode = new Map<string, Boot>();
  readonly #byId = new Map<string, Boot>();
  /** By whose control port they came through. */
  readonly #strangers = new Map<string | undefined, number>();

  constructor(options: VmmChannelsOptions) {
    this.#options = options;
  }

  /**
   * The boot server is about to hand the VMM to this node; an earlier boot of the node is over.
   * @param kept of a boot that goes on; absent: a new one
   */
  expect(node: string, plan: Plan, kept?: KeptBoot): BootKey {
    this.forget(node);
    const { random } = this.#options;
    const { committed, bootId, key } = kept ?? {
      bootId: nonceOf(random),
      key: Buffer.concat([nonceOf(random), nonceOf(random)]),
    };
    const boot: Boot = {
      ...{ node, plan, bootId, key, maxRateBytes: plan.maxRateBytes },
      leaving: false,
      prepared: false,
      committed: committed !== undefined,
      ...(committed === undefined ? {} : { token: committed }),
    };
    this.#byNode.set(node, boot);
    this.#byId.set(boot.bootId.toString('hex'), boot);
    return { bootId: boot.bootId, key: boot.key };
  }

  forget(node: string): void {
    const boot = this.#byNode.get(node);
    if (boot === undefined) return;
    this.#byNode.delete(node);
    this.#byId.delete(boot.bootId.toString('hex'));
    boot.settle?.reject(new Error('the boot of this VMM is over'));
    boot.session?.end('the boot is over');
  }

  read(node: string): ChannelReading {
    const boot = this.#byNode.get(node);
    return {
      connected: boot?.session !== undefined,
      leaving: boot?.leaving ?? false,
      ...(boot?.status === undefined ? {} : { status: boot.status }),
      ...(boot?.failure === undefined ? {} : { failure: boot.failure }),
      ...(boot?.refusal === undefined ? {} : { refusal: boot.refusal }),
    };
  }

  /** Bound of the background copy in bytes a second; 0: none. */
  throttle(node: string, maxRateBytes: number | bigint): void {
    const boot = this.#byNode.get(node);
    if (boot !== undefined) boot.maxRateBytes = BigInt(maxRateBytes);
    this.#send(node, { kind: 'Throttle', maxRateBytes: BigInt(maxRateBytes) });
  }

  notify(node: string, text: string): void {
    this.#send(node, { kind: 'Notify', text: text.slice(0, 256) });
  }

  /** Resolves with the token when the VMM holds still, ready to leave; rejects with the reason when it is not. */
  prepare(node: string): Promise<Buffer> {
    const boot = this.#byNode.get(node);
    if (boot?.session === undefined) return Promise.reject(new Error('the VMM is not connected'));
    if (boot.committed) return Promise.reject(new Error('a commit was sent already'));
    if (boot.settle !== undefined) return Promise.reject(new Error('the VMM is already preparing'));
    const token = nonceOf(this.#options.random);
    boot.token = token;
    boot.prepared = false;
    return new Promise<Buffer>((resolve, reject) => {
      boot.settle = { resolve: () => resolve(token), reject };
      this.#send(node, { kind: 'Prepare', token });
    }).finally(() => {
      delete boot.settle;
    });
  }

  /** One way. Returns at once; what became of it is seen from outside. @throws when the VMM is not prepared */
  commit(node: string): void {
    const boot = this.#byNode.get(node);
    if (boot?.token === undefined || !boot.prepared) throw new Error('the VMM is not prepared');
    boot.committed = true;
    delete boot.refusal;
    this.#send(node, { kind: 'Commit', token: boot.token });
  }

  #send(node: string, message: Message): void {
    const boot = this.#byNode.get(node);
    if (boot?.committed === true && message.kind !== 'Commit') return;
    boot?.session?.send(message);
  }

  /**
   * A connection from the control network.
   * @param from whose control port it came through, where that is known: of another node it is then not taken
   */
  accept(stream: Duplex, from?: string): void {
    const count = (change: number): number => {
      const now = (this.#strangers.get(from) ?? 0) + change;
      this.#strangers.set(from, now);
      return now;
    };
    if (count(1) > (from === undefined ? mostStrangers : mostOfPort)) {
      count(-1);
      stream.destroy();
      return;
    }
    let boot: Boot | undefined;
    let hello: Hello | undefined;
    let isCounted = true;
    const isKnown = (): void => {
      if (isCounted) count(-1);
      isCounted = false;
    };
    const cancel = this.#options.clock.setTimer(helloMs, () => session.end('no HELLO in time'));
    const session = new Session({
      stream,
      clock: this.#options.clock,
      side: 'Agent',
      onMessage: (message) => {
        if (boot === undefined) return;
        if (hello === undefined) {
          if (message.kind !== 'Hello') return session.end('a first message that is no HELLO');
          hello = message;
          this.#welcome(boot, session, message);
          return;
        }
        cancel();
        isKnown();
        if (boot.session !== session) this.#replace(boot, session, hello);
        this.#take(boot, message);
      },
      onEnd: () => {
        cancel();
        isKnown();
        if (boot?.session === session) {
          delete boot.session;
          boot.settle?.reject(new Error('the connection to the VMM broke'));
          this.#options.onChange(boot.node);
        }
      },
    });
    // The first frame says whose key it is under, before its MAC can be looked at.
    let head = Buffer.alloc(0);
    const peek = (chunk: Buffer): void => {
      head = Buffer.concat([head, chunk]).subarray(0, headerBytes + 18);
      if (head.length < headerBytes + 18) return;
      stream.off('data', peek);
      boot = this.#byId.get(head.subarray(headerBytes + 2).toString('hex'));
      if (from !== undefined && boot?.node !== from) boot = undefined;
      if (boot === undefined) session.end('no such boot');
      else session.start(boot.key);
    };
    stream.on('data', peek);
  }

  #welcome(boot: Boot, session: Session, hello: Hello): void {
    if (hello.version < 1 || hello.epoch !== boot.plan.epoch || boot.leaving) {
      session.end('a HELLO that does not fit the boot');
      return;
    }
    const { mayPlan = () => true } = this.#options;
    if (!boot.committed && !mayPlan(boot.node)) {
      session.end('no guest may start on this machine now');
      return;
    }
    const nonce = nonceOf(this.#options.random);
    session.send({ kind: 'Welcome', version: Math.min(hello.version, protocolVersion), nonce });
    session.rekey(connectionKeys(boot.key, hello.nonce, nonce));
    if (boot.committed && boot.token !== undefined) session.send({ kind: 'Commit', token: boot.token });
    else {
      session.send(boot.plan);
      // A second plan of one boot is ignored, and with it its bound.
      if (boot.maxRateBytes !== boot.plan.maxRateBytes) {
        session.send({ kind: 'Throttle', maxRateBytes: boot.maxRateBytes });
      }
    }
  }

  #replace(boot: Boot, session: Session, { preparedToken }: Hello): void {
    const earlier = boot.session;
    boot.session = session;
    // A guest that was reset meanwhile took the machine out of what was prepared.
    boot.prepared = boot.token?.equals(preparedToken) ?? false;
    earlier?.end('a newer connection of the same boot');
  }

  #take(boot: Boot, message: Message): void {
    if (message.kind === 'Status' && message.epoch === boot.plan.epoch) boot.status = message;
    else if (message.kind === 'Failure') boot.failure = { code: message.code, text: message.text };
    else if (message.kind === 'Prepared' && boot.token?.equals(message.token)) {
      boot.prepared = true;
      boot.settle?.resolve();
    } else if (message.kind === 'NotPrepared' && boot.token?.equals(message.token)) {
      // Also the answer to a COMMIT: this VMM did not leave, and never will for this token.
      if (boot.committed) boot.refusal = message.text;
      boot.prepared = false;
      boot.committed = false;
      boot.settle?.reject(new Error(message.text));
    } else if (message.kind === 'Leaving' && boot.committed && boot.token?.equals(message.token)) boot.leaving = true;
    this.#options.onChange(boot.node);
  }
}

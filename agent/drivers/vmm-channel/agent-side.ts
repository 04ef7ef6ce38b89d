/**
 * The agent's side of the VMM channel: knows which boots it gave keys to, what their VMMs say, and tells them what to do.
 *
 * Invariants:
 * 1. A connection is a node's only with a HELLO under the key of the node's newest boot, and replaces an earlier connection only
 *    once a frame under its own keys came: a repeated HELLO alone moves nothing.
 * 2. COMMIT goes only out for a token that the VMM said it is prepared for. Once it went out nothing but the same COMMIT follows,
 *    also on a new connection: whether the VMM left is found out from outside, never from silence here.
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
}

/** For the boot record that the boot server hands to the port that asked. */
export interface BootKey {
  readonly bootId: Buffer;
  readonly key: Buffer;
}

export interface ChannelReading {
  readonly connected: boolean;
  /** The newest; kept over a broken connection. */
  readonly status?: Status;
  readonly failure?: { readonly code: string; readonly text: string };
  /** The last word of a VMM on its way out. Its absence means nothing. */
  readonly leaving: boolean;
}

interface Boot extends BootKey {
  readonly node: string;
  readonly plan: Plan;
  session?: Session;
  status?: Status;
  failure?: { code: string; text: string };
  leaving: boolean;
  /** Of the newest PREPARE. */
  token?: Buffer;
  prepared: boolean;
  committed: boolean;
  settle?: { resolve(): void; reject(error: Error): void };
}

const helloMs = 10_000;
/** Of connections that have not said who they are. */
const mostStrangers = 64;
const nonceOf = (random: Random): Buffer => Buffer.from(random.uuid().replaceAll('-', ''), 'hex');

export class VmmChannels {
  readonly #options: VmmChannelsOptions;
  readonly #byNode = new Map<string, Boot>();
  readonly #byId = new Map<string, Boot>();
  #strangers = 0;

  constructor(options: VmmChannelsOptions) {
    this.#options = options;
  }

  /** The boot server is about to hand the VMM to this node; an earlier boot of the node is over. */
  expect(node: string, plan: Plan): BootKey {
    this.forget(node);
    const { random } = this.#options;
    const boot: Boot = {
      node,
      plan,
      bootId: nonceOf(random),
      key: Buffer.concat([nonceOf(random), nonceOf(random)]),
      leaving: false,
      prepared: false,
      committed: false,
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
    };
  }

  /** Bound of the background copy in bytes a second; 0: none. */
  throttle(node: string, maxRateBytes: number): void {
    this.#send(node, { kind: 'Throttle', maxRateBytes: BigInt(maxRateBytes) });
  }

  notify(node: string, text: string): void {
    this.#send(node, { kind: 'Notify', text: text.slice(0, 256) });
  }

  /** Resolves when the VMM holds still, ready to leave; rejects with the reason when it is not. */
  prepare(node: string): Promise<void> {
    const boot = this.#byNode.get(node);
    if (boot?.session === undefined) return Promise.reject(new Error('the VMM is not connected'));
    if (boot.committed) return Promise.reject(new Error('a commit was sent already'));
    if (boot.settle !== undefined) return Promise.reject(new Error('the VMM is already preparing'));
    const token = nonceOf(this.#options.random);
    boot.token = token;
    boot.prepared = false;
    return new Promise<void>((resolve, reject) => {
      boot.settle = { resolve, reject };
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
    this.#send(node, { kind: 'Commit', token: boot.token });
  }

  #send(node: string, message: Message): void {
    const boot = this.#byNode.get(node);
    if (boot?.committed === true && message.kind !== 'Commit') return;
    boot?.session?.send(message);
  }

  /** A connection from the control network. */
  accept(stream: Duplex): void {
    if (this.#strangers >= mostStrangers) {
      stream.destroy();
      return;
    }
    this.#strangers += 1;
    let boot: Boot | undefined;
    let hello: Hello | undefined;
    let isCounted = true;
    const isKnown = (): void => {
      if (isCounted) this.#strangers -= 1;
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
    const nonce = nonceOf(this.#options.random);
    session.send({ kind: 'Welcome', version: Math.min(hello.version, protocolVersion), nonce });
    session.rekey(connectionKeys(boot.key, hello.nonce, nonce));
    if (boot.committed && boot.token !== undefined) session.send({ kind: 'Commit', token: boot.token });
    else session.send(boot.plan);
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
      boot.prepared = false;
      boot.committed = false;
      boot.settle?.reject(new Error(message.text));
    } else if (message.kind === 'Leaving' && boot.committed && boot.token?.equals(message.token)) boot.leaving = true;
    this.#options.onChange(boot.node);
  }
}

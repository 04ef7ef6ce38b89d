/**
 * The way between one operator process and the API server, with everything that can happen on it.
 *
 * Invariants:
 * 1. A write that failed with anything but `Unknown` did not happen; after `Unknown` it did, or will, or will not.
 * 2. A read is never `Unknown` (invariant 4 of the port).
 * 3. Events of one watch come in the order of their versions, save that two neighbours of different objects may come swapped, with
 *    nothing between them; an event may come twice.
 */
import {
  type GroupVersionKind,
  type KubeClient,
  KubeError,
  type KubeObject,
  type ObjectKey,
  type WatchEvent,
  type WatchOptions,
} from '../../controller/kube/port.ts';
import { sleep } from '../../controller/runtime/clock.ts';
import type { Random } from '../../controller/runtime/random.ts';
import { chance, int } from './chance.ts';
import type { ProcessClock } from './process-clock.ts';
import type { World } from './world.ts';

/** Chances per call or event, 0 to 1; families set them. */
export interface ApiChances {
  conflict: number;
  /** Somebody else edits the object just before the write comes. */
  edited: number;
  unavailable: number;
  busy: number;
  refused: number;
  lostAnswer: number;
  /** The answer is lost, and the write takes effect later. */
  lateWrite: number;
  slow: number;
  slowList: number;
  cutWatch: number;
  goneWatch: number;
  twice: number;
  swapped: number;
  /** A watch stands still for a while. */
  stalled: number;
}

export const noApiChances: ApiChances = {
  conflict: 0,
  edited: 0,
  unavailable: 0,
  busy: 0,
  refused: 0,
  lostAnswer: 0,
  lateWrite: 0,
  slow: 0,
  slowList: 0,
  cutWatch: 0,
  goneWatch: 0,
  twice: 0,
  swapped: 0,
  stalled: 0,
};

type Verb = 'get' | 'list' | 'create' | 'patch' | 'delete';

interface Call {
  readonly verb: Verb;
  readonly gvk: GroupVersionKind;
  readonly key?: ObjectKey;
}

export interface CallSite {
  /** Before the call reaches the server, and after it took effect: the process may die here. */
  passed(point: 'before' | 'after', what: string): boolean;
}

const isRead = (verb: Verb): boolean => verb === 'get' || verb === 'list';
const longStallMs = 120_000;

export class KubeNetwork implements KubeClient {
  readonly #world: World;
  readonly #client: KubeClient;
  readonly #clock: ProcessClock;
  readonly #random: Random;
  readonly #who: string;
  readonly #site: CallSite;
  /** Everything fails while it is true: this process alone is cut off from the API server. */
  cut = false;

  constructor(world: World, client: KubeClient, clock: ProcessClock, who: string, site: CallSite) {
    this.#world = world;
    this.#client = client;
    this.#clock = clock;
    this.#who = who;
    this.#site = site;
    this.#random = world.random(`kube of ${who}`);
  }

  #hit(kind: keyof ApiChances): boolean {
    if (!chance(this.#random, this.#world.api[kind])) return false;
    this.#world.struck(`api.${kind}`);
    return true;
  }

  #call<T>(call: Call, work: () => Promise<T>): Promise<T> {
    if (this.#clock.state === 'Dead') return new Promise<T>(() => {});
    return this.#clock.receive(this.#travel(call, work));
  }

  async #travel<T>(call: Call, work: () => Promise<T>): Promise<T> {
    const { verb, gvk, key } = call;
    const name = `${verb} ${gvk.kind}${key === undefined ? '' : `/${key.name}`}`;
    const read = isRead(verb);
    if (!this.#site.passed('before', name)) return new Promise<T>(() => {});
    if (this.cut) throw new KubeError('Unavailable', 'simulated: the API server cannot be reached');
    const slow = this.#hit('slow') || (verb === 'list' && this.#hit('slowList'));
    if (slow) await sleep(this.#world.clock, int(this.#random, verb === 'list' ? 20_000 : 4_000));
    const refusal = await this.#refusal(call);
    if (refusal !== undefined) throw this.#failed(name, refusal);
    if (!read && this.#hit('lateWrite')) {
      const lateMs = 1 + int(this.#random, 20_000);
      this.#world.trace.add(this.#who, `${name}: late by ${lateMs} ms`);
      this.#world.clock.setTimer(lateMs, () => void work().catch(() => undefined));
      throw new KubeError('Unknown', 'simulated: no answer');
    }
    let result: T;
    try {
      result = await work();
    } catch (error) {
      if (error instanceof KubeError) this.#world.trace.add(this.#who, `${name}: ${error.reason}`);
      throw error;
    }
    if (!read) this.#world.trace.add(this.#who, `${name} ${versionOf(result)}`);
    if (!this.#site.passed('after', name)) return new Promise<T>(() => {});
    if (!read && this.#hit('lostAnswer')) throw this.#failed(name, new KubeError('Unknown', 'simulated: no answer'));
    return result;
  }

  #failed(name: string, error: KubeError): KubeError {
    this.#world.trace.add(this.#who, `${name}: simulated ${error.reason}`);
    return error;
  }

  async #refusal({ verb, gvk, key }: Call): Promise<KubeError | undefined> {
    if (this.#hit('unavailable')) return new KubeError('Unavailable', 'simulated: 503', { status: 503 });
    if (this.#hit('busy')) {
      return new KubeError('TooManyRequests', 'simulated: 429', { status: 429, retryAfterMs: 1_000 });
    }
    if (isRead(verb)) return undefined;
    if (verb !== 'delete' && this.#hit('refused')) {
      return new KubeError('Forbidden', 'simulated: an admission webhook refused it', { status: 403 });
    }
    if (verb !== 'patch' || key === undefined) return undefined;
    if (this.#hit('conflict')) return new KubeError('Conflict', 'simulated: somebody wrote first', { status: 409 });
    if (this.#hit('edited')) await this.#world.touch(gvk, key);
    return undefined;
  }

  get: KubeClient['get'] = (gvk, key) => this.#call({ verb: 'get', gvk, key }, () => this.#client.get(gvk, key));

  list: KubeClient['list'] = (gvk, options) => this.#call({ verb: 'list', gvk }, () => this.#client.list(gvk, options));

  create: KubeClient['create'] = (gvk, object, options) =>
    this.#call({ verb: 'create', gvk, key: { name: object.metadata.name } }, () =>
      this.#client.create(gvk, object, options),
    );

  patch: KubeClient['patch'] = (gvk, key, patch, options) =>
    this.#call({ verb: 'patch', gvk, key }, () => this.#client.patch(gvk, key, patch, options));

  delete: KubeClient['delete'] = (gvk, key, options) =>
    this.#call({ verb: 'delete', gvk, key }, () => this.#client.delete(gvk, key, options));

  watch<T extends KubeObject>(gvk: GroupVersionKind, options: WatchOptions): AsyncIterable<WatchEvent<T>> {
    return this.#watch<T>(gvk, options);
  }

  async *#watch<T extends KubeObject>(
    gvk: GroupVersionKind,
    options: WatchOptions,
  ): AsyncGenerator<WatchEvent<T>, void, undefined> {
    if (this.#clock.state === 'Dead') await new Promise(() => {});
    if (this.cut) throw new KubeError('Unavailable', 'simulated: the API server cannot be reached');
    let held: WatchEvent<T> | undefined;
    for await (const event of this.#client.watch<T>(gvk, options)) {
      if (this.#hit('stalled')) await sleep(this.#world.clock, int(this.#random, longStallMs));
      if (this.#clock.state !== 'Running') await this.#clock.receive(Promise.resolve());
      if (this.cut || this.#hit('cutWatch')) {
        if (chance(this.#random, 0.5)) return;
        throw new KubeError('Unavailable', 'simulated: the connection broke');
      }
      if (this.#hit('goneWatch')) {
        yield { type: 'ERROR', error: new KubeError('Gone', 'simulated: too old', { status: 410 }) };
        return;
      }
      if (held !== undefined) {
        const [first, second] = mayPass(held, event) ? [event, held] : [held, event];
        held = undefined;
        yield first;
        yield second;
        continue;
      }
      // Until the next one comes, at the latest the next bookmark; a watch that is cut meanwhile is resumed before it.
      if (event.type !== 'BOOKMARK' && event.type !== 'ERROR' && this.#hit('swapped')) {
        held = event;
        continue;
      }
      yield event;
      if (event.type !== 'ERROR' && this.#hit('twice')) yield event;
    }
    if (this.#clock.state === 'Dead') await new Promise(() => {});
    if (held !== undefined) yield held;
  }

  close(): Promise<void> {
    return this.#client.close();
  }
}

const objectKey = (event: WatchEvent<KubeObject>): string =>
  'object' in event ? `${event.object.metadata.namespace ?? ''}/${event.object.metadata.name}` : '';

/** Whether `second` may come before `first`. */
function mayPass(first: WatchEvent<KubeObject>, second: WatchEvent<KubeObject>): boolean {
  const [a, b] = [objectKey(first), objectKey(second)];
  return a !== '' && b !== '' && a !== b;
}

const versionOf = (result: unknown): string => (result as KubeObject | undefined)?.metadata?.resourceVersion ?? '';

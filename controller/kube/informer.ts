/**
 * Keeps a store in step with the API server: carries out what the watch machine decides.
 *
 * Invariants:
 * 1. At most one list or watch is under way, and at most one timer is set.
 * 2. No failure ends an informer; only `stop()` does.
 * 3. After `stop()` resolves, the store does not change through it any more.
 */
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import type { Random } from '../runtime/random.ts';
import { type GroupVersionKind, KubeError, type KubeObject, type KubeReader } from './port.ts';
import type { StoreWriter } from './store.ts';
import {
  decide,
  defaultWatchPolicy,
  emptyWatch,
  type WatchEffect,
  type WatchInput,
  type WatchPolicy,
} from './watch.ts';

export interface InformerOptions<T extends KubeObject> {
  readonly client: KubeReader;
  readonly gvk: GroupVersionKind;
  readonly writer: StoreWriter<T>;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly namespace?: string;
  readonly labelSelector?: string;
  /** Objects per page. Default 500: a page of 2 KB objects parses in a few milliseconds. */
  readonly pageSize?: number;
  /** Asked of the server for every watch, in seconds. Default 5 to 10 minutes, drawn anew each time as client-go does. */
  readonly timeoutSeconds?: number;
  readonly policy?: WatchPolicy;
  /** Called when a list begins. */
  readonly onList?: () => void;
}

export interface Informer {
  /** For health and tests. */
  readonly state: 'Empty' | 'Listing' | 'Watching' | 'Backoff' | 'Stopped';
  stop(): Promise<void>;
}

const shortestTimeoutSeconds = 300;

type StoreEffect<T> = Extract<WatchEffect<T>, { kind: 'begin' | 'page' | 'end' | 'apply' | 'remove' | 'progress' }>;

/** One for all: nobody reads why a call was given up, and each error of its own would record a stack. */
const replaced = new Error('the list or watch was replaced by another one');

/** What is no KubeError came from the store or from a bug: whether an event was lost is not known, so list again. */
function asKubeError(error: unknown): KubeError {
  if (error instanceof KubeError) return error;
  return new KubeError('Gone', error instanceof Error ? error.message : String(error), { cause: error });
}

class Runner<T extends KubeObject> implements Informer {
  readonly #options: InformerOptions<T>;
  readonly #log: Logger;
  readonly #policy: WatchPolicy;
  #machine = emptyWatch;
  #call = new AbortController();
  #underWay: Promise<void> = Promise.resolve();
  #cancelTimer = (): void => {};

  constructor(options: InformerOptions<T>) {
    this.#options = options;
    this.#policy = options.policy ?? defaultWatchPolicy;
    this.#log = options.log.child({ watch: options.gvk.plural });
    this.#feed({ kind: 'start' });
  }

  get state(): Informer['state'] {
    return this.#machine.kind;
  }

  async stop(): Promise<void> {
    this.#feed({ kind: 'stop' });
    this.#cancelTimer();
    await this.#underWay;
  }

  #feed(input: WatchInput<T>): void {
    const { state, effects } = decide(this.#policy, this.#machine, input, this.#options.random.next());
    this.#machine = state;
    for (const effect of effects) this.#perform(effect);
  }

  #perform(effect: WatchEffect<T>): void {
    switch (effect.kind) {
      case 'list':
        this.#start(effect.call, (signal) => this.#list(effect.call, effect.continue, signal));
        break;
      case 'watch':
        this.#start(effect.call, (signal) => this.#watch(effect.call, effect.resourceVersion, signal));
        break;
      case 'close':
        this.#call.abort(replaced);
        break;
      case 'setQuietTimer':
        this.#setTimer(effect.afterMs, { kind: 'quietTimer', call: effect.call });
        break;
      case 'setBackoffTimer':
        this.#log.warn('list or watch failed; will try again', {
          reason: effect.reason,
          afterMs: Math.round(effect.afterMs),
        });
        this.#setTimer(effect.afterMs, { kind: 'backoffTimer', call: effect.call });
        break;
      default:
        this.#tellStore(effect);
    }
  }

  #tellStore(effect: StoreEffect<T>): void {
    const { writer, onList } = this.#options;
    switch (effect.kind) {
      case 'begin':
        onList?.();
        writer.beginList();
        break;
      case 'page':
        writer.addPage(effect.items, effect.resourceVersion);
        break;
      case 'end':
        writer.endList(effect.resourceVersion);
        break;
      case 'apply':
        writer.apply(effect.object);
        break;
      case 'remove':
        writer.remove(effect.object);
        break;
      case 'progress':
        writer.progress(effect.resourceVersion);
        break;
      default:
        effect satisfies never;
    }
  }

  /** A state waits for one timer at most, so a new one replaces the old. */
  #setTimer(afterMs: number, input: WatchInput<T>): void {
    this.#cancelTimer();
    this.#cancelTimer = this.#options.clock.setTimer(afterMs, () => this.#feed(input));
  }

  /** Replaces the call under way; a failure of the new one is an input to the machine like any other. */
  #start(call: number, work: (signal: AbortSignal) => Promise<void>): void {
    this.#call.abort(replaced);
    this.#call = new AbortController();
    const { signal } = this.#call;
    this.#underWay = work(signal).catch((error) => {
      if (!signal.aborted) this.#feed({ kind: 'failed', call, error: asKubeError(error) });
    });
  }

  async #list(call: number, token: string | undefined, signal: AbortSignal): Promise<void> {
    const { client, gvk, namespace, labelSelector, pageSize } = this.#options;
    const page = await client.list<T>(gvk, {
      limit: pageSize ?? 500,
      signal,
      ...(token === undefined ? {} : { continue: token }),
      ...(namespace === undefined ? {} : { namespace }),
      ...(labelSelector === undefined ? {} : { labelSelector }),
    });
    if (!signal.aborted) this.#feed({ kind: 'page', call, page });
  }

  async #watch(call: number, resourceVersion: string, signal: AbortSignal): Promise<void> {
    const { client, gvk, clock, random, namespace, labelSelector } = this.#options;
    const startedAt = clock.monotonic();
    const timeoutSeconds = this.#options.timeoutSeconds ?? Math.round(shortestTimeoutSeconds * (1 + random.next()));
    const events = client.watch<T>(gvk, {
      resourceVersion,
      timeoutSeconds,
      signal,
      ...(namespace === undefined ? {} : { namespace }),
      ...(labelSelector === undefined ? {} : { labelSelector }),
    });
    for await (const event of events) {
      if (signal.aborted) return;
      this.#feed({ kind: 'event', call, event });
    }
    if (!signal.aborted) this.#feed({ kind: 'ended', call, livedMs: clock.monotonic() - startedAt });
  }
}

export function startInformer<T extends KubeObject>(options: InformerOptions<T>): Informer {
  return new Runner(options);
}

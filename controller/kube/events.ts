/**
 * Records Kubernetes Events: what happened to an object, for `kubectl describe`.
 *
 * Invariants:
 * 1. `record` never waits and never throws; what cannot be recorded is dropped and counted.
 * 2. The same happening (object, type, reason, message) is one Event with a count, as long as it recurs within ten minutes.
 * 3. Memory is bounded: so many happenings wait, so many are remembered.
 */
import { type Clock, toMetaTime } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import type { Random } from '../runtime/random.ts';
import { apiVersion } from './gvk.ts';
import { type GroupVersionKind, KubeError, type KubeObject, type KubeWriter } from './port.ts';

export const eventKind: GroupVersionKind = {
  group: '',
  version: 'v1',
  kind: 'Event',
  plural: 'events',
  namespaced: true,
};

export interface EventRecorder {
  /**
   * @param reason one CamelCase word, for programs
   * @param message a sentence, for people; cut at 1,024 bytes as the API demands
   */
  record(gvk: GroupVersionKind, object: KubeObject, type: 'Normal' | 'Warning', reason: string, message: string): void;
  /** Resolves when everything recorded so far was sent or dropped. */
  flush(): Promise<void>;
  /** Drops what waits; resolves when nothing is under way. */
  stop(): Promise<void>;
}

export interface EventRecorderOptions {
  readonly client: Pick<KubeWriter, 'create' | 'patch'>;
  /** Shown as the Event's source and controller. */
  readonly component: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly onDrop?: () => void;
  /** Happenings that wait to be sent. Default 1,000. */
  readonly queueLimit?: number;
  /** Events per object at once, and then one per this time. Default 25 and 5 minutes, as client-go's spam filter. */
  readonly perObject?: { readonly burst: number; readonly refillMs: number };
  /** The same for all Events together. Default 100 and 100 ms. */
  readonly overall?: { readonly burst: number; readonly refillMs: number };
}

interface EventObject extends KubeObject {
  involvedObject: object;
  reason: string;
  message: string;
  type: string;
  count: number;
  firstTimestamp: string;
  lastTimestamp: string;
  source: { component: string };
  reportingComponent: string;
}

interface Happening {
  readonly namespace: string;
  readonly involved: {
    apiVersion: string;
    kind: string;
    name: string;
    namespace?: string;
    uid?: string;
    resourceVersion?: string;
  };
  readonly type: string;
  readonly reason: string;
  readonly message: string;
  readonly firstAt: number;
  lastAt: number;
  count: number;
  /** The Event's name once it exists. */
  storedAs: string | undefined;
  queued: boolean;
}

/** Recurring later than this it is a new Event (client-go's aggregation interval). */
const sameForMs = 600_000;
/** Happenings and objects that are remembered (client-go's cache size). */
const remembered = 4_096;
const longestMessageBytes = 1_024;

/** A token bucket per key; the least recently used keys are forgotten. */
class Buckets {
  readonly #buckets = new Map<string, { tokens: number; at: number }>();
  readonly #burst: number;
  readonly #refillMs: number;

  constructor({ burst, refillMs }: { readonly burst: number; readonly refillMs: number }) {
    this.#burst = burst;
    this.#refillMs = refillMs;
  }

  take(key: string, now: number): boolean {
    const bucket = this.#buckets.get(key) ?? { tokens: this.#burst, at: now };
    bucket.tokens = Math.min(this.#burst, bucket.tokens + (now - bucket.at) / this.#refillMs);
    bucket.at = now;
    const granted = bucket.tokens >= 1;
    if (granted) bucket.tokens -= 1;
    this.#buckets.delete(key);
    this.#buckets.set(key, bucket);
    forgetOldest(this.#buckets);
    return granted;
  }
}

function forgetOldest(map: Map<string, unknown>): void {
  if (map.size <= remembered) return;
  const oldest = map.keys().next();
  if (oldest.done !== true) map.delete(oldest.value);
}

function cut(message: string): string {
  const bytes = Buffer.from(message);
  if (bytes.length <= longestMessageBytes) return message;
  return `${bytes
    .subarray(0, longestMessageBytes - 8)
    .toString()
    .replace(/\uFFFD+$/, '')} …`;
}

class Recorder implements EventRecorder {
  readonly #options: EventRecorderOptions;
  readonly #perObject: Buckets;
  readonly #overall: Buckets;
  readonly #known = new Map<string, Happening>();
  readonly #queue: Happening[] = [];
  #sending: Promise<void> | undefined;
  #stopped = false;

  constructor(options: EventRecorderOptions) {
    this.#options = options;
    this.#perObject = new Buckets(options.perObject ?? { burst: 25, refillMs: 300_000 });
    this.#overall = new Buckets(options.overall ?? { burst: 100, refillMs: 100 });
  }

  record(gvk: GroupVersionKind, object: KubeObject, type: 'Normal' | 'Warning', reason: string, text: string): void {
    if (this.#stopped) return;
    const { namespace, name, uid } = object.metadata;
    const now = this.#options.clock.monotonic();
    const message = cut(text);
    const who = `${gvk.group}/${gvk.kind}/${namespace ?? ''}/${name}/${uid ?? ''}`;
    const key = JSON.stringify([who, type, reason, message]);
    const known = this.#known.get(key);
    const same = known !== undefined && now - known.lastAt < sameForMs ? known : undefined;
    const full = this.#queue.length >= (this.#options.queueLimit ?? 1_000);
    const granted = same?.queued === true || (!full && this.#perObject.take(who, now) && this.#overall.take('', now));
    if (!granted) this.#options.onDrop?.();
    if (!granted && same === undefined) return;
    const happening = same ?? this.#happening(gvk, object, type, reason, message, now);
    // Counted even when it may not be sent now: the next one that is sent carries the sum.
    happening.count += 1;
    happening.lastAt = now;
    this.#known.delete(key);
    this.#known.set(key, happening);
    forgetOldest(this.#known);
    if (granted && !happening.queued) {
      happening.queued = true;
      this.#queue.push(happening);
      this.#sending ??= this.#send();
    }
  }

  #happening(
    gvk: GroupVersionKind,
    object: KubeObject,
    type: string,
    reason: string,
    message: string,
    now: number,
  ): Happening {
    const { namespace, name, uid, resourceVersion } = object.metadata;
    const involved = {
      apiVersion: apiVersion(gvk),
      kind: gvk.kind,
      name,
      ...(namespace === undefined ? {} : { namespace }),
      ...(uid === undefined ? {} : { uid }),
      ...(resourceVersion === undefined ? {} : { resourceVersion }),
    };
    // Events are namespaced: those of cluster-scoped objects stand in "default", where `kubectl describe` looks.
    const place = namespace ?? 'default';
    const times = { firstAt: now, lastAt: now, count: 0 };
    return { namespace: place, involved, type, reason, message, ...times, storedAs: undefined, queued: false };
  }

  async #send(): Promise<void> {
    // Not in the caller's own turn: what it records in one go is aggregated first.
    await undefined;
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
      next.queued = false;
      try {
        await this.#write(next);
      } catch (error) {
        this.#options.onDrop?.();
        this.#options.log.debug('an Event was not recorded', { reason: next.reason, err: error });
      }
    }
    this.#sending = undefined;
  }

  async #write(happening: Happening): Promise<void> {
    const { client } = this.#options;
    const { namespace, storedAs } = happening;
    if (storedAs !== undefined) {
      const patch = { count: happening.count, lastTimestamp: this.#wallTime(happening.lastAt) };
      try {
        await client.patch(eventKind, { namespace, name: storedAs }, patch, { type: 'merge' });
        return;
      } catch (error) {
        // The server forgets Events after an hour or so.
        if (!(error instanceof KubeError) || error.reason !== 'NotFound') throw error;
      }
    }
    const event = this.#event(happening);
    await client.create<EventObject>(eventKind, event);
    happening.storedAs = event.metadata.name;
  }

  #event(happening: Happening): EventObject {
    const { component, random } = this.#options;
    const { namespace, involved, type, reason, message, count } = happening;
    return {
      apiVersion: 'v1',
      kind: 'Event',
      metadata: { namespace, name: `${involved.name.slice(0, 200)}.${random.uuid().replaceAll('-', '').slice(0, 16)}` },
      involvedObject: involved,
      type,
      reason,
      message,
      count,
      firstTimestamp: this.#wallTime(happening.firstAt),
      lastTimestamp: this.#wallTime(happening.lastAt),
      source: { component },
      reportingComponent: component,
    };
  }

  #wallTime(monotonic: number): string {
    const { clock } = this.#options;
    return toMetaTime(clock.now() - (clock.monotonic() - monotonic));
  }

  async flush(): Promise<void> {
    while (this.#sending !== undefined) await this.#sending;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#queue.length = 0;
    await this.flush();
  }
}

export function createEventRecorder(options: EventRecorderOptions): EventRecorder {
  return new Recorder(options);
}

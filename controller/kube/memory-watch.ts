/**
 * Watching the in-process store: a cursor over the kind's kept events, so that a slow reader costs no memory of its own.
 *
 * Invariants:
 * 1. Events come in the order of their versions, none twice, none left out; a cursor that fell behind what is kept gets 410.
 * 2. An object that starts or stops matching the selector is seen as ADDED or DELETED, as kube-apiserver shows it.
 * 3. A bookmark carries a version up to which every event was delivered.
 */
import type { Clock } from '../runtime/clock.ts';
import { type AnyObject, withVersion } from './memory-objects.ts';
import { KubeError, type KubeObject, type WatchEvent, type WatchOptions } from './port.ts';
import { labelPredicate, type Predicate } from './selector.ts';

export interface HistoryEvent {
  readonly version: number;
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED';
  readonly object: AnyObject;
  /** What was stored before, if anything. */
  readonly old: AnyObject | undefined;
}

export interface KindHistory {
  readonly events: HistoryEvent[];
  /** The index, counted from the beginning of time, of `events[0]`. */
  firstIndex: number;
  /** The version of the newest event that is no longer kept. */
  forgottenVersion: number;
  /** Called after every event. */
  readonly wakers: Set<() => void>;
}

export interface WatchSurroundings {
  readonly clock: Clock;
  readonly bookmarkMs: number;
  readonly closed: AbortSignal;
  version(): number;
  objects(): AnyObject[];
}

type MemoryEvent = WatchEvent<KubeObject>;

const gone = (version: string): KubeError =>
  new KubeError('Gone', `too old resource version: ${version}`, { status: 410 });

function indexAfter(history: KindHistory, version: number): number {
  let [low, high] = [0, history.events.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    const event = history.events[middle];
    if (event !== undefined && event.version <= version) low = middle + 1;
    else high = middle;
  }
  return history.firstIndex + low;
}

/** What a watch with this selector sees of `event`; undefined when it sees nothing. */
function seen(event: HistoryEvent, matches: Predicate): MemoryEvent | undefined {
  const before = event.old !== undefined && matches(event.old);
  if (event.type === 'DELETED') return before ? { type: 'DELETED', object: event.object } : undefined;
  if (matches(event.object)) return { type: before ? 'MODIFIED' : 'ADDED', object: event.object };
  if (!before || event.old === undefined) return undefined;
  return { type: 'DELETED', object: withVersion(event.old, String(event.version)) };
}

export async function* watchHistory(
  history: KindHistory,
  options: WatchOptions,
  around: WatchSurroundings,
): AsyncGenerator<MemoryEvent, void, undefined> {
  const { clock } = around;
  const inLabels = labelPredicate(options.labelSelector);
  const matches: Predicate = (object) =>
    (options.namespace === undefined || object.metadata.namespace === options.namespace) && inLabels(object);
  const fromNow = options.resourceVersion === '' || options.resourceVersion === '0';
  const from = fromNow ? around.version() : Number(options.resourceVersion);
  if (!Number.isSafeInteger(from)) throw new KubeError('Invalid', 'resourceVersion: Invalid value', { status: 400 });
  if (from < history.forgottenVersion) {
    yield { type: 'ERROR', error: gone(options.resourceVersion) };
    return;
  }
  let cursor = indexAfter(history, from);
  let ended = false;
  let bookmarkDue = false;
  let wake = (): void => {};
  const end = (): void => {
    ended = true;
    wake();
  };
  const onEvent = (): void => wake();
  let cancelBookmark = (): void => {};
  const armBookmark = (): void => {
    cancelBookmark = clock.setTimer(around.bookmarkMs, () => {
      bookmarkDue = true;
      wake();
    });
  };
  const timeoutMs = (options.timeoutSeconds ?? 0) * 1000;
  const cancelTimeout = timeoutMs > 0 ? clock.setTimer(timeoutMs, end) : (): void => {};
  const signals = [around.closed, options.signal].filter((signal) => signal !== undefined);
  for (const signal of signals) signal.addEventListener('abort', end, { once: true });
  history.wakers.add(onEvent);
  armBookmark();
  try {
    if (fromNow) for (const object of around.objects()) if (matches(object)) yield { type: 'ADDED', object };
    while (!ended && !signals.some((signal) => signal.aborted)) {
      if (cursor < history.firstIndex) {
        yield { type: 'ERROR', error: gone(options.resourceVersion) };
        return;
      }
      const event = history.events[cursor - history.firstIndex];
      if (event !== undefined) {
        cursor += 1;
        const shown = seen(event, matches);
        if (shown !== undefined) yield shown;
      } else if (bookmarkDue) {
        bookmarkDue = false;
        armBookmark();
        yield { type: 'BOOKMARK', resourceVersion: String(around.version()) };
      } else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  } finally {
    cancelBookmark();
    cancelTimeout();
    history.wakers.delete(onEvent);
    for (const signal of signals) signal.removeEventListener('abort', end);
  }
}

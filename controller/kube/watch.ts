/**
 * The watch as a state machine without I/O: `decide(policy, state, input, chance)` gives the next state and what to do.
 *
 *   Empty → Listing (page by page) → Watching ⇄ Backoff (then list again, or watch again from where it was)
 *
 * Invariants:
 * 1. Every change after a complete list reaches `apply` or `remove`, or a new list begins; a deletion that was missed shows
 *    itself as absence from that list (`begin` … `end`).
 * 2. What a closed call says later is ignored: calls are numbered, and inputs carry their number.
 * 3. A failure is followed by a wait that grows up to its cap and starts over only after the server delivered something.
 * 4. A watch on which nothing, not even a bookmark, was heard for between one and two `quietMs` is opened anew.
 */
import { type BackoffPolicy, backoffDelayMs, connectionBackoff } from '../runtime/backoff.ts';
import type { KubeError, KubeObject, ListPage, WatchEvent } from './port.ts';

export interface WatchPolicy {
  readonly backoff: BackoffPolicy;
  /** Longer than the server's time between bookmarks (kube-apiserver: one minute). */
  readonly quietMs: number;
  /** A watch that the server ends sooner than this without having said anything counts as a failure. */
  readonly shortestMs: number;
  /** Failed attempts in a row to resume a watch, answered by the server, before it is listed again. */
  readonly resumeAttempts: number;
}

export const defaultWatchPolicy: WatchPolicy = {
  backoff: connectionBackoff,
  quietMs: 90_000,
  shortestMs: 5_000,
  resumeAttempts: 5,
};

/** Where to go on: by a new list, or by a watch from this version. */
type Resume = { readonly by: 'list' } | { readonly by: 'watch'; readonly resourceVersion: string };

interface Common {
  /** The number of the call under way, or of the last one. */
  readonly call: number;
  /** Failures since the server last delivered something. */
  readonly failures: number;
}

export type WatchState = Common &
  (
    | { readonly kind: 'Empty' }
    /** A page was asked for; `pages` were received. */
    | { readonly kind: 'Listing'; readonly pages: number }
    /** `heard`: since the last look at the quiet timer; `delivered`: since the watch was opened. */
    | {
        readonly kind: 'Watching';
        readonly resourceVersion: string;
        readonly heard: boolean;
        readonly delivered: boolean;
      }
    | { readonly kind: 'Backoff'; readonly resume: Resume }
    | { readonly kind: 'Stopped' }
  );

export type WatchInput<T> =
  | { readonly kind: 'start' }
  | { readonly kind: 'page'; readonly call: number; readonly page: ListPage<T> }
  | { readonly kind: 'event'; readonly call: number; readonly event: WatchEvent<T> }
  /** The server ended the watch. */
  | { readonly kind: 'ended'; readonly call: number; readonly livedMs: number }
  /** The list or watch failed. */
  | { readonly kind: 'failed'; readonly call: number; readonly error: KubeError }
  | { readonly kind: 'quietTimer'; readonly call: number }
  | { readonly kind: 'backoffTimer'; readonly call: number }
  | { readonly kind: 'stop' };

export type WatchEffect<T> =
  | { readonly kind: 'list'; readonly call: number; readonly continue?: string }
  | { readonly kind: 'watch'; readonly call: number; readonly resourceVersion: string }
  /** Abort the call under way; what it still says is ignored. */
  | { readonly kind: 'close' }
  | { readonly kind: 'setQuietTimer'; readonly call: number; readonly afterMs: number }
  | { readonly kind: 'setBackoffTimer'; readonly call: number; readonly afterMs: number; readonly reason: string }
  | { readonly kind: 'begin' }
  | { readonly kind: 'page'; readonly items: readonly T[]; readonly resourceVersion: string }
  | { readonly kind: 'end'; readonly resourceVersion: string }
  | { readonly kind: 'apply'; readonly object: T }
  | { readonly kind: 'remove'; readonly object: T }
  | { readonly kind: 'progress'; readonly resourceVersion: string };

export interface WatchStep<T> {
  readonly state: WatchState;
  readonly effects: readonly WatchEffect<T>[];
}

export const emptyWatch: WatchState = { kind: 'Empty', call: 0, failures: 0 };

type Watching = Extract<WatchState, { kind: 'Watching' }>;

/** @param chance a draw from [0, 1), for jitter */
export function decide<T extends KubeObject>(
  policy: WatchPolicy,
  state: WatchState,
  input: WatchInput<T>,
  chance: number,
): WatchStep<T> {
  if (state.kind === 'Stopped') return stay(state);
  if (input.kind === 'stop') return { state: { ...common(state), kind: 'Stopped' }, effects: [{ kind: 'close' }] };
  if (input.kind === 'start') return state.kind === 'Empty' ? list(state) : stay(state);
  if (input.call !== state.call) return stay(state);
  switch (state.kind) {
    case 'Listing':
      if (input.kind === 'page') return onPage(policy, state, input.page);
      if (input.kind === 'failed') return fail(policy, state, { by: 'list' }, input.error, chance);
      return stay(state);
    case 'Watching':
      if (input.kind === 'event') return onEvent(policy, state, input.event, chance);
      if (input.kind === 'ended') return onEnded(policy, state, input.livedMs, chance);
      if (input.kind === 'failed')
        return fail(policy, state, resumeAfter(policy, state, input.error), input.error, chance);
      return input.kind === 'quietTimer' ? onQuiet(policy, state) : stay(state);
    case 'Backoff':
      if (input.kind !== 'backoffTimer') return stay(state);
      return state.resume.by === 'list' ? list(state) : watch(policy, state, state.resume.resourceVersion);
    default:
      return stay(state);
  }
}

function common({ call, failures }: WatchState): Common {
  return { call, failures };
}

function stay<T>(state: WatchState): WatchStep<T> {
  return { state, effects: [] };
}

function list<T>(state: WatchState): WatchStep<T> {
  const call = state.call + 1;
  return {
    state: { kind: 'Listing', call, failures: state.failures, pages: 0 },
    effects: [{ kind: 'begin' }, { kind: 'list', call }],
  };
}

function watch<T>(policy: WatchPolicy, state: WatchState, resourceVersion: string): WatchStep<T> {
  const call = state.call + 1;
  return {
    state: { kind: 'Watching', call, failures: state.failures, resourceVersion, heard: false, delivered: false },
    effects: [
      { kind: 'watch', call, resourceVersion },
      { kind: 'setQuietTimer', call, afterMs: policy.quietMs },
    ],
  };
}

function onPage<T>(
  policy: WatchPolicy,
  state: Extract<WatchState, { kind: 'Listing' }>,
  page: ListPage<T>,
): WatchStep<T> {
  const { items, resourceVersion } = page;
  const taken: WatchEffect<T> = { kind: 'page', items, resourceVersion };
  if (page.continue !== undefined && page.continue !== '') {
    const call = state.call + 1;
    return {
      state: { ...state, call, pages: state.pages + 1 },
      effects: [taken, { kind: 'list', call, continue: page.continue }],
    };
  }
  const next = watch<T>(policy, state, resourceVersion);
  return { state: next.state, effects: [taken, { kind: 'end', resourceVersion }, ...next.effects] };
}

function onEvent<T extends KubeObject>(
  policy: WatchPolicy,
  state: Watching,
  event: WatchEvent<T>,
  chance: number,
): WatchStep<T> {
  if (event.type === 'ERROR') {
    const failed = fail<T>(policy, state, resumeAfter(policy, state, event.error), event.error, chance);
    return { state: failed.state, effects: [{ kind: 'close' }, ...failed.effects] };
  }
  const heard = { ...state, failures: 0, heard: true, delivered: true };
  if (event.type === 'BOOKMARK') {
    const { resourceVersion } = event;
    return { state: { ...heard, resourceVersion }, effects: [{ kind: 'progress', resourceVersion }] };
  }
  const { object } = event;
  const { resourceVersion } = object.metadata;
  if (resourceVersion === undefined)
    return { state: list<T>(state).state, effects: [{ kind: 'close' }, ...list<T>(state).effects] };
  const effect: WatchEffect<T> = { kind: event.type === 'DELETED' ? 'remove' : 'apply', object };
  return { state: { ...heard, resourceVersion }, effects: [effect] };
}

function onEnded<T>(policy: WatchPolicy, state: Watching, livedMs: number, chance: number): WatchStep<T> {
  if (state.delivered || livedMs >= policy.shortestMs) return watch(policy, state, state.resourceVersion);
  const resume: Resume = { by: 'watch', resourceVersion: state.resourceVersion };
  return backOff(policy, state, resume, 'the server ended the watch at once', 0, chance);
}

function onQuiet<T>(policy: WatchPolicy, state: Watching): WatchStep<T> {
  if (state.heard) {
    const { call } = state;
    return { state: { ...state, heard: false }, effects: [{ kind: 'setQuietTimer', call, afterMs: policy.quietMs }] };
  }
  const next = watch<T>(policy, state, state.resourceVersion);
  return { state: next.state, effects: [{ kind: 'close' }, ...next.effects] };
}

/** What the version still allows after this failure of a watch. */
function resumeAfter(policy: WatchPolicy, state: Watching, error: KubeError): Resume {
  const lost = error.reason === 'Gone' || error.reason === 'Invalid' || error.reason === 'NotFound';
  // A server that answers, but never with a watch, may have been restored from a backup and wait for this version forever.
  const hopeless = error.status !== 0 && error.reason !== 'TooManyRequests' && state.failures >= policy.resumeAttempts;
  return lost || hopeless ? { by: 'list' } : { by: 'watch', resourceVersion: state.resourceVersion };
}

function fail<T>(
  policy: WatchPolicy,
  state: WatchState,
  resume: Resume,
  error: KubeError,
  chance: number,
): WatchStep<T> {
  return backOff(policy, state, resume, `${error.reason}: ${error.message}`, error.retryAfterMs ?? 0, chance);
}

function backOff<T>(
  policy: WatchPolicy,
  state: WatchState,
  resume: Resume,
  reason: string,
  atLeastMs: number,
  chance: number,
): WatchStep<T> {
  const failures = state.failures + 1;
  const call = state.call + 1;
  const afterMs = Math.max(atLeastMs, backoffDelayMs(policy.backoff, failures, chance));
  return {
    state: { kind: 'Backoff', call, failures, resume },
    effects: [{ kind: 'setBackoffTimer', call, afterMs, reason }],
  };
}

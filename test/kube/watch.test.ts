import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { KubeError, type KubeObject } from '../../controller/kube/port.ts';
import {
  decide,
  defaultWatchPolicy,
  emptyWatch,
  type WatchEffect,
  type WatchInput,
  type WatchState,
} from '../../controller/kube/watch.ts';

const policy = { ...defaultWatchPolicy, backoff: { initialMs: 1_000, factor: 2, capMs: 30_000, jitter: 0 } };

function object(name: string, resourceVersion: string): KubeObject {
  return { metadata: { name, resourceVersion } };
}

/** Feeds one input after another; inputs without a call number speak of the call under way. */
class Machine {
  state: WatchState = emptyWatch;

  feed(input: Omit<WatchInput<KubeObject>, 'call'> & { call?: number } & Record<string, unknown>): string[] {
    const full = { call: this.state.call, ...input } as WatchInput<KubeObject>;
    const { state, effects } = decide(policy, this.state, full, 0);
    this.state = state;
    return effects.map(show);
  }

  watching(): this {
    this.feed({ kind: 'start' });
    this.feed({ kind: 'page', page: { items: [object('a', '3')], resourceVersion: '10' } });
    return this;
  }
}

function show(effect: WatchEffect<KubeObject>): string {
  switch (effect.kind) {
    case 'list':
      return `list ${effect.continue ?? 'start'}`;
    case 'watch':
      return `watch ${effect.resourceVersion}`;
    case 'page':
      return `page ${effect.items.map((item) => item.metadata.name)}`;
    case 'apply':
    case 'remove':
      return `${effect.kind} ${effect.object.metadata.name}`;
    case 'end':
    case 'progress':
      return `${effect.kind} ${effect.resourceVersion}`;
    case 'setQuietTimer':
    case 'setBackoffTimer':
      return `${effect.kind} ${effect.afterMs}`;
    default:
      return effect.kind;
  }
}

const gone = new KubeError('Gone', 'too old', { status: 410 });
const unavailable = new KubeError('Unavailable', 'refused');
const quiet = `setQuietTimer ${policy.quietMs}`;

describe('watch machine', () => {
  it('lists page by page, then watches from the version of the list', () => {
    const machine = new Machine();
    assert.deepEqual(machine.feed({ kind: 'start' }), ['begin', 'list start']);
    const first = { items: [object('a', '3'), object('b', '4')], resourceVersion: '10', continue: 'next' };
    assert.deepEqual(machine.feed({ kind: 'page', page: first }), ['page a,b', 'list next']);
    const last = { items: [object('c', '5')], resourceVersion: '10' };
    assert.deepEqual(machine.feed({ kind: 'page', page: last }), ['page c', 'end 10', 'watch 10', quiet]);
  });

  it('begins the list again when a page is too old', () => {
    const machine = new Machine();
    machine.feed({ kind: 'start' });
    machine.feed({ kind: 'page', page: { items: [], resourceVersion: '10', continue: 'next' } });
    assert.deepEqual(machine.feed({ kind: 'failed', error: gone }), ['setBackoffTimer 1000']);
    assert.deepEqual(machine.feed({ kind: 'backoffTimer' }), ['begin', 'list start']);
  });

  it('resumes where events and bookmarks brought it, at once when the server ends a watch that spoke', () => {
    const machine = new Machine().watching();
    assert.deepEqual(machine.feed({ kind: 'event', event: { type: 'MODIFIED', object: object('a', '11') } }), [
      'apply a',
    ]);
    assert.deepEqual(machine.feed({ kind: 'event', event: { type: 'DELETED', object: object('a', '12') } }), [
      'remove a',
    ]);
    assert.deepEqual(machine.feed({ kind: 'event', event: { type: 'BOOKMARK', resourceVersion: '20' } }), [
      'progress 20',
    ]);
    assert.deepEqual(machine.feed({ kind: 'ended', livedMs: 10 }), ['watch 20', quiet]);
  });

  it('backs off when watches end at once, ever longer, and forgets it when one speaks', () => {
    const machine = new Machine().watching();
    assert.deepEqual(machine.feed({ kind: 'ended', livedMs: 10 }), ['setBackoffTimer 1000']);
    assert.deepEqual(machine.feed({ kind: 'backoffTimer' }), ['watch 10', quiet]);
    assert.deepEqual(machine.feed({ kind: 'ended', livedMs: 10 }), ['setBackoffTimer 2000']);
    machine.feed({ kind: 'backoffTimer' });
    machine.feed({ kind: 'event', event: { type: 'BOOKMARK', resourceVersion: '30' } });
    assert.deepEqual(machine.feed({ kind: 'failed', error: unavailable }), ['setBackoffTimer 1000']);
  });

  it('lists again after 410 inside the stream and closes that stream', () => {
    const machine = new Machine().watching();
    assert.deepEqual(machine.feed({ kind: 'event', event: { type: 'ERROR', error: gone } }), [
      'close',
      'setBackoffTimer 1000',
    ]);
    assert.deepEqual(machine.feed({ kind: 'backoffTimer' }), ['begin', 'list start']);
  });

  it('resumes the watch after any other error inside the stream', () => {
    const machine = new Machine().watching();
    const error = new KubeError('Unavailable', 'internal', { status: 500 });
    machine.feed({ kind: 'event', event: { type: 'ERROR', error } });
    assert.deepEqual(machine.feed({ kind: 'backoffTimer' }), ['watch 10', quiet]);
  });

  it('waits as long as Retry-After says', () => {
    const machine = new Machine().watching();
    const error = new KubeError('TooManyRequests', 'slow', { status: 429, retryAfterMs: 45_000 });
    assert.deepEqual(machine.feed({ kind: 'failed', error }), ['setBackoffTimer 45000']);
  });

  it('opens a half-open connection anew, but not one that spoke', () => {
    const machine = new Machine().watching();
    machine.feed({ kind: 'event', event: { type: 'BOOKMARK', resourceVersion: '11' } });
    assert.deepEqual(machine.feed({ kind: 'quietTimer' }), [quiet]);
    assert.deepEqual(machine.feed({ kind: 'quietTimer' }), ['close', 'watch 11', quiet]);
  });

  it('ignores what a closed call still says', () => {
    const machine = new Machine().watching();
    const oldCall = machine.state.call;
    machine.feed({ kind: 'quietTimer' });
    const before = machine.state;
    const late = { type: 'MODIFIED', object: object('a', '99') } as const;
    assert.deepEqual(machine.feed({ kind: 'event', call: oldCall, event: late }), []);
    assert.deepEqual(machine.feed({ kind: 'failed', call: oldCall, error: gone }), []);
    assert.deepEqual(machine.feed({ kind: 'ended', call: oldCall, livedMs: 1 }), []);
    assert.equal(machine.state, before);
  });

  it('lists again when a server answers but never lets the watch resume', () => {
    const machine = new Machine().watching();
    const error = new KubeError('Unavailable', 'Too large resource version', { status: 504 });
    for (let attempt = 0; attempt < policy.resumeAttempts; attempt++) {
      machine.feed({ kind: 'failed', error });
      assert.deepEqual(machine.feed({ kind: 'backoffTimer' }), ['watch 10', quiet]);
    }
    machine.feed({ kind: 'failed', error });
    assert.deepEqual(machine.feed({ kind: 'backoffTimer' }), ['begin', 'list start']);
  });

  it('never lists again because the server cannot be reached', () => {
    const machine = new Machine().watching();
    for (let attempt = 0; attempt < 50; attempt++) {
      machine.feed({ kind: 'failed', error: unavailable });
      assert.deepEqual(machine.feed({ kind: 'backoffTimer' }), ['watch 10', quiet]);
    }
  });

  it('does nothing any more once stopped', () => {
    const machine = new Machine().watching();
    assert.deepEqual(machine.feed({ kind: 'stop' }), ['close']);
    assert.deepEqual(machine.feed({ kind: 'failed', error: unavailable }), []);
    assert.deepEqual(machine.feed({ kind: 'stop' }), []);
  });
});

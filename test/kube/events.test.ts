import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createEventRecorder, eventKind } from '../../controller/kube/events.ts';
import { createMemoryKube } from '../../controller/kube/memory.ts';
import { KubeError, type KubeObject } from '../../controller/kube/port.ts';
import { silentLogger } from '../../controller/runtime/log.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { faultyKube } from '../support/faulty-kube.ts';
import { environments } from '../support/kube-kinds.ts';
import { VirtualClock } from '../support/virtual-clock.ts';

type StoredEvent = KubeObject &
  Record<'reason' | 'message' | 'type', string> & { count: number; lastTimestamp: string };

function setUp(queueLimit = 1_000) {
  const clock = new VirtualClock();
  const random = seededRandom(1);
  const memory = createMemoryKube({ clock, random });
  const kube = faultyKube(memory);
  let dropped = 0;
  const recorder = createEventRecorder({
    client: kube,
    component: 'bitvisor-operator',
    clock,
    random,
    log: silentLogger,
    queueLimit,
    onDrop: () => void dropped++,
  });
  const object = (name: string): KubeObject => ({ metadata: { name, namespace: 'n', uid: `uid-${name}` } });
  const record = (name: string, message = 'it happened') =>
    recorder.record(environments.gvk, object(name), 'Normal', 'Happened', message);
  const stored = () => memory.objects<StoredEvent>(eventKind);
  return { clock, memory, kube, recorder, record, object, stored, dropped: () => dropped };
}

describe('event recorder', () => {
  it('counts what recurs in one Event, and begins another after ten minutes', async () => {
    const { clock, kube, recorder, record, stored } = setUp();
    for (let time = 0; time < 5; time++) record('a');
    await recorder.flush();
    assert.deepEqual(
      stored().map((event) => [event.count, event.reason, event.metadata.namespace]),
      [[5, 'Happened', 'n']],
    );
    assert.equal(kube.calls.length, 1, 'what happens in one turn is one write');
    await clock.advance(60_000);
    record('a');
    record('a', 'something else');
    await recorder.flush();
    assert.deepEqual(
      stored()
        .map((event) => event.count)
        .sort(),
      [1, 6],
    );
    assert.ok(stored().some((event) => event.lastTimestamp === '2026-01-01T00:01:00Z' && event.count === 6));
    await clock.advance(601_000);
    record('a');
    await recorder.flush();
    assert.equal(stored().length, 3);
  });

  it('puts Events of cluster-scoped objects where kubectl describe looks', async () => {
    const { recorder, stored } = setUp();
    recorder.record({ ...environments.gvk, namespaced: false }, { metadata: { name: 'x' } }, 'Warning', 'Broke', 'x');
    await recorder.flush();
    assert.deepEqual(
      stored().map((event) => event.metadata.namespace),
      ['default'],
    );
  });

  it('makes the Event again when the server has forgotten it', async () => {
    const { memory, recorder, record, stored } = setUp();
    record('a');
    await recorder.flush();
    await memory.delete(eventKind, { namespace: 'n', name: stored()[0]?.metadata.name ?? '' });
    record('a');
    await recorder.flush();
    assert.deepEqual(
      stored().map((event) => event.count),
      [2],
    );
  });

  it('limits a noisy object, lets others through, and says how much it dropped', async () => {
    const { clock, recorder, record, stored, dropped } = setUp();
    for (let index = 0; index < 40; index++) record('noisy', `message ${index}`);
    record('calm');
    await recorder.flush();
    assert.deepEqual([stored().length, dropped()], [26, 15]);
    await clock.advance(300_000);
    record('noisy', 'later');
    await recorder.flush();
    assert.equal(stored().length, 27);
  });

  it('keeps no more waiting than its queue holds, and never throws', async () => {
    const { kube, recorder, record, stored, dropped } = setUp(3);
    kube.faults = { before: () => new KubeError('Forbidden', 'no') };
    for (let index = 0; index < 10; index++) record(`o${index}`);
    await recorder.flush();
    assert.deepEqual([stored().length, dropped()], [0, 10]);
  });

  it('cuts a message at what the API takes, without breaking a character', async () => {
    const { recorder, record, stored } = setUp();
    record('a', 'é'.repeat(2_000));
    await recorder.flush();
    const message = stored()[0]?.message ?? '';
    assert.ok(Buffer.byteLength(message) <= 1_024 && message.endsWith('é …'), message.slice(-5));
  });

  it('drops what waits when it stops', async () => {
    const { recorder, record, stored } = setUp();
    record('a');
    await recorder.stop();
    record('b');
    await recorder.flush();
    assert.equal(stored().length, 0);
  });
});

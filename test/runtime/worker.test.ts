import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { KubeError } from '../../controller/kube/port.ts';
import { createLogger, silentLogger } from '../../controller/runtime/log.ts';
import { createMetrics } from '../../controller/runtime/metrics.ts';
import { WorkQueue } from '../../controller/runtime/queue.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { type Outcome, type Reconcile, startWorker, type WorkerOptions } from '../../controller/runtime/worker.ts';
import { settle, VirtualClock } from '../support/virtual-clock.ts';

function setUp(reconcile: Reconcile, options: Partial<WorkerOptions> = {}) {
  const clock = new VirtualClock();
  const queue = new WorkQueue(clock);
  const lines: Record<string, unknown>[] = [];
  const log = createLogger({ level: 'debug', clock, destination: { write: (line) => lines.push(JSON.parse(line)) } });
  const backoff = { initialMs: 100, factor: 2, capMs: 1_000, jitter: 0 };
  const random = seededRandom(1);
  const settings = { name: 'test', queue, reconcile, concurrency: 2, clock, random, log, backoff, ...options };
  return { clock, queue, lines, worker: startWorker(settings) };
}

describe('worker', () => {
  it('lets timers and sockets have their turn while a long queue is worked off', async () => {
    let done = 0;
    const { clock, queue, worker } = setUp(async () => {
      done++;
      return { kind: 'done' };
    });
    for (let key = 0; key < 1_000; key++) queue.add(`${key}`);
    await settle();
    assert.ok(done > 0 && done < 200, `${done} keys without a pause`);
    await clock.runUntil(() => done === 1_000);
    await worker.stop();
  });

  it('retries with growing delays what failed, and starts over after a success', async () => {
    const at: number[] = [];
    const outcomes: Outcome[] = [
      { kind: 'retry', error: new Error('1') },
      { kind: 'retry', error: new Error('2') },
      { kind: 'after', ms: 5_000 },
      { kind: 'retry', error: new Error('3') },
      { kind: 'done' },
    ];
    const { clock, queue, worker } = setUp(async () => {
      at.push(clock.monotonic());
      return outcomes[at.length - 1] ?? { kind: 'done' };
    });
    queue.add('a');
    await clock.runUntilIdle();
    assert.deepEqual(at, [0, 100, 300, 5_300, 5_400]);
    await worker.stop();
  });

  it('survives a reconciler that throws, logs it once with its stack, and tries again', async () => {
    let calls = 0;
    const { clock, queue, lines, worker } = setUp(async () => {
      calls += 1;
      if (calls === 1) throw new Error('a bug');
      return { kind: 'done' };
    });
    queue.add('a');
    await clock.runUntilIdle();
    assert.equal(calls, 2);
    const errors = lines.filter((line) => line.level === 'error');
    assert.equal(errors.length, 1);
    assert.match(JSON.stringify(errors[0]), /a bug.*worker\.test\.ts/);
    await worker.stop();
  });

  it('waits as long as the server asked for', async () => {
    const at: number[] = [];
    const { clock, queue, worker } = setUp(async () => {
      at.push(clock.monotonic());
      if (at.length > 1) return { kind: 'done' };
      throw new KubeError('TooManyRequests', 'slow down', { status: 429, retryAfterMs: 7_000 });
    });
    queue.add('a');
    await clock.runUntilIdle();
    assert.deepEqual(at, [0, 7_000]);
    await worker.stop();
  });

  it('leaves a stalled key alone until it is added again', async () => {
    let calls = 0;
    const { clock, queue, worker } = setUp(async () => {
      calls += 1;
      return { kind: 'stalled', reason: 'the environment does not exist' };
    });
    queue.add('a');
    await clock.runUntilIdle();
    assert.equal(calls, 1);
    queue.add('a');
    await clock.runUntilIdle();
    assert.equal(calls, 2);
    await worker.stop();
  });

  it('runs no more at once than allowed, and never one key twice', async () => {
    const running: string[] = [];
    let most = 0;
    const { clock, queue, worker } = setUp(async (key) => {
      assert.ok(!running.includes(key));
      running.push(key);
      most = Math.max(most, running.length);
      queue.add(key === 'a' && clock.monotonic() < 30 ? 'a' : 'z');
      await new Promise<void>((resolve) => void clock.setTimer(10, resolve));
      running.splice(running.indexOf(key), 1);
      return { kind: 'done' };
    });
    for (const key of ['a', 'b', 'c', 'd']) queue.add(key);
    await clock.advance(200);
    assert.equal(most, 2);
    const stopped = worker.stop();
    await clock.advance(20);
    await stopped;
    assert.equal(running.length, 0);
  });

  it('stops only when what is under way has ended, and tells it to', async () => {
    let sawAbort = false;
    const { clock, queue, worker } = setUp(async (_key, { signal }) => {
      await new Promise<void>((resolve) => void clock.setTimer(50, resolve));
      sawAbort = signal.aborted;
      return { kind: 'after', ms: 1 };
    });
    queue.add('a');
    await clock.advance(10);
    let stopped = false;
    const stopping = worker.stop().then(() => {
      stopped = true;
    });
    await clock.advance(30);
    assert.equal(stopped, false);
    await clock.runUntilIdle();
    await stopping;
    assert.equal(sawAbort, true);
  });

  it('shows durations, outcomes and the queue, and no label that names an object', async () => {
    const metrics = createMetrics();
    const { clock, queue, worker } = setUp(async () => ({ kind: 'done' }), { metrics, log: silentLogger });
    for (let index = 0; index < 1_000; index++) queue.add(`node-${index}`);
    await clock.advance(1);
    const text = await metrics.text();
    assert.match(text, /bitvisor_reconcile_seconds_count\{controller="test",outcome="done"\} 1000/);
    assert.match(text, /bitvisor_queue_keys\{queue="test",state="ready"\} 0/);
    assert.doesNotMatch(text, /node-\d/);
    await worker.stop();
  });
});

describe('log', () => {
  it('strikes out secrets in fields, messages and errors', () => {
    const lines: string[] = [];
    const log = createLogger({
      level: 'debug',
      clock: new VirtualClock(),
      destination: { write: (line) => lines.push(line) },
    });
    const secret = 'hunter2hunter2';
    log.info('read config', { token: secret, user: { password: secret, deeper: { clientKey: secret } } });
    log.child({ 'client-key-data': secret }).warn(`sent Authorization: Bearer ${secret}`);
    log.error('fetch failed', {
      err: new Error(`cannot reach https://me:${secret}@git.example.org/x`, { cause: new Error(`basic ${secret}`) }),
    });
    log.error(`-----BEGIN RSA PRIVATE KEY-----\n${secret}\n-----END RSA PRIVATE KEY-----`);
    assert.equal(lines.length, 4);
    for (const line of lines) assert.ok(!line.includes(secret), line);
    assert.match(lines[2] ?? '', /git\.example\.org/);
  });
});

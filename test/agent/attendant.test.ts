/** The background copy's share of the time, as QEMU would be told, on a clock that the test moves. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Attendant } from '../../agent/drivers/qemu/attendant.ts';
import type { CopyState, GuestTraffic } from '../../agent/drivers/qemu/mediator.ts';
import { QmpError } from '../../agent/drivers/qemu/qmp.ts';
import type { Environment } from '../../controller/api/protocol.generated.ts';
import { VirtualClock } from '../support/virtual-clock.ts';

/** A copy of 1000 bytes a millisecond under a guest that waits for its disk for a share of the time. */
class PlayedMediator {
  readonly clock = new VirtualClock();
  totalBytes = Number.POSITIVE_INFINITY;
  /** Of the time, that the guest's commands are under way. */
  waiting = 0;
  isGoing = false;
  #goneMs = 0;
  #waitedMs = 0;
  #settledAtMs = 0;

  settle(): void {
    const now = this.clock.monotonic();
    if (this.isGoing) this.#goneMs += now - this.#settledAtMs;
    this.#waitedMs += this.waiting * (now - this.#settledAtMs);
    this.#settledAtMs = now;
  }

  get goneMs(): number {
    this.settle();
    return this.#goneMs;
  }

  async startCopy(): Promise<void> {
    this.settle();
    this.isGoing = true;
  }

  async copyState(): Promise<CopyState> {
    const localBytes = Math.min(this.totalBytes, 1000 * this.goneMs);
    return { totalBytes: this.totalBytes, localBytes, complete: localBytes === this.totalBytes };
  }

  async traffic(): Promise<GuestTraffic> {
    this.settle();
    return { operations: Math.round(this.#waitedMs), waitedMs: this.#waitedMs };
  }

  async setRate(): Promise<void> {}

  async pauseCopy(_disk: string, isPaused: boolean): Promise<void> {
    if (1000 * this.goneMs >= this.totalBytes) throw new QmpError('job-pause', 'GenericError', 'the job is pending');
    assert.notEqual(this.isGoing, !isPaused, 'QEMU refuses to pause what is paused');
    this.isGoing = !isPaused;
  }
}

function attended(yielding: Environment['install']['yield'], waiting: number) {
  const mediator = new PlayedMediator();
  mediator.waiting = waiting;
  const errors: unknown[] = [];
  let tail: Promise<unknown> = Promise.resolve();
  const attendant = new Attendant({
    ...{ mediator, clock: mediator.clock, changed: () => {}, onFailed: assert.fail },
    inTurn(work) {
      const next = tail.then(work);
      tail = next.catch(() => {});
      return next;
    },
    onError: (error) => errors.push(error),
  });
  attendant.start({ disk: 'sda', yielding }, undefined);
  return { mediator, attendant, errors };
}

/** Of the next ten seconds. */
async function shareOfTime(mediator: PlayedMediator): Promise<number> {
  const before = mediator.goneMs;
  await mediator.clock.advance(10_000);
  return (mediator.goneMs - before) / 10_000;
}

test('while the guest waits for its disk a fair copy has a fifth of the time, a strict one none, and any other all', async () => {
  for (const [yielding, least, most] of [
    ['Fair', 0.19, 0.21],
    ['Strict', 0, 0.001],
    ['None', 1, 1],
  ] as const) {
    const { mediator, attendant, errors } = attended(yielding, 0.8);
    await mediator.clock.advance(1_000);
    const share = await shareOfTime(mediator);
    assert.ok(share >= least && share <= most, `${yielding}: ${share}`);
    attendant.stop();
    assert.deepEqual(errors, []);
  }
});

test('a fair copy has all of the time under a guest that hardly waits, and once one that waited does not any more', async () => {
  const { mediator, attendant, errors } = attended('Fair', 0.05);
  await mediator.clock.advance(3_000);
  assert.ok((await shareOfTime(mediator)) > 0.999);
  mediator.waiting = 1;
  await mediator.clock.advance(1_000);
  assert.ok((await shareOfTime(mediator)) < 0.21);
  mediator.settle();
  mediator.waiting = 0;
  await mediator.clock.advance(3_000);
  assert.ok((await shareOfTime(mediator)) > 0.999);
  attendant.stop();
  assert.deepEqual(errors, []);
});

test('a copy that ends in its part of the time is seen to end, and cannot be paused any more', async () => {
  const { mediator, attendant, errors } = attended('Fair', 1);
  mediator.totalBytes = 210_000;
  await mediator.clock.advance(5_000);
  assert.equal(attendant.copy?.complete, true);
  assert.equal(mediator.clock.pendingTimers, 0);
  assert.deepEqual(errors, []);
});

test('a bound of 0 stops the copy, another one lets it go on, and a stopped attendant gives no more commands', async () => {
  const { mediator, attendant, errors } = attended('None', 0);
  attendant.throttle(0);
  await mediator.clock.advance(1_000);
  assert.equal(await shareOfTime(mediator), 0);
  attendant.throttle(5_000_000);
  await mediator.clock.advance(1_000);
  assert.ok((await shareOfTime(mediator)) > 0.999);
  attendant.stop();
  assert.equal(mediator.clock.pendingTimers, 0);
  assert.deepEqual(errors, []);
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BandwidthShare, type Line } from '../../../agent/image/bandwidth.ts';
import { VirtualClock } from '../../support/virtual-clock.ts';

const piece = 1000;

/** Keeps `depth` pieces asked for, for ever; counts what was let through. */
function reader(line: Line, depth: number): { bytes: number } {
  const got = { bytes: 0 };
  const ask = async (): Promise<void> => {
    for (;;) {
      await line.take(piece);
      got.bytes += piece;
    }
  };
  for (let one = 0; one < depth; one++) void ask();
  return got;
}

const within = (bytes: number, ideal: number, share: number, what: string): void =>
  assert.ok(Math.abs(bytes - ideal) <= ideal * share, `${what}: ${bytes} bytes, ${ideal} expected`);

test('who asks for more at once gets no more', async () => {
  const clock = new VirtualClock();
  const share = new BandwidthShare(clock, 100_000);
  const readers = [reader(share.line(Number.POSITIVE_INFINITY), 64), reader(share.line(Number.POSITIVE_INFINITY), 2)];
  await clock.advance(10_000);
  for (const [index, { bytes }] of readers.entries()) within(bytes, 500_000, 0.02, `reader ${index}`);
});

test('what a slow line leaves goes to the others, and no line exceeds its own rate', async () => {
  const clock = new VirtualClock();
  const share = new BandwidthShare(clock, 100_000);
  const slow = reader(share.line(10_000), 8);
  const fast = [reader(share.line(Number.POSITIVE_INFINITY), 8), reader(share.line(Number.POSITIVE_INFINITY), 8)];
  await clock.advance(10_000);
  within(slow.bytes, 100_000, 0.02, 'the slow one');
  for (const { bytes } of fast) within(bytes, 450_000, 0.02, 'a fast one');
});

test('a line that was silent has saved nothing up, and one that comes late is not behind', async () => {
  const clock = new VirtualClock();
  const share = new BandwidthShare(clock, 100_000);
  const early = reader(share.line(Number.POSITIVE_INFINITY), 8);
  const silent = share.line(Number.POSITIVE_INFINITY);
  await clock.advance(60_000);
  const before = early.bytes;
  const late = reader(silent, 8);
  await clock.advance(1000);
  within(early.bytes - before, 50_000, 0.05, 'the early one');
  within(late.bytes, 50_000, 0.05, 'the late one');
});

test('a rate changes at once; a line that is closed lets everything go', async () => {
  const clock = new VirtualClock();
  const share = new BandwidthShare(clock, 1000);
  const line = share.line(Number.POSITIVE_INFINITY);
  const got = reader(line, 2);
  await clock.advance(10_000);
  within(got.bytes, 10_000, 0.2, 'at first');
  const before = got.bytes;
  share.setRate(1_000_000);
  await clock.advance(1000);
  within(got.bytes - before, 1_000_000, 0.05, 'afterwards');
  const other = share.line(1);
  const waits = [other.take(5), other.take(5), other.take(5)];
  other.close();
  await Promise.all([...waits, other.take(1_000_000)]);
});

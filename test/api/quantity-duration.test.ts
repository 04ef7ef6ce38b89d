import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { DurationError, formatDuration, parseDuration } from '../../controller/api/duration.ts';
import { formatQuantity, parseBytes, parseQuantity, QuantityError } from '../../controller/api/quantity.ts';

test('quantities are exact', () => {
  const expected: [string, bigint][] = [
    ['0', 0n],
    ['32Gi', 34359738368n],
    ['100M', 100000000n],
    ['1k', 1000n],
    ['1.5Gi', 1610612736n],
    ['2000m', 2n],
    ['1e3', 1000n],
    ['7Ei', 7n * 2n ** 60n],
  ];
  for (const [text, value] of expected) assert.equal(parseQuantity(text), value, text);
  assert.equal(parseBytes('54Gi'), 57982058496);
});

test('what is no whole quantity is refused with the reason', () => {
  const expected: [string, RegExp][] = [
    ['1500m', /"1500m" is not a whole number/],
    ['0.1', /not a whole number/],
    ['', /not a quantity/],
    ['Gi', /not a quantity/],
    ['-1', /not a quantity/],
    ['1 Gi', /not a quantity/],
    ['1K', /not a quantity/],
    ['8Ei', /larger than 2\^63-1/],
    ['1e99', /larger than 2\^63-1/],
    ['9'.repeat(1000), /not a quantity/],
  ];
  for (const [text, reason] of expected)
    assert.throws(
      () => parseQuantity(text),
      (error) => error instanceof QuantityError && reason.test(error.message),
      text,
    );
  assert.throws(() => parseBytes('1Ei'), /8 PiB/);
});

test('formatted quantities are short and read back', () => {
  assert.equal(formatQuantity(34359738368), '32Gi');
  assert.equal(formatQuantity(100_000_000), '100M');
  assert.equal(formatQuantity(1024n), '1Ki');
  assert.equal(formatQuantity(0), '0');
  assert.throws(() => formatQuantity(-1), RangeError);
  fc.assert(
    fc.property(
      fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }),
      fc.constantFrom(1n, 1000n, 1024n, 2n ** 30n),
      (n, unit) => {
        const value = n - (n % unit);
        assert.equal(parseQuantity(formatQuantity(value)), value);
      },
    ),
  );
});

test('durations are read as Go reads them', () => {
  const expected: [string, number][] = [
    ['1h30m', 5_400_000],
    ['90s', 90_000],
    ['1.5h', 5_400_000],
    ['0', 0],
    ['0s', 0],
    ['250ms', 250],
    ['1m0.001s', 60_001],
    ['1000us', 1],
    ['30m1h', 5_400_000],
  ];
  for (const [text, ms] of expected) assert.equal(parseDuration(text), ms, text);
  const refused: [string, RegExp][] = [
    ['', /not a duration/],
    ['90', /character 1/],
    ['1h30', /character 3/],
    ['-1s', /not a duration/],
    ['1d', /not a duration/],
    ['1us', /finer than a millisecond/],
    ['0.1ns', /finer than a millisecond/],
    ['9999999999h', /292 years/],
    ['1s'.repeat(100), /not a duration/],
  ];
  for (const [text, reason] of refused)
    assert.throws(
      () => parseDuration(text),
      (error) => error instanceof DurationError && reason.test(error.message),
      text,
    );
});

test('formatted durations read back', () => {
  assert.equal(formatDuration(5_400_000), '1h30m');
  assert.equal(formatDuration(72 * 3_600_000), '72h');
  assert.equal(formatDuration(61_500), '1m1.5s');
  assert.equal(formatDuration(0), '0s');
  assert.throws(() => formatDuration(0.5), RangeError);
  fc.assert(
    fc.property(fc.nat({ max: 9_223_372_036_854 }), (ms) => assert.equal(parseDuration(formatDuration(ms)), ms)),
  );
});

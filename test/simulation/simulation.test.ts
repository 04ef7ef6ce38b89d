/**
 * A handful of seeds in every `npm test`, each run twice: the rules hold, and the same seed leaves the same trace. More of them:
 * `npm run simulate`.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runSeed } from './run.ts';

test('a seed is the same run again, to the last line of its trace', async () => {
  for (const seed of [2, 5, 9]) {
    const first = await runSeed({ seed });
    const second = await runSeed({ seed });
    assert.equal(second.hash, first.hash, `seed ${seed} has another trace when it runs again`);
    assert.equal(second.traceLines, first.traceLines);
  }
});

test('another seed is another run', async () => {
  const [one, other] = [await runSeed({ seed: 8 }), await runSeed({ seed: 13 })];
  assert.notEqual(one.hash, other.hash);
});

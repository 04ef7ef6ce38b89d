import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { type JobAnswer, runJobs } from './jobs.ts';
import { runSeed } from './run.ts';
import { Summary } from './summary.ts';

/** Seeds from 1 to `last`. */
function upTo(last: number): () => number | undefined {
  let seed = 0;
  return () => (seed < last ? ++seed : undefined);
}

test('a seed on one of several processes is the same run as in this one', async () => {
  const hashes = new Map<number, string>();
  const done = ({ result }: JobAnswer): void => void hashes.set(result.seed, result.hash);
  const died = (seed: number, how: string): void => assert.fail(`seed ${seed}: ${how}`);
  await runJobs({ jobs: 2, faults: [], next: upTo(3), done, died });
  for (const seed of [1, 2, 3]) assert.equal(hashes.get(seed), (await runSeed({ seed })).hash);
});

test('a process that dies is a seed that failed, and the others go on', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'jobs-'));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const path = join(directory, 'job.mjs');
  const result = `{ seed, hash: '', virtualMs: 1, tenancies: 1, plan: { mode: 'Some' }, strikes: {}, violations: [] }`;
  writeFileSync(
    path,
    `process.on('message', (seed) => {
      if (seed === 2) process.exit(3);
      process.send({ result: ${result}, cpuSeconds: 1 });
    });`,
  );
  const summary = new Summary([]);
  await runJobs({
    jobs: 2,
    faults: [],
    next: upTo(5),
    done: (answer) => void summary.add(answer.result, answer.cpuSeconds),
    died: (seed, how) => void summary.lost(seed, how),
    worker: pathToFileURL(path),
  });
  const { seeds, failed } = summary.json();
  assert.deepEqual(seeds, { first: 1, last: 5, count: 5 });
  assert.deepEqual(
    failed.map(({ seed, violations }) => ({ seed, violations })),
    [{ seed: 2, violations: ['error: its process ended with 3'] }],
  );
});

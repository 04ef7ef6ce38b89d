/**
 * The benchmark runs to its end on a small hall, and the operator keeps its promise on writes there too.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Result } from '../../bench/report.ts';

/** A claim and its release with what stands between them, by design. */
const mostNodeWrites = 5;

test('a tenancy from commit to bare metal and back costs at most five writes a node', (context) => {
  const directory = mkdtempSync(join(tmpdir(), 'bench-smoke-'));
  context.after(() => rmSync(directory, { recursive: true, force: true }));
  const out = join(directory, 'result.json');
  const program = fileURLToPath(new URL('../../bench/main.ts', import.meta.url));
  const words = ['--racks', '2', '--nodes', '32', '--counts', '1,64', '--repeats', '1', '--patience', '45'];
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...words, '--out', out], {
    encoding: 'utf8',
    timeout: 100_000,
  });
  assert.equal(status, 0, stderr);
  const result = JSON.parse(readFileSync(out, 'utf8')) as Result;
  assert.equal(result.failure, undefined);
  assert.deepEqual(
    result.steps.map(({ name, nodes }) => [name, nodes]),
    [
      ['start, 64 nodes', 64],
      ['1 nodes', 1],
      ['64 nodes', 64],
    ],
  );
  for (const { name, seconds, nodeWritesPerNode, costs } of result.steps) {
    assert.ok(
      nodeWritesPerNode > 0 && nodeWritesPerNode <= mostNodeWrites,
      `${name}: ${nodeWritesPerNode} writes a node`,
    );
    for (const value of Object.values(seconds)) assert.ok(value > 0);
    for (const process of ['server', 'operator', 'agents'] as const) {
      assert.ok(costs[process].cpuSeconds > 0, `${name}: ${process} used no CPU`);
      assert.ok(costs[process].peakMiB > 10, `${name}: ${process} used no memory`);
    }
  }
  assert.match(stdout, /CPU s operator/);
});

/**
 * Every folder of examples/ that holds manifests is applied as its reader would: with kubectl, twice, in one go.
 */
import assert from 'node:assert/strict';
import { globSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'yaml';
import { standaloneTarget } from '../support/api-target.ts';
import { kubectlRunner, toolPath } from '../support/kubectl.ts';

const root = join(import.meta.dirname, '..', '..');
const crds = readdirSync(join(root, 'crds'))
  .filter((file) => file.endsWith('.yaml'))
  .map((file) => parse(readFileSync(join(root, 'crds', file), 'utf8')));
const tool = toolPath('kubectl');
const manifests = globSync('*/*.yaml', { cwd: join(root, 'examples') });
const folders = new Set(manifests.map((path) => dirname(path)));

for (const name of folders) {
  test(`examples/${name} is applied, and applied again without a change`, {
    skip: 'missing' in tool ? `NOT RUN: ${tool.missing}` : false,
  }, async () => {
    const target = await standaloneTarget(crds);
    const home = mkdtempSync(join(tmpdir(), 'bitvisor-examples-'));
    try {
      const run = kubectlRunner('path' in tool ? tool.path : '', target.kubeconfig, home);
      const apply = ['apply', '-f', join(root, 'examples', name)];
      let outcome = await run(apply);
      // kubectl takes files in the order of their names: an object may come before its namespace.
      if (outcome.code !== 0) outcome = await run(apply);
      assert.equal(outcome.code, 0, outcome.stderr);
      const again = await run(apply);
      assert.equal(again.code, 0, again.stderr);
      assert.doesNotMatch(again.stdout, /created|configured/);
    } finally {
      await target.close();
      rmSync(home, { recursive: true, force: true });
    }
  });
}

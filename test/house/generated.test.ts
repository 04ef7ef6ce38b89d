/**
 * What is generated and committed is what its source generates now.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { repository, root } from './source.ts';

const manifest = JSON.parse(repository().find(({ path }) => path === 'package.json')?.text ?? '{}') as {
  scripts: Record<string, string>;
};
const generators = (manifest.scripts.generate ?? '').split(' && ').map((command) => command.replace(/^node /, ''));

for (const generator of generators) {
  test(`${generator} has nothing to change`, async () => {
    const child = spawn(process.execPath, [generator, '--check'], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += String(chunk)));
    const [code] = await once(child, 'close');
    assert.equal(code, 0, `run "npm run generate" and commit the result\n${output}`);
  });
}

test('npm run check:generated checks what npm run generate writes', () => {
  const checks = (manifest.scripts['check:generated'] ?? '').split(' && ');
  assert.deepEqual(
    checks,
    generators.map((generator) => `node ${generator} --check`),
  );
});

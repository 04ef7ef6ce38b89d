/** Every link in README.md and docs/ that names a file of the repository names one that is there. */
import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Targets of inline links and pictures outside of code, without their fragment; those with a scheme are somebody else's. */
function targets(markdown: string): string[] {
  const text = markdown.replaceAll(/```[\s\S]*?```|`[^`\n]*`/g, '');
  const found = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = '']) => target.replace(/#.*$/, ''));
  return found.filter((target) => target !== '' && !/^[a-z]+:/.test(target));
}

test('links in the documents lead somewhere', () => {
  const broken = ['README.md', ...globSync('docs/**/*.md', { cwd: root })].flatMap((page) =>
    targets(readFileSync(join(root, page), 'utf8'))
      .filter((target) => !existsSync(join(root, dirname(page), target)))
      .map((target) => `${page}: ${target}`),
  );
  assert.deepEqual(broken, [], 'name the file as it is called now, relative to the page');
});

test('a link that leads nowhere would be found', () => {
  assert.deepEqual(targets('`[x](y)` [a](b.md#c) ![d](e.svg) [f](https://g/h) [i](#j)'), ['b.md', 'e.svg']);
});

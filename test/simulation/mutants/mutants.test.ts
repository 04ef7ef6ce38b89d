/**
 * The table of mutants fits the code of today: every text that is exchanged stands in its file once, and what comes of it is
 * TypeScript that can be run.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { test } from 'node:test';
import { filesOf, mutate } from './mutant.ts';
import { mutantNamed, mutants } from './table.ts';

const root = new URL('../../../', import.meta.url);

test('every mutant fits the code', () => {
  const wrong = mutants.flatMap((mutant) =>
    filesOf(mutant).flatMap((file) => {
      try {
        const mutated = mutate(mutant, file, readFileSync(new URL(file, root), 'utf8'));
        stripTypeScriptTypes(mutated, { mode: 'strip' });
        return [];
      } catch (error) {
        return [`${mutant.name}: ${error instanceof Error ? error.message : error}`];
      }
    }),
  );
  assert.deepEqual(wrong, [], wrong.join('\n'));
});

test('every mutant has a name of its own and a rule to break', () => {
  assert.equal(new Set(mutants.map(({ name }) => name)).size, mutants.length);
  for (const { name, rules, mistake } of mutants) {
    assert.match(name, /^[a-z]+(-[a-z]+)*$/);
    assert.ok(rules.length > 0 && rules.every((rule) => rule >= 1 && rule <= 10), `${name}: ${rules}`);
    assert.ok(mistake.length > 20, name);
  }
  assert.ok(mutants.length >= 25);
});

test('a text that does not stand there exactly once is an error that names mutant and file', () => {
  const mutant = { name: 'none', mistake: '', rules: [1], edits: [{ file: 'a.ts', find: 'x', replace: 'y' }] };
  assert.equal(mutate(mutant, 'a.ts', 'axb'), 'ayb');
  assert.equal(mutate(mutant, 'b.ts', 'xx'), 'xx');
  assert.throws(() => mutate(mutant, 'a.ts', 'xx'), /mutant none: a\.ts .* 2 times/);
  assert.throws(() => mutate(mutant, 'a.ts', ''), /mutant none: a\.ts .* 0 times/);
  assert.throws(() => mutantNamed('none'), /there is no mutant none; there are: /);
});

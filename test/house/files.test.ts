/**
 * What every file keeps: its size, its opening comment, and silence about the machine it was written on.
 * (The length of functions is held by biome's noExcessiveLinesPerFunction.)
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isGenerated, repository, root, typescript } from './source.ts';

const longestFileLines = 450;
const longFileLines = 400;
const lineCount = (text: string): number => text.split('\n').length - 1;

test(`no file is longer than ${longestFileLines} lines`, (t) => {
  const sizes = typescript().map(({ path, text }) => ({ path, lines: lineCount(text) }));
  for (const { path, lines } of sizes.filter(({ lines }) => lines > longFileLines && lines <= longestFileLines)) {
    t.diagnostic(`${path} has ${lines} lines: find the second responsibility in it before it grows on`);
  }
  const wrong = sizes
    .filter(({ lines }) => lines > longestFileLines)
    .map(
      ({ path, lines }) =>
        `${path} has ${lines} lines: split it by responsibility (at most ${longFileLines} is the aim)`,
    );
  assert.deepEqual(wrong, [], wrong.join('\n'));
});

test('a source file opens with what it is for', () => {
  const wrong = typescript()
    .filter(({ path }) => !path.endsWith('.test.ts'))
    .filter(({ text }) => !/^(#!.*\n)?\/\*\*?[\s*]/.test(text))
    .map(({ path }) => `${path}: open it with a comment that says what it is for and the invariants it keeps`);
  assert.deepEqual(wrong, [], wrong.join('\n'));
});

// Written in parts, so that this file does not break its own rule.
const privateMatters: readonly [RegExp, string][] = [
  [
    new RegExp(`registry\\.(${['npmjs', 'yarnpkg'].join('|')})|${'pypi'}\\.org|${'proxy'}\\.golang`),
    'a package registry',
  ],
  [
    new RegExp(`(^|[\\s"'\`(=:])/(${['home', 'Users', 'root', 'work'].join('|')})/[A-Za-z0-9_.-]+`, 'm'),
    'a path of one machine',
  ],
  [new RegExp(`[A-Z]:\\\\${'Users'}\\\\`), 'a path of one machine'],
];

test('no file names a package registry or a path of one machine', () => {
  const wrong = repository()
    .filter(({ path }) => !isGenerated(path) && path !== 'LICENSE')
    .flatMap(({ path, text }) =>
      privateMatters.flatMap(([pattern, what]) => {
        const found = pattern.exec(text);
        if (found === null) return [];
        const line = text.slice(0, found.index + 1).split('\n').length;
        return [
          `${path}:${line} names ${what} (${found[0].trim()}): write it relative to the repository, or leave it out`,
        ];
      }),
    );
  assert.deepEqual(wrong, [], wrong.join('\n'));
});

test('the top level is as the map in the README shows it', () => {
  const paths = repository().map(({ path }) => path);
  const required = ['crds/', 'controller/', 'agent/', 'charts/', 'examples/', 'test/', 'docs/', '.ci/run'];
  const missing = [...required, 'package.json', 'package-lock.json', 'tsconfig.json', 'Dockerfile', 'README.md'].filter(
    (wanted) => !paths.some((path) => (wanted.endsWith('/') ? path.startsWith(wanted) : path === wanted)),
  );
  assert.deepEqual(missing, [], `missing below ${root}: ${missing.join(', ')}`);
});

test('the commands of the README are those that .ci/run runs', () => {
  const text = (wanted: string): string => repository().find(({ path }) => path === wanted)?.text ?? '';
  const commands = [...text('README.md').matchAll(/^npm ci && (npm .+?)(\s+#.*)?$/gm)].map((match) => match[1]);
  assert.deepEqual(
    commands,
    ['npm start', 'npm test'],
    'README.md must show exactly the two commands, each on a line of its own',
  );
  const ciRun = text('.ci/run');
  for (const command of ['npm ci', 'npm run check', 'npm test']) {
    assert.match(ciRun, new RegExp(`^${command}( --[a-z-]+)*$`, 'm'), `.ci/run must run "${command}"`);
  }
});

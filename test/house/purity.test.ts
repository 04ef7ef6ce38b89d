/**
 * Time, chance and the environment come as parameters, so that one seed replays a run; only entry points touch the machine.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { codeOnly, importsOf, type SourceFile, typescript } from './source.ts';

interface Ambient {
  readonly what: RegExp;
  readonly name: string;
  readonly fix: string;
  /** Files that may, besides entry points, tests and tools. */
  readonly allowed: RegExp;
}

const ofClock = /^controller\/runtime\/clock\.ts$/;
const ofRandom = /^controller\/runtime\/random\.ts$/;
const nowhere = /^$/;
const clockFix = 'take a Clock (controller/runtime/clock.ts) as a parameter';
const randomFix = 'take a Random (controller/runtime/random.ts) as a parameter';

const ambients: readonly Ambient[] = [
  { what: /\bDate\.now\b/g, name: 'Date.now', fix: clockFix, allowed: ofClock },
  { what: /\bnew Date\(\s*\)/g, name: 'new Date()', fix: clockFix, allowed: ofClock },
  { what: /\bperformance\.now\b/g, name: 'performance.now', fix: clockFix, allowed: ofClock },
  { what: /\bprocess\.hrtime\b/g, name: 'process.hrtime', fix: clockFix, allowed: ofClock },
  { what: /\bset(Timeout|Interval)\s*\(/g, name: 'a timer', fix: clockFix, allowed: ofClock },
  { what: /\bAbortSignal\.timeout\b/g, name: 'AbortSignal.timeout', fix: clockFix, allowed: ofClock },
  { what: /\bMath\.random\b/g, name: 'Math.random', fix: randomFix, allowed: ofRandom },
  { what: /\brandom(UUID|Int|Bytes)\s*\(/g, name: 'random bytes of node:crypto', fix: randomFix, allowed: ofRandom },
  {
    what: /\bprocess\.env\b/g,
    name: 'process.env',
    fix: 'read it in the entry point and pass the value on',
    allowed: nowhere,
  },
  {
    what: /\bprocess\.(exit|argv|exitCode)\b/g,
    name: 'process.exit or process.argv',
    fix: 'return a result to the entry point, which decides about the process',
    allowed: nowhere,
  },
];

/** Programs that people or scripts start, and what only they load: the shell around the core. */
const shell = /(^|\/)main\.ts$|(^|\/)generate(-[a-z]+)?\.ts$|^(test|tools|bench|docs|controller\/cli)\//;

function ambientUses(file: SourceFile): string[] {
  if (shell.test(file.path)) return [];
  const code = codeOnly(file.text);
  return ambients.flatMap(({ what, name, fix, allowed }) =>
    allowed.test(file.path)
      ? []
      : [...code.matchAll(what)].map(({ index }) => {
          const line = code.slice(0, index).split('\n').length;
          return `${file.path}:${line} uses ${name}: ${fix}`;
        }),
  );
}

/** Modules through which a pure file would reach the machine. */
const machine =
  /^(node:)?(fs|net|http|http2|https|tls|dgram|dns|child_process|worker_threads|os|process|sqlite|timers)(\/|$)/;

test('time, chance and environment come as parameters', () => {
  const wrong = typescript().flatMap(ambientUses);
  assert.deepEqual(wrong, [], wrong.join('\n'));
});

test('the domain touches nothing of the machine', () => {
  const wrong = typescript()
    .filter(({ path }) => path.startsWith('controller/domain/'))
    .flatMap((file) => importsOf(file).map((found) => ({ file, ...found })))
    .filter(({ relative, target }) => !relative && machine.test(target))
    .map(
      ({ file, line, target }) =>
        `${file.path}:${line} imports ${target}: do the I/O in an adapter and pass the result in`,
    );
  assert.deepEqual(wrong, [], wrong.join('\n'));
});

test('an ambient use would be found, one in a comment or a string would not', () => {
  const text =
    "// Date.now()\nconst a = 'Math.random()';\nconst b = new Date();\nsetTimeout(() => process.env.HOME, 1);\n";
  assert.deepEqual(
    ambientUses({ path: 'controller/kube/watch.ts', text }).map((line) => line.split(' ')[0]),
    ['controller/kube/watch.ts:3', 'controller/kube/watch.ts:4', 'controller/kube/watch.ts:4'],
  );
});

/**
 * Runs the tests: `npm test`, or `npm test -- test/domain test/kube/watch.test.ts` for some of them.
 *
 * Invariants:
 * 1. Every `*.test.ts` under test/ runs, in one run of node's test runner, whose summary comes last. Those of `ownRun` run only when
 *    they are asked for: they take minutes, and have a script of their own (`npm run test:lab`, `test:faults`).
 * 2. Directories of `sharedProcess` hold tests without sockets, child processes or global hooks: one process runs them all,
 *    because a process per file costs them seven times their own time. Every other file has a process of its own.
 */
import { spawnSync } from 'node:child_process';
import { globSync } from 'node:fs';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const sharedProcess = ['api', 'domain', 'runtime', 'examples', 'house'];
const ownRun = ['lab', 'e2e/faults'];
const root = fileURLToPath(new URL('..', import.meta.url));

function testFiles(paths: readonly string[]): string[] {
  const patterns = paths.map((path) => (path.endsWith('.ts') ? path : `${path.replace(/\/$/, '')}/**/*.test.ts`));
  return globSync(patterns, { cwd: root }).sort();
}

const options = process.argv.slice(2).filter((argument) => argument.startsWith('-'));
const asked = process.argv.slice(2).filter((argument) => !argument.startsWith('-'));
const isAskedFor = (file: string): boolean =>
  asked.length > 0 || !ownRun.some((directory) => file.startsWith(`test/${directory}/`));
const files = testFiles(asked.length === 0 ? ['test'] : asked).filter(isAskedFor);
if (files.length === 0) {
  process.stderr.write(`no test matches ${asked.join(' ')}: name files or directories under test/\n`);
  process.exit(1);
}
const isShared = (file: string): boolean => sharedProcess.some((directory) => file.startsWith(`test/${directory}/`));
const shared = files.filter(isShared);
const entries = [...(shared.length > 0 ? ['tools/test-shared.ts'] : []), ...files.filter((file) => !isShared(file))];
const { status } = spawnSync(process.execPath, ['--test', '--test-concurrency=2', ...options, ...entries], {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, SHARED_TEST_FILES: shared.join('\n') },
});
process.exitCode = status ?? 1;

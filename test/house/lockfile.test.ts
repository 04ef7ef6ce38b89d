/**
 * The lockfile holds everything that `npm ci` will ask for, on every platform. Of a fresh release the registry may lack a platform's
 * package; `npm i` then writes a lockfile without it, silently, and the next `npm ci` refuses it.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { repository } from './source.ts';

interface LockedPackage {
  version?: string;
  resolved?: string;
  integrity?: string;
  link?: boolean;
  inBundle?: boolean;
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
}
type Locked = Record<string, LockedPackage>;

/** Whether a package at `from` finds `name` the way node does: beside itself, then in each directory above. */
function resolves(packages: Locked, from: string, name: string): boolean {
  for (let base = from; ; base = base.slice(0, Math.max(0, base.lastIndexOf('node_modules/') - 1))) {
    if (packages[base === '' ? `node_modules/${name}` : `${base}/node_modules/${name}`] !== undefined) return true;
    if (base === '') return false;
  }
}

function problems(packages: Locked): string[] {
  return Object.entries(packages).flatMap(([path, entry]) => {
    const wanted = Object.keys({ ...entry.dependencies, ...entry.optionalDependencies, ...entry.devDependencies });
    const name = path === '' ? 'the project itself' : `${path} (${entry.version})`;
    const missing = wanted
      .filter((dependency) => !resolves(packages, path, dependency))
      .map((dependency) => `${name} needs ${dependency}, which is not locked: choose another version of it`);
    const unproven = path !== '' && entry.link !== true && entry.inBundle !== true && entry.integrity === undefined;
    return unproven ? [...missing, `${name} has no integrity: install it from the registry`] : missing;
  });
}

const read = (wanted: string): string => repository().find(({ path }) => path === wanted)?.text ?? '';

test('the lockfile is complete', () => {
  const lock = JSON.parse(read('package-lock.json')) as { packages: Locked };
  const wrong = problems(lock.packages);
  assert.deepEqual(wrong, [], wrong.join('\n'));
});

test('the lockfile belongs to package.json', () => {
  const lock = JSON.parse(read('package-lock.json')) as { packages: Locked };
  const manifest = JSON.parse(read('package.json')) as LockedPackage;
  for (const kind of ['dependencies', 'devDependencies', 'optionalDependencies'] as const) {
    assert.deepEqual(
      lock.packages['']?.[kind],
      manifest[kind],
      `${kind} differ: run "npm install" and commit package-lock.json`,
    );
  }
});

test('a missing platform package would be found', () => {
  const packages: Locked = {
    '': { dependencies: { a: '1' } },
    'node_modules/a': { version: '1.0.0', integrity: 'sha512-x', optionalDependencies: { 'a-linux': '1', b: '1' } },
    'node_modules/b': { version: '1.0.0' },
  };
  assert.deepEqual(
    problems(packages).map((line) => line.split(',')[0]),
    ['node_modules/a (1.0.0) needs a-linux', 'node_modules/b (1.0.0) has no integrity: install it from the registry'],
  );
});

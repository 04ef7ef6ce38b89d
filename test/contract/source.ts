/**
 * What every adapter of the Source port promises (controller/gitops/source.ts), over a folder that the adapter's harness fills.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type Source, SourceError } from '../../controller/gitops/source.ts';

export interface SourceHarness {
  readonly source: (path?: string) => Source;
  /** Makes the site hold exactly these files; a value that begins with "-> " is a symbolic link to the rest. */
  readonly put: (files: Readonly<Record<string, string>>) => void;
  /** Takes the whole site away. */
  readonly destroy: () => void;
  readonly close: () => void;
}

export function sourceContract(name: string, open: () => SourceHarness, options: { skip?: string | boolean }): void {
  const holds = (what: string, body: (harness: SourceHarness) => Promise<void>): void => {
    test(what, async () => {
      const harness = open();
      try {
        await body(harness);
      } finally {
        harness.close();
      }
    });
  };

  describe(`Source port: ${name}`, options, () => {
    holds('gives the manifests below its path, ordered, and nothing hidden', async ({ source, put }) => {
      put({
        'site/b.yaml': 'b: 1\n',
        'site/a.json': '{}',
        'site/.github/x.yaml': 'x: 1\n',
        'site/notes.txt': 'no',
        'other/c.yaml': 'c: 1\n',
      });
      const { files, history, refused } = await source('site').fetch(undefined);
      assert.deepEqual(
        files.map(({ path }) => path),
        ['site/a.json', 'site/b.yaml'],
      );
      assert.equal(Buffer.from(files[1]?.bytes ?? []).toString(), 'b: 1\n');
      assert.equal(history, 'First');
      assert.deepEqual(refused, []);
    });

    holds('names a commit by its content', async ({ source, put }) => {
      put({ 'a.yaml': 'a: 1\n' });
      const first = await source().fetch(undefined);
      assert.equal((await source().fetch(first.commit)).commit, first.commit);
      assert.equal((await source().fetch(first.commit)).history, 'Same');
      put({ 'a.yaml': 'a: 2\n' });
      assert.notEqual((await source().fetch(first.commit)).commit, first.commit);
    });

    holds('follows no symbolic link, and names it', async ({ source, put }) => {
      put({ 'a.yaml': 'a: 1\n', 'passwords.yaml': '-> /etc/passwd' });
      const { files, refused } = await source().fetch(undefined);
      assert.deepEqual(
        files.map(({ path }) => path),
        ['a.yaml'],
      );
      assert.deepEqual(
        refused.map(({ path }) => path),
        ['passwords.yaml'],
      );
      assert.match(refused[0]?.problem.reason ?? '', /out of the repository/);
    });

    holds('says that it cannot be reached, and works again afterwards', async ({ source, put, destroy }) => {
      put({ 'a.yaml': 'a: 1\n' });
      const followed = source();
      await followed.fetch(undefined);
      destroy();
      await assert.rejects(
        followed.fetch(undefined),
        (error) => error instanceof SourceError && error.reason === 'Unreachable',
      );
      put({ 'a.yaml': 'a: 1\n' });
      assert.equal((await followed.fetch(undefined)).files.length, 1);
    });

    holds('a path that leads out of it is refused', async ({ source }) => {
      assert.throws(() => source('../elsewhere'), SourceError);
    });
  });
}

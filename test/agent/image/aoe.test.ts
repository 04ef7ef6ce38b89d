/** AoE by vblade, in a network namespace, with aoetools as initiator. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { aoeConfig, startAoeExport } from '../../../agent/image/aoe.ts';
import { assembleImage } from '../../../agent/image/assemble.ts';
import { needsRoot } from '../../support/programs.ts';
import { bench } from './cache-support.ts';
import { mib, noise } from './support.ts';

const run = promisify(execFile);
const segment = needsRoot('ip', 'vblade', 'aoecfg', 'aoeping');
const friend = '02:00:00:00:00:01';
const stranger = '02:00:00:00:00:02';
const digest = 'ab'.repeat(32);

/** A bridge with an initiator on it, whose address can be changed. */
async function network(t: TestContext): Promise<{ netns: string; inside(...words: string[]): Promise<string> }> {
  const netns = `bvaoe-${process.pid}`;
  await run('ip', ['netns', 'add', netns]);
  t.after(() => run('ip', ['netns', 'del', netns]));
  const inside = async (...words: string[]): Promise<string> =>
    (await run('ip', ['netns', 'exec', netns, ...words], { timeout: 20_000 })).stdout;
  await inside('ip', 'link', 'add', 'br0', 'type', 'bridge');
  await inside('ip', 'link', 'add', 'node', 'type', 'veth', 'peer', 'name', 'nodep');
  await inside('ip', 'link', 'set', 'nodep', 'master', 'br0');
  for (const name of ['br0', 'node', 'nodep']) await inside('ip', 'link', 'set', name, 'up');
  await inside('ip', 'link', 'set', 'node', 'address', friend);
  return { netns, inside };
}

test(
  'a target tells its image and generation to the listed address alone, and is gone when it is closed',
  segment,
  async (t) => {
    const { netns, inside } = await network(t);
    const directory = await mkdtemp(join(tmpdir(), 'aoe-'));
    t.after(() => rm(directory, { recursive: true }));
    const file = join(directory, 'image.raw');
    await writeFile(file, noise(mib));
    const what = { digest, sizeBytes: mib, generation: 7 };
    const target = { file, shelf: 3, slot: 1, bridge: 'br0', netns, macs: [friend], ...what };
    const config = (): Promise<string> => inside('aoecfg', '-t', '1', '3', '1', 'node');
    const opened = await startAoeExport(target);
    assert.equal((await config()).trim(), aoeConfig(what));
    assert.match(await inside('aoeping', '-s', '2', '-I', '3', '1', 'node'), /Coraid EtherDrive vblade/);
    await inside('ip', 'link', 'set', 'node', 'address', stranger);
    assert.equal(await config(), '', 'a stranger got an answer');
    await assert.rejects(inside('aoeping', '-s', '1', '-I', '3', '1', 'node'));
    await inside('ip', 'link', 'set', 'node', 'address', friend);
    await opened.close();
    assert.equal(await config(), '', 'a closed target answered');
    assert.doesNotMatch(await inside('ip', 'link'), /aoe/);
    // What a killed agent left is replaced.
    let end: string | undefined;
    await startAoeExport({ ...target, onEnd: (why) => (end = why) });
    const next = await startAoeExport({ ...target, generation: 8 });
    t.after(() => next.close());
    assert.equal((await config()).trim(), aoeConfig({ ...what, generation: 8 }));
    assert.ok(end !== undefined, 'the older process lives on');
  },
);

test('what cannot be exported is refused, and leaves nothing behind', segment, async (t) => {
  const { netns, inside } = await network(t);
  const what = { digest, sizeBytes: mib, generation: 1 };
  const target = { file: '/nowhere/image.raw', shelf: 3, slot: 1, bridge: 'br0', netns, macs: [friend], ...what };
  await assert.rejects(startAoeExport(target), /vblade of .*image\.raw ended/);
  await assert.rejects(startAoeExport({ ...target, shelf: 65_535 }), /no AoE address/);
  await assert.rejects(startAoeExport({ ...target, macs: [] }), /1 to 31 MAC/);
  await assert.rejects(startAoeExport({ ...target, macs: ['02:00:00:00:00:0g'] }), /1 to 31 MAC/);
  assert.doesNotMatch(await inside('ip', 'link'), /aoe/);
});

test('an image is assembled whole, with holes, or not at all', async (t) => {
  const image = Buffer.concat([noise(2 * mib + 512), Buffer.alloc(4 * mib), noise(mib)]);
  const { start, spec, directory, origin } = await bench(t, image);
  const cache = await start();
  const { image: cached } = await cache.open(spec());
  const path = join(directory, 'assembled.raw');
  await assembleImage(cached, path, new AbortController().signal);
  assert.ok((await readFile(path)).equals(image));
  assert.ok((await stat(path)).blocks * 512 < image.length - 3 * mib, 'zeros take room');
  await origin.stop();
  const aborted = AbortSignal.abort(new Error('enough'));
  await assert.rejects(assembleImage(cached, join(directory, 'other.raw'), aborted), /enough/);
  await assert.rejects(stat(join(directory, 'other.raw')));
  await origin.start();
});

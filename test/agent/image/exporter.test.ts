import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import type { RackCache } from '../../../agent/image/cache.ts';
import { ImageExporter } from '../../../agent/image/exporter.ts';
import { startNbdServer } from '../../../agent/image/nbd-server.ts';
import { sha256 } from '../../../agent/image/tree.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { bench } from './cache-support.ts';
import { needs } from './programs.ts';
import { mib, noise } from './support.ts';

const run = promisify(execFile);
const clients = needs('nbdinfo', 'nbdcopy');

async function exporterOf(t: TestContext, cache: RackCache): Promise<ImageExporter & { uri(name: string): string }> {
  const directory = await mkdtemp(join(tmpdir(), 'exporter-'));
  const socketPath = join(directory, 'nbd');
  const nbd = await startNbdServer({ listen: { socketPath }, clock: systemClock });
  t.after(async () => {
    await nbd.close();
    await rm(directory, { recursive: true });
  });
  const exporter = new ImageExporter({ cache, nbd, socketPath });
  return Object.assign(exporter, { uri: (name: string) => `nbd+unix:///${name}?socket=${socketPath}` });
}

test('an image is exported once its digest is known, and is gone when it is closed', clients, async (t) => {
  const image = noise(4 * mib);
  const { start, spec, directory } = await bench(t, image);
  const exporter = await exporterOf(t, await start());
  assert.deepEqual(await exporter.open('n0', spec()), { digest: spec().sha256, sizeBytes: image.length });
  assert.deepEqual(await exporter.open('n0', spec()), { digest: spec().sha256, sizeBytes: image.length });
  await exporter.open('n1', spec());
  await run('nbdcopy', [exporter.uri('n0'), join(directory, 'copy')]);
  assert.ok((await readFile(join(directory, 'copy'))).equals(image));
  assert.equal(exporter.servedBytes(), image.length);
  await exporter.close('n0');
  await exporter.close('n0');
  await assert.rejects(run('nbdinfo', [exporter.uri('n0')]), /No such file|no such export/);
  await run('nbdcopy', [exporter.uri('n1'), 'null:']);
  assert.equal(exporter.servedBytes(), 2 * image.length);
});

test('another file is not exported, and named by what it is', clients, async (t) => {
  const image = noise(2 * mib);
  const { start, spec, origin } = await bench(t, image);
  const exporter = await exporterOf(t, await start());
  const other = noise(2 * mib, 8);
  origin.files.set('/image.raw', other);
  assert.deepEqual(await exporter.open('n0', spec()), { digest: sha256(other).toString('hex'), sizeBytes: 0 });
  await assert.rejects(run('nbdinfo', [exporter.uri('n0')]), /No such file|no such export/);
  await exporter.close('n0');
  await assert.rejects(exporter.open('n0', spec({ url: `${origin.url}/none` })), /the server answered 404/);
  origin.files.set('/image.raw', image);
  assert.equal((await exporter.open('n0', spec())).digest, spec().sha256);
});

test('an export that is closed while it is opened does not appear afterwards', clients, async (t) => {
  const { start, spec } = await bench(t, noise(2 * mib));
  const exporter = await exporterOf(t, await start());
  const opening = exporter.open('n0', spec());
  await exporter.close('n0');
  await opening;
  await assert.rejects(run('nbdinfo', [exporter.uri('n0')]), /No such file|no such export/);
});

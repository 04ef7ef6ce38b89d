import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { RackExporter } from '../../../agent/image/exporter.ts';
import { sha256 } from '../../../agent/image/tree.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { seededRandom } from '../../../controller/runtime/random.ts';
import { needs } from '../../support/programs.ts';
import { bench } from './cache-support.ts';
import { mib, noise } from './support.ts';

const run = promisify(execFile);
const clients = needs('nbdinfo', 'nbdcopy');

interface Exporter {
  readonly exporter: RackExporter;
  uri(name: string): string;
}

async function exporterOf(t: TestContext, { directory }: { directory: string }): Promise<Exporter> {
  const sockets = await mkdtemp(join(tmpdir(), 'exporter-'));
  const socketPath = join(sockets, 'nbd');
  const exporter = await RackExporter.start({
    directory,
    listen: { socketPath },
    memoryBytes: 32 * mib,
    diskBytes: 64 * mib,
    clock: systemClock,
    random: seededRandom(1),
    policy: {},
    patienceMs: 500,
    onError: (error) => assert.fail(String(error)),
  });
  t.after(async () => {
    await exporter.stop();
    await rm(sockets, { recursive: true });
  });
  return { exporter, uri: (name) => `nbd+unix:///${name}?socket=${socketPath}` };
}

test('an image is exported once its digest is known, and is gone when it is closed', clients, async (t) => {
  const image = noise(4 * mib);
  const { spec, directory } = await bench(t, image);
  const { exporter, uri } = await exporterOf(t, { directory });
  assert.deepEqual(await exporter.open('n0', spec()), { digest: spec().sha256, sizeBytes: image.length });
  assert.deepEqual(await exporter.open('n0', spec()), { digest: spec().sha256, sizeBytes: image.length });
  await exporter.open('n1', spec());
  await run('nbdcopy', [uri('n0'), join(directory, 'copy')]);
  assert.ok((await readFile(join(directory, 'copy'))).equals(image));
  assert.equal(exporter.servedBytes(), image.length);
  assert.ok((await exporter.read('n1', 5, 1000)).equals(image.subarray(5, 1005)));
  assert.equal(exporter.clients('n0'), 0);
  await exporter.close('n0');
  await exporter.close('n0');
  await assert.rejects(exporter.read('n0', 0, 1), /not exported/);
  await assert.rejects(run('nbdinfo', [uri('n0')]), /No such file|no such export/);
  await run('nbdcopy', [uri('n1'), 'null:']);
  assert.equal(exporter.servedBytes(), 2 * image.length);
});

test('another file is not exported, and named by what it is', clients, async (t) => {
  const image = noise(2 * mib);
  const { spec, origin, directory } = await bench(t, image);
  const { exporter, uri } = await exporterOf(t, { directory });
  const other = noise(2 * mib, 8);
  origin.files.set('/image.raw', other);
  assert.deepEqual(await exporter.open('n0', spec()), { digest: sha256(other).toString('hex'), sizeBytes: 0 });
  await assert.rejects(run('nbdinfo', [uri('n0')]), /No such file|no such export/);
  await exporter.close('n0');
  await assert.rejects(exporter.open('n0', spec({ url: `${origin.url}/none` })), /the server answered 404/);
  origin.files.set('/image.raw', image);
  assert.equal((await exporter.open('n0', spec())).digest, spec().sha256);
});

test('an export that is closed while it is opened does not appear afterwards', clients, async (t) => {
  const { spec, directory } = await bench(t, noise(2 * mib));
  const { exporter, uri } = await exporterOf(t, { directory });
  const opening = assert.rejects(exporter.open('n0', spec()), /closed while it was opened/);
  await exporter.close('n0');
  await opening;
  await assert.rejects(run('nbdinfo', [uri('n0')]), /No such file|no such export/);
});

import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { descriptorBytes, digestOf, sha256 } from '../../../agent/image/tree.ts';
import { seededRandom } from '../../../controller/runtime/random.ts';
import { bench, readWhole, until } from './cache-support.ts';
import { kib, mib, noise, treeFileOf } from './support.ts';

test('eight readers at once cost the origin one image', async (t) => {
  const image = noise(24 * mib + 512);
  const { origin, start, spec } = await bench(t, image);
  const cache = await start();
  const handles = await Promise.all(Array.from({ length: 8 }, () => cache.open(spec())));
  const found = await Promise.all(handles.map((handle, index) => readWhole(handle, 64 * kib * (1 + index))));
  for (const bytes of found) assert.ok(bytes.equals(image));
  const treeBytes = origin.sent.get('/image.raw.fsverity') ?? 0;
  assert.equal((origin.sent.get('/image.raw') ?? 0) - 1, image.length, 'one byte is the probe');
  assert.ok(treeBytes <= 2 * (descriptorBytes + 65_536), `${treeBytes} bytes of the tree`);
  assert.equal(cache.counters.servedBytes, 8 * image.length);
  assert.equal(
    handles[0]?.image.originBytes,
    image.length - 65_536 - 512,
    'first and last block came with the opening',
  );
});

test('random reads of any length and place give the bytes of the image', async (t) => {
  const image = noise(5 * mib + 1536, 9);
  image.fill(0, mib, 2 * mib);
  const { start, spec } = await bench(t, image);
  const { image: cached } = await (await start({ memoryBytes: 16 * mib })).open(spec());
  const random = seededRandom(4);
  await Promise.all(
    Array.from({ length: 300 }, async () => {
      const offset = Math.floor(random.next() * image.length);
      const length = Math.min(image.length - offset, 1 + Math.floor(random.next() * 400 * kib));
      assert.ok((await cached.read(offset, length)).equals(image.subarray(offset, offset + length)));
    }),
  );
  for (const [offset, length] of [
    [-1, 5],
    [0, 0],
    [image.length, 1],
    [image.length - 1, 2],
    [0.5, 1],
    [0, Number.NaN],
  ] as const) {
    await assert.rejects(cached.read(offset, length), RangeError);
  }
});

test('zeros are neither fetched nor stored, and known before any read', async (t) => {
  const image = Buffer.alloc(16 * mib);
  noise(mib).copy(image, 8 * mib);
  const { origin, start, spec } = await bench(t, image);
  const cache = await start();
  const handle = await cache.open(spec());
  assert.deepEqual(handle.image.extents(0, image.length), [
    { bytes: 8 * mib, isZero: true },
    { bytes: mib, isZero: false },
    { bytes: 7 * mib, isZero: true },
  ]);
  assert.ok((await readWhole(handle)).equals(image));
  assert.equal((origin.sent.get('/image.raw') ?? 0) - 1, mib);
  assert.ok(cache.diskBytes <= mib + 65_536, `${cache.diskBytes} bytes on the disk`);
});

test('a read ends when its image is closed, and only so many may wait', async (t) => {
  const { origin, start, spec } = await bench(t, noise(4 * mib));
  const cache = await start();
  const handle = await cache.open(spec());
  await origin.stop();
  const waiting = handle.image.read(mib, 4096);
  const many = Promise.allSettled(Array.from({ length: 9000 }, () => handle.image.read(0, 512)));
  await until(() => cache.counters.originFaults > 0);
  await handle.close();
  await assert.rejects(waiting, /was closed/);
  const refused = (await many).filter((one) => one.status === 'rejected' && /wait already/.test(String(one.reason)));
  assert.equal(refused.length, 9001 - 8192);
  await origin.start();
});

test('a restart keeps what is verified, and opens without the origin', async (t) => {
  const image = noise(12 * mib);
  const { origin, start, spec } = await bench(t, image);
  const first = await start();
  const handle = await first.open(spec());
  await handle.image.read(0, 8 * mib);
  await first.close();
  const sent = origin.sent.get('/image.raw') ?? 0;
  await origin.stop();
  const second = await start();
  const again = await second.open(spec());
  assert.ok((await again.image.read(0, 8 * mib)).equals(image.subarray(0, 8 * mib)));
  assert.equal(second.counters.originBytes, 0);
  await origin.start();
  assert.ok((await readWhole(again)).equals(image));
  const twice = (origin.sent.get('/image.raw') ?? 0) - 1 - image.length;
  assert.ok(twice <= 65_536, `${twice} bytes twice, ${sent} before the restart: more than the one block read ahead`);
});

test('blocks that tore or rotted on the disk are fetched again', async (t) => {
  const image = noise(8 * mib);
  const { start, spec, directory, faults } = await bench(t, image);
  const first = await start();
  await readWhole(await first.open(spec()));
  await first.close();
  const path = join(directory, spec().sha256, 'segment-0');
  const bytes = await readFile(path);
  bytes.fill(0, 3 * mib + 100, 3 * mib + 700);
  await writeFile(path, bytes);
  await truncate(path, 7 * mib + 30);
  const second = await start();
  assert.ok((await readWhole(await second.open(spec()))).equals(image));
  assert.equal(second.counters.corruptOnDisk, 1 + 16);
  assert.equal(second.counters.originBytes, mib + 65_536);
  assert.match(faults.join('\n'), /block 48 on the rack's disk is corrupt/);
  await second.close();
  // A tree that rotted is fetched again, and a map that rotted costs the blocks alone.
  await writeFile(join(directory, spec().sha256, 'tree'), noise(512));
  const third = await start();
  assert.ok((await readWhole(await third.open(spec()))).equals(image));
  await third.close();
  await writeFile(join(directory, spec().sha256, 'present'), noise(64));
  const fourth = await start();
  assert.ok((await readWhole(await fourth.open(spec()))).equals(image));
  assert.equal(fourth.counters.originBytes, image.length);
});

test('a killed process costs what was not flushed, and never gives wrong bytes', async (t) => {
  const image = noise(8 * mib);
  const { start, spec, directory } = await bench(t, image);
  const first = await start();
  const handle = await first.open(spec());
  await readWhole(handle);
  const digest = spec().sha256;
  // What a kill leaves: segments as they are, and a map from before (here: of everything, while the segment lost its end).
  await first.close();
  const map = await readFile(join(directory, digest, 'present'));
  await truncate(join(directory, digest, 'segment-0'), 4 * mib);
  await truncate(join(directory, digest, 'segment-0'), 8 * mib);
  await writeFile(join(directory, digest, 'present'), map);
  const second = await start();
  assert.ok((await readWhole(await second.open(spec()))).equals(image));
  assert.equal(second.counters.corruptOnDisk, 64);
});

test('memory and disk stay within their bounds; images that nobody has open go first', async (t) => {
  const image = noise(160 * mib, 2);
  const other = noise(64 * mib, 3);
  const { origin, start, spec, directory } = await bench(t, image);
  origin.files.set('/other.raw', other);
  const tree = treeFileOf(other);
  origin.files.set('/other.raw.fsverity', tree);
  const diskBytes = 200 * mib;
  const cache = await start({ memoryBytes: 16 * mib, diskBytes });
  const closed = await cache.open(
    spec({ url: `${origin.url}/other.raw`, sha256: digestOf(tree.subarray(0, descriptorBytes)) }),
  );
  assert.ok((await readWhole(closed)).equals(other));
  await closed.close();
  const handle = await cache.open(spec());
  assert.ok((await readWhole(handle)).equals(image));
  assert.ok(cache.diskBytes <= diskBytes, `${cache.diskBytes} bytes`);
  assert.ok(cache.memoryBytes <= 16 * mib, `${cache.memoryBytes} bytes`);
  const before = cache.counters.originBytes;
  assert.ok((await readWhole(handle)).equals(image));
  assert.equal(cache.counters.originBytes, before, 'the open image is on the disk');
  assert.ok(!(await readdir(join(directory, digestOf(tree.subarray(0, descriptorBytes))))).includes('segment-0'));
  // A disk smaller than the image: everything still arrives, fetched again where it must be.
  await cache.close();
  await rm(directory, { recursive: true });
  const small = await start({ memoryBytes: 16 * mib, diskBytes: 70 * mib });
  const again = await small.open(spec());
  assert.ok((await readWhole(again)).equals(image));
  assert.ok((await readWhole(again)).equals(image));
  assert.ok(small.diskBytes <= 70 * mib, `${small.diskBytes} bytes`);
});

test('an image named by the SHA-256 of its bytes is read whole once, then block by block', async (t) => {
  const image = noise(10 * mib + 512);
  image.fill(0, 4 * mib, 6 * mib);
  const { origin, start, spec } = await bench(t, image);
  const named = spec({ sha256: sha256(image).toString('hex') });
  const first = await start();
  let asked = 0;
  origin.misbehave = (_request, response, body) => {
    if (body.length < 2 * mib || ++asked > 2) return undefined;
    response.writeHead(206, {
      'content-length': body.length,
      'content-range': `bytes ${image.length - body.length}-${image.length - 1}/${image.length}`,
    });
    response.write(body.subarray(0, mib), () => response.destroy());
    return 'Done';
  };
  assert.ok((await readWhole(await first.open(named))).equals(image));
  assert.equal(asked, 3, 'it went on where the answer broke off');
  await first.close();
  await origin.stop();
  const second = await start();
  assert.ok((await readWhole(await second.open(named))).equals(image));
  await origin.start();
});

test('a disk that fails costs the cache, not the reader', async (t) => {
  const image = noise(4 * mib);
  const { start, spec, directory, faults } = await bench(t, image);
  const cache = await start();
  const handle = await cache.open(spec());
  const before = cache.diskBytes;
  await handle.image.read(0, 1);
  await handle.close();
  // What no write gets through: a directory where the segment should be.
  const segment = join(directory, spec().sha256, 'segment-0');
  const again = await cache.open(spec());
  await cache.close();
  await rm(segment);
  await mkdir(segment);
  const second = await start();
  const failing = await second.open(spec());
  assert.ok((await readWhole(failing)).equals(image));
  await until(() => second.counters.notStored >= 62);
  assert.match(faults.join('\n'), /EISDIR/);
  assert.ok(second.diskBytes <= before, `${second.diskBytes} bytes are counted of a disk that took none`);
  await again.close();
});

test('a use that is closed twice is closed once', async (t) => {
  const image = noise(mib);
  const { start, spec } = await bench(t, image);
  const cache = await start();
  const [one, other] = await Promise.all([cache.open(spec()), cache.open(spec())]);
  await one.close();
  await one.close();
  assert.ok((await readWhole(other)).equals(image));
});

test('a process that is killed keeps what it had flushed, and what it had not is fetched again', async (t) => {
  const image = noise(48 * mib);
  const { start, spec, directory, origin } = await bench(t, image);
  const settings = JSON.stringify({ directory, spec: spec(), bytes: 32 * mib });
  const child = fork(new URL('./cache-child.ts', import.meta.url), [settings]);
  await once(child, 'message');
  const map = join(directory, spec().sha256, 'present');
  const first = (await stat(map)).mtimeMs;
  await until(async () => (await stat(map)).mtimeMs > first);
  child.kill('SIGKILL');
  await once(child, 'exit');
  const sent = origin.sent.get('/image.raw') ?? 0;
  const cache = await start();
  const handle = await cache.open(spec());
  assert.ok((await readWhole(handle)).equals(image));
  assert.ok(cache.counters.diskHits >= 400, `${cache.counters.diskHits} of 512 blocks were kept`);
  assert.equal((origin.sent.get('/image.raw') ?? 0) - sent, cache.counters.originBytes);
});

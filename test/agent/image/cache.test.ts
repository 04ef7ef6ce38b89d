import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { ImageError, type ImageSpec } from '../../../agent/image/acquire.ts';
import { type ImageHandle, RackCache, type RackCacheOptions } from '../../../agent/image/cache.ts';
import { descriptorBytes, digestOf, sha256 } from '../../../agent/image/tree.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { seededRandom } from '../../../controller/runtime/random.ts';
import { kib, mib, noise, startOrigin, type TestOrigin, treeFileOf } from './support.ts';

const quickly = { initialMs: 5, factor: 1.5, capMs: 20, jitter: 0.5 };

interface Bench {
  readonly origin: TestOrigin;
  readonly directory: string;
  readonly faults: string[];
  start(options?: Partial<RackCacheOptions>): Promise<RackCache>;
  spec(change?: Partial<ImageSpec>): ImageSpec;
}

/** An origin with `image` and its tree at /image.raw, and caches in one directory. */
async function bench(t: TestContext, image: Buffer): Promise<Bench> {
  const treeFile = treeFileOf(image);
  const origin = await startOrigin({ '/image.raw': image, '/image.raw.fsverity': treeFile });
  const directory = await mkdtemp(join(tmpdir(), 'rack-cache-'));
  const caches: RackCache[] = [];
  const faults: string[] = [];
  t.after(async () => {
    await Promise.all(caches.map((cache) => cache.close()));
    await origin.stop();
    await rm(directory, { recursive: true, force: true });
  });
  return {
    origin,
    directory,
    faults,
    spec: (change = {}) => ({
      url: `${origin.url}/image.raw`,
      sha256: digestOf(treeFile.subarray(0, descriptorBytes)),
      sizeBytes: image.length,
      format: 'Raw',
      ...change,
    }),
    async start(options = {}) {
      const cache = await RackCache.start({
        directory,
        memoryBytes: 64 * mib,
        diskBytes: 1024 * mib,
        clock: systemClock,
        random: seededRandom(1),
        policy: { directories: [directory] },
        originBackoff: quickly,
        patienceMs: 2000,
        onFault: (_digest, error) => faults.push(error instanceof Error ? error.message : String(error)),
        ...options,
      });
      caches.push(cache);
      return cache;
    },
  };
}

async function readWhole({ image }: ImageHandle, stepBytes = 256 * kib): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (let at = 0; at < image.sizeBytes; at += stepBytes) {
    parts.push(await image.read(at, Math.min(stepBytes, image.sizeBytes - at)));
  }
  return Buffer.concat(parts);
}

const until = async (holds: () => boolean): Promise<void> => {
  for (let turn = 0; !holds(); turn++) {
    if (turn > 5000) throw new Error('it never came true');
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
};

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
  assert.equal(handles[0]?.image.originBytes, image.length);
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

test('a corrupted chunk on the way is refused, seen by nobody and fetched again', async (t) => {
  const image = noise(4 * mib);
  const { origin, start, spec, faults } = await bench(t, image);
  const cache = await start();
  const handle = await cache.open(spec());
  let corrupted = 0;
  origin.misbehave = (request, response, body) => {
    if (!request.headers.range || body.length < 1000 || ++corrupted % 2 === 0) return undefined;
    const bad = Buffer.from(body);
    bad[bad.length >> 1] = (bad[bad.length >> 1] ?? 0) ^ 0x40;
    const [, range] = request.headers.range.toString().split('=');
    response
      .writeHead(206, { 'content-length': bad.length, 'content-range': `bytes ${range}/${image.length}` })
      .end(bad);
    return 'Done';
  };
  assert.ok((await readWhole(handle)).equals(image));
  assert.ok(cache.counters.corruptFromOrigin >= 2, `${cache.counters.corruptFromOrigin} chunks`);
  assert.match(faults.join('\n'), /block \d+ from http:.*is not what the digest names/);
});

test('reads wait while the origin is away, and go on when it returns', async (t) => {
  const image = noise(6 * mib);
  const { origin, start, spec } = await bench(t, image);
  const cache = await start();
  const handle = await cache.open(spec());
  await handle.image.read(0, mib);
  await origin.stop();
  const waiting = readWhole(handle);
  await until(() => cache.counters.originFaults > 5);
  await origin.start();
  assert.ok((await waiting).equals(image));
});

test('answers that break off, 503 and other parts than asked for are asked for again', async (t) => {
  const image = noise(8 * mib);
  const { origin, start, spec } = await bench(t, image);
  const handle = await (await start()).open(spec());
  let asked = 0;
  origin.misbehave = (_request, response, body) => {
    asked++;
    if (asked % 5 === 1) {
      response.writeHead(503).end();
      return 'Done';
    }
    if (asked % 5 === 2) {
      response.writeHead(206, {
        'content-length': body.length,
        'content-range': `bytes 0-${body.length - 1}/${image.length}`,
      });
      response.write(body.subarray(0, body.length >> 1), () => response.destroy());
      return 'Done';
    }
    if (asked % 5 === 3) {
      response.writeHead(206, { 'content-length': 3, 'content-range': `bytes 512-514/${image.length}` }).end('abc');
      return 'Done';
    }
    return undefined;
  };
  assert.ok((await readWhole(handle)).equals(image));
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
  assert.equal((origin.sent.get('/image.raw') ?? 0) - 1, image.length, `${sent} before the restart`);
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
  assert.equal(second.counters.corruptOnDisk, 1);
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

test('a tree that the digest does not name is not trusted', async (t) => {
  const image = noise(2 * mib);
  const { origin, start, spec } = await bench(t, image);
  const other = noise(2 * mib, 77);
  origin.files.set('/image.raw.fsverity', treeFileOf(other));
  origin.files.set('/image.raw', other);
  const cache = await start();
  await assert.rejects(cache.open(spec()), (error: unknown) => {
    assert.ok(error instanceof ImageError);
    assert.equal(error.fault, 'DigestMismatch');
    assert.equal(error.found, sha256(other).toString('hex'));
    return true;
  });
  // The same by the digest of the bytes.
  await assert.rejects(cache.open(spec({ sha256: sha256(image).toString('hex') })), { fault: 'DigestMismatch' });
  assert.equal(cache.diskBytes, 0);
  origin.files.set('/image.raw', image);
  await (await cache.open(spec({ sha256: sha256(image).toString('hex') }))).close();
});

test('what cannot be served is refused with a sentence', async (t) => {
  const image = noise(2 * mib);
  const { origin, start, spec, directory } = await bench(t, image);
  const cache = await start({ patienceMs: 50 });
  const refused = async (change: Partial<ImageSpec>, message: RegExp): Promise<void> => {
    await assert.rejects(cache.open(spec(change)), (error: unknown) => {
      assert.ok(error instanceof ImageError, String(error));
      assert.match(error.message, message);
      return true;
    });
  };
  await refused({ url: `${origin.url}/none.raw` }, /none\.raw: the server answered 404/);
  await refused({ url: 'http://127.0.0.1:1/image.raw' }, /127\.0\.0\.1:1.*ECONNREFUSED/);
  await refused({ url: 'ftp://host/image.raw' }, /use http/);
  await refused({ url: 'http://me:secret@host/image.raw' }, /user name or a password/);
  await refused({ url: 'nothing' }, /no URL/);
  await refused({ format: 'Qcow2' }, /Raw, not Qcow2/);
  await refused({ sizeBytes: mib }, /2097152 bytes.*1048576/);
  await refused({ url: 'file:///etc/passwd' }, /not in a directory that this rack serves/);
  await refused({ url: `file://${directory}/../../etc/passwd` }, /not in a directory|does not exist/);
  await refused({ url: `file://${directory}/none` }, /does not exist/);
  origin.files.set('/odd.raw', noise(1000));
  await refused({ url: `${origin.url}/odd.raw` }, /no disk/);
  origin.misbehave = (request, response) => {
    response.writeHead(302, { location: request.url }).end();
    return 'Done';
  };
  await refused({}, /more than 5 redirects/);
});

test('redirects are followed, files are read by path, and prefixes hold', async (t) => {
  const image = noise(2 * mib);
  const { origin, start, spec, directory } = await bench(t, image);
  const cache = await start({ policy: { directories: [directory], prefixes: [`${origin.url}/`] } });
  origin.misbehave = (request, response) => {
    if (!request.url?.startsWith('/old')) return undefined;
    response.writeHead(307, { location: request.url.replace('/old', '/image') }).end();
    return 'Done';
  };
  origin.files.set('/old.raw', image);
  origin.files.set('/old.raw.fsverity', image);
  const handle = await cache.open(spec({ url: `${origin.url}/old.raw` }));
  assert.ok((await readWhole(handle)).equals(image));
  await handle.close();
  await assert.rejects(cache.open(spec({ url: 'http://127.0.0.2/image.raw' })), /takes images from http/);
  const other = noise(mib, 5);
  await writeFile(join(directory, 'local.raw'), other);
  await writeFile(join(directory, 'local.raw.fsverity'), treeFileOf(other));
  const local = await cache.open({
    url: `file://${directory}/local.raw`,
    sha256: digestOf(treeFileOf(other).subarray(0, descriptorBytes)),
    sizeBytes: mib,
    format: 'Raw',
  });
  assert.ok((await readWhole(local)).equals(other));
});

test('a server without ranges is read once, whole, where the disk has room', async (t) => {
  const image = noise(4 * mib);
  const { origin, start, spec } = await bench(t, image);
  origin.ranges = false;
  const cache = await start({ memoryBytes: 16 * mib });
  const handle = await cache.open(spec());
  assert.ok((await readWhole(handle)).equals(image));
  assert.equal(cache.counters.originBytes, image.length + treeFileOf(image).length);
  const named = await cache.open(spec({ sha256: sha256(image).toString('hex') }));
  assert.ok((await readWhole(named)).equals(image));
  await cache.close();
  await origin.stop();
  const second = await start();
  assert.ok((await readWhole(await second.open(spec()))).equals(image));
  await second.close();
  await origin.start();
  const small = await start({ diskBytes: mib });
  await assert.rejects(small.open(spec()), /takes no ranges, and the rack's disk has no room/);
});

/** Many readers, a disk that is too small and rots, and an origin with every fault: what is read is the image, always. */
import assert from 'node:assert/strict';
import { open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import type { CachedImage } from '../../../agent/image/cached-image.ts';
import { type Random, seededRandom } from '../../../controller/runtime/random.ts';
import { bench } from './cache-support.ts';
import { kib, type Misbehaviour, mib, noise } from './support.ts';

const below = (random: Random, limit: number): number => Math.floor(random.next() * limit);

/** Every tenth answer is another fault. */
function faulty(random: Random, imageBytes: number): Misbehaviour {
  return (request, response, body) => {
    const range = String(request.headers.range).split('=')[1];
    const headers = { 'content-length': body.length, 'content-range': `bytes ${range}/${imageBytes}` };
    switch (below(random, 60)) {
      case 0:
        response.writeHead(503).end();
        return 'Done';
      case 1:
        request.socket.destroy();
        return 'Done';
      case 2:
        response.writeHead(206, headers);
        response.write(body.subarray(0, below(random, body.length)), () => response.destroy());
        return 'Done';
      case 3: {
        const bad = Buffer.from(body);
        const at = below(random, bad.length);
        bad[at] = (bad[at] ?? 0) ^ (1 + below(random, 255));
        response.writeHead(206, headers).end(bad);
        return 'Done';
      }
      case 4:
        response.writeHead(200, { 'content-length': 4 }).end('gone');
        return 'Done';
      case 5:
        response.writeHead(302, { location: '/elsewhere.raw' }).end();
        return 'Done';
      default:
        return undefined;
    }
  };
}

async function rot(random: Random, directory: string): Promise<void> {
  const segments = (await readdir(directory)).filter((name) => name.startsWith('segment-'));
  const name = segments[below(random, segments.length)];
  if (name === undefined) return;
  // It may be given up at this moment.
  const handle = await open(join(directory, name), 'r+').catch(() => undefined);
  await handle?.write(noise(100, below(random, 1000)), 0, 100, below(random, mib));
  await handle?.close();
}

async function reader(random: Random, cached: CachedImage, image: Buffer, reads: number): Promise<void> {
  let at = below(random, image.length);
  for (let read = 0; read < reads; read++) {
    if (random.next() < 0.3 || at >= image.length) at = below(random, image.length);
    const length = Math.min(image.length - at, 1 + below(random, 512 * kib));
    const found = await cached.read(at, length);
    assert.ok(found.equals(image.subarray(at, at + length)), `${length} bytes from ${at}`);
    at += length;
  }
}

for (let seed = 1; seed <= 4; seed++) {
  const rots = seed % 2 === 1;
  test(`seed ${seed}, ${rots ? 'a disk that rots' : 'a sound disk'}: nobody reads anything but the image, and the bounds hold`, async (t) => {
    const random = seededRandom(seed);
    const image = noise(24 * mib + 512 * below(random, 1000), seed);
    image.fill(0, 3 * mib, 5 * mib);
    const { origin, start, spec, directory } = await bench(t, image);
    const diskBytes = (4 + below(random, 16)) * mib;
    const options = { memoryBytes: 16 * mib, diskBytes, segmentBytes: mib };
    for (let life = 0; life < 3; life++) {
      origin.misbehave = undefined;
      const cache = await start(options);
      const handles = await Promise.all([cache.open(spec()), cache.open(spec())]);
      origin.misbehave = faulty(random, image.length);
      let isReading = true;
      const watching = (async () => {
        while (isReading) {
          assert.ok(cache.diskBytes <= diskBytes, `${cache.diskBytes} bytes on a disk for ${diskBytes}`);
          assert.ok(cache.memoryBytes <= 16 * mib, `${cache.memoryBytes} bytes of memory`);
          if (rots) await rot(random, join(directory, spec().sha256));
          await new Promise((resolve) => setTimeout(resolve, 2));
        }
      })();
      const readers = Array.from({ length: 6 }, (_, index) =>
        reader(seededRandom(seed * 100 + life * 10 + index), handles[index % 2 === 0 ? 0 : 1].image, image, 60),
      );
      await Promise.all(readers).finally(() => {
        isReading = false;
      });
      await watching;
      if (!rots) assert.equal(cache.counters.corruptOnDisk, 0, 'a block was read while its segment was given up');
      // Closed in the middle of what is read ahead, half of the time without a flush of its own.
      if (random.next() < 0.5) for (const handle of handles) await handle.close();
      await cache.close();
    }
  });
}

/** Tenants write the addresses of images and share the rack's cache: what one of them names must not hold the others, nor a node. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { type Exporter, RackImages } from '../../../agent/drivers/boot/images.ts';
import { RackExporter } from '../../../agent/image/exporter.ts';
import { scaledClock } from '../../../agent/scaled-clock.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { seededRandom } from '../../../controller/runtime/random.ts';
import { settle, VirtualClock } from '../../support/virtual-clock.ts';
import { bench, readWhole, until } from './cache-support.ts';
import { mib, noise, startOrigin, type TestOrigin } from './support.ts';

/** Half a minute in 60 ms. */
const fast = scaledClock(systemClock, 500);
const limited = { timeout: 60_000 };

/** Gives a byte every few milliseconds of each answer that is longer than a descriptor. @returns how many it began */
function trickle(origin: TestOrigin): () => number {
  let begun = 0;
  origin.misbehave = (request, response, body) => {
    if (body.length <= 256) return undefined;
    begun++;
    const [, first = '0', last = '0'] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
    const range = `bytes ${first}-${last}/${origin.files.get(request.url ?? '')?.length}`;
    response.writeHead(206, { 'content-length': body.length, 'content-range': range });
    let sent = 0;
    const timer = setInterval(() => response.write(body.subarray(sent, ++sent)), 5);
    response.on('close', () => clearInterval(timer));
    return 'Done';
  };
  return () => begun;
}

async function anotherOrigin(t: TestContext, { files }: TestOrigin): Promise<TestOrigin> {
  const other = await startOrigin(Object.fromEntries(files));
  t.after(() => other.stop());
  return other;
}

test('a server that sends a byte now and then takes nobody else his image', limited, async (t) => {
  const image = noise(4 * mib);
  const { origin, start, spec } = await bench(t, image);
  const other = await anotherOrigin(t, origin);
  const cache = await start({ clock: fast });
  const mine = await cache.open(spec());
  const his = await cache.open(spec({ url: `${other.url}/image.raw` }));
  trickle(other);
  assert.ok((await readWhole(mine)).equals(image));
  await Promise.all([mine.close(), his.close()]);
});

test('and neither does one that was there first', limited, async (t) => {
  const image = noise(4 * mib);
  const { origin, start, spec } = await bench(t, image);
  const other = await anotherOrigin(t, origin);
  const cache = await start({ clock: fast });
  const his = await cache.open(spec({ url: `${other.url}/image.raw` }));
  trickle(other);
  const mine = await cache.open(spec());
  assert.ok((await readWhole(mine)).equals(image));
  await Promise.all([mine.close(), his.close()]);
});

test('however many places others name, the one that a tenant named is asked', limited, async (t) => {
  const image = noise(4 * mib);
  const { origin, start, spec } = await bench(t, image);
  const other = await anotherOrigin(t, origin);
  const cache = await start();
  const mine = await cache.open(spec());
  const paths = Array.from({ length: 8 }, (_, index) => `/${index}.raw`);
  for (const path of paths) other.files.set(path, image);
  const his = await Promise.all(paths.map((path) => cache.open(spec({ url: other.url + path }))));
  await other.stop();
  assert.ok((await readWhole(mine)).equals(image));
  await Promise.all([mine, ...his].map((handle) => handle.close()));
  await other.start();
});

test('a place that is none fails who named it, and not who asks for the same image elsewhere', limited, async (t) => {
  const image = noise(mib);
  const { start, spec } = await bench(t, image);
  const cache = await start({ patienceMs: 300 });
  const his = cache.open(spec({ url: 'http://127.0.0.1:1/image.raw' }));
  const mine = [cache.open(spec()), cache.open(spec())];
  await assert.rejects(his, /ECONNREFUSED/);
  for (const handle of await Promise.all(mine)) {
    assert.ok((await readWhole(handle)).equals(image));
    await handle.close();
  }
});

test('an image that is still being opened is given up when its export is closed', limited, async (t) => {
  const image = noise(4 * mib);
  const { origin, spec, directory } = await bench(t, image);
  origin.files.delete('/image.raw.fsverity');
  const begun = trickle(origin);
  const exporter = await RackExporter.start({
    ...{ directory, listen: { socketPath: join(directory, 'nbd') }, memoryBytes: 32 * mib, diskBytes: 64 * mib },
    ...{ clock: systemClock, random: seededRandom(1), policy: {}, onError: (error) => assert.fail(String(error)) },
  });
  t.after(() => exporter.stop());
  const opened = exporter.open('n0', spec());
  const failed = assert.rejects(opened, /closed while it was opened/);
  await until(() => begun() > 0);
  await exporter.close('n0');
  await failed;
});

/** Opens nothing until it is closed. */
class StuckExporter implements Exporter {
  readonly #waiting = new Map<string, (error: Error) => void>();
  open(name: string): Promise<never> {
    return new Promise((_, reject) => this.#waiting.set(name, reject));
  }
  async close(name: string): Promise<void> {
    this.#waiting.get(name)?.(new Error('closed'));
    this.#waiting.delete(name);
  }
  read(): Promise<never> {
    return Promise.reject(new Error('not exported'));
  }
  servedBytes(): number {
    return 0;
  }
}

const asked = {
  url: 'https://images.example/a?signature=x',
  sha256: 'a'.repeat(64),
  sizeBytes: mib,
  format: 'Raw',
} as const;

test('a change of the export ends, whatever the server of the image does', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'rack-images-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const clock = new VirtualClock();
  const options = {
    nodes: new Map([['n0', { directory }]]),
    exporter: new StuckExporter(),
    ...{ clock, random: seededRandom(1), changed: () => {}, onError: () => {} },
  };
  const images = new RackImages(options);
  images.open('n0', asked, 'open');
  await settle();
  assert.equal(images.read('n0').exportChange?.status, 'Pending');
  await clock.advance(20 * 60_000);
  assert.deepEqual(images.read('n0').exportChange, {
    token: 'open',
    status: 'Error',
    error: 'the image could not be opened within 20 minutes',
  });
  assert.equal(images.read('n0').exported, 'Closed');
  // An agent that starts again while an image is opened: its node is fenced all the same.
  images.open('n0', asked, 'again');
  await settle();
  const restarted = new RackImages({ ...options, exporter: new StuckExporter() });
  await settle();
  assert.equal(restarted.read('n0').exported, 'Unknown');
  restarted.close('n0', 'close');
  await settle();
  assert.deepEqual(restarted.read('n0').exportChange, { token: 'close', status: 'Done' });
  assert.equal(restarted.read('n0').exported, 'Closed');
  for (const one of [images, restarted]) one.shutdown();
});

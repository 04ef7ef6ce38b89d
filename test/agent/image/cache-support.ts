/** A cache, and an origin of one image. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { ImageSpec } from '../../../agent/image/acquire.ts';
import { type ImageHandle, RackCache, type RackCacheOptions } from '../../../agent/image/cache.ts';
import { descriptorBytes, digestOf } from '../../../agent/image/tree.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { seededRandom } from '../../../controller/runtime/random.ts';
import type { TestIdentity } from '../../support/test-ca.ts';
import { until as untilHolds } from '../../support/until.ts';
import { kib, mib, startOrigin, type TestOrigin, treeFileOf } from './support.ts';

const quickly = { initialMs: 5, factor: 1.5, capMs: 20, jitter: 0.5 };

export interface Bench {
  readonly origin: TestOrigin;
  readonly directory: string;
  readonly faults: string[];
  start(options?: Partial<RackCacheOptions>): Promise<RackCache>;
  spec(change?: Partial<ImageSpec>): ImageSpec;
}

/** An origin with `image` and its tree at /image.raw, by https:// with `tls`, and caches in one directory. */
export async function bench(t: TestContext, image: Buffer, tls?: TestIdentity): Promise<Bench> {
  const treeFile = treeFileOf(image);
  const origin = await startOrigin({ '/image.raw': image, '/image.raw.fsverity': treeFile }, tls);
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

export async function readWhole({ image }: ImageHandle, stepBytes = 256 * kib): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (let at = 0; at < image.sizeBytes; at += stepBytes) {
    parts.push(await image.read(at, Math.min(stepBytes, image.sizeBytes - at)));
  }
  return Buffer.concat(parts);
}

export const until = (holds: () => boolean | Promise<boolean>): Promise<void> => untilHolds(`${holds}`, holds);

/** A process that reads an image through a cache and waits to be killed. */
import process from 'node:process';
import { RackCache } from '../../../agent/image/cache.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { systemRandom } from '../../../controller/runtime/random.ts';

const { directory, spec, bytes } = JSON.parse(process.argv[2] ?? '');
const cache = await RackCache.start({
  directory,
  memoryBytes: 16 << 20,
  diskBytes: 1 << 30,
  clock: systemClock,
  random: systemRandom,
  policy: {},
});
const { image } = await cache.open(spec);
for (let at = 0; at < bytes; at += 1 << 20) await image.read(at, 1 << 20);
process.send?.('read');

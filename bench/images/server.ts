/** The rack's cache behind the NBD server, in a process of its own, so that its CPU can be told from the clients'. */
import process from 'node:process';
import { RackCache } from '../../agent/image/cache.ts';
import { startNbdServer } from '../../agent/image/nbd-server.ts';
import { systemClock } from '../../controller/runtime/clock.ts';
import { systemRandom } from '../../controller/runtime/random.ts';

export interface ServerSettings {
  readonly directory: string;
  readonly socketPath: string;
  readonly memoryBytes: number;
  readonly url: string;
  readonly sha256: string;
  readonly sizeBytes: number;
  readonly exports: readonly string[];
  readonly policyDirectory: string;
}

const settings = JSON.parse(process.argv[2] ?? '') as ServerSettings;
const cache = await RackCache.start({
  directory: settings.directory,
  memoryBytes: settings.memoryBytes,
  diskBytes: 2 * settings.sizeBytes + 1_073_741_824,
  clock: systemClock,
  random: systemRandom,
  policy: { directories: [settings.policyDirectory] },
  onFault: (_digest, error) => process.stderr.write(`${error}\n`),
});
const nbd = await startNbdServer({ listen: { socketPath: settings.socketPath }, clock: systemClock });
for (const name of settings.exports) {
  const { image } = await cache.open({ ...settings, format: 'Raw' });
  nbd.add(name, { image });
}
process.on('message', async (message) => {
  if (message === 'counters') process.send?.({ type: 'counters', counters: cache.counters });
  if (message !== 'end') return;
  await nbd.close();
  await cache.close();
  process.exit(0);
});
process.send?.({ type: 'ready' });

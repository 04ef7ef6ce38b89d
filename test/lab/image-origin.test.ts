/**
 * A guest whose disk is an export of the rack's cache: it sees its image, whatever happens between the rack and the origin.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { RackExporter } from '../../agent/image/exporter.ts';
import { descriptorBytes, digestOf } from '../../agent/image/tree.ts';
import { systemClock } from '../../controller/runtime/clock.ts';
import { systemRandom } from '../../controller/runtime/random.ts';
import { until } from '../agent/image/cache-support.ts';
import { mib, noise, startOrigin, treeFileOf } from '../agent/image/support.ts';
import { bootMs, imageDirectory, imageTools, machineOptions, ownDirectory, startMachine } from './one-machine.ts';

test(
  'corrupted chunks are refused and fetched again, and a guest waits while the origin is away',
  machineOptions(...imageTools),
  async (t) => {
    const { alpha } = await buildLabImages(imageDirectory);
    // Behind the partitions: what no boot reads.
    const tail = noise(24 * mib);
    const bytes = Buffer.concat([await readFile(alpha.path), tail]);
    const treeFile = treeFileOf(bytes);
    const origin = await startOrigin({ '/alpha.raw': bytes, '/alpha.raw.fsverity': treeFile });
    const directory = await ownDirectory(t);
    const socketPath = join(directory, 'nbd');
    const faults: string[] = [];
    const exporter = await RackExporter.start({
      ...{
        directory: join(directory, 'cache'),
        listen: { socketPath },
        policy: {},
        clock: systemClock,
        random: systemRandom,
      },
      ...{ memoryBytes: 16 << 20, diskBytes: 1 << 30 },
      onFault: (_digest, error) => faults.push(String(error)),
      onError: (error) => faults.push(`inside: ${error}`),
    });
    t.after(async () => {
      await exporter.stop();
      await origin.stop();
    });
    const sha256 = digestOf(treeFile.subarray(0, descriptorBytes));
    await exporter.open('n0', { url: `${origin.url}/alpha.raw`, sha256, sizeBytes: bytes.length, format: 'Raw' });
    let answers = 0;
    origin.misbehave = (request, response, body) => {
      if (++answers % 3 !== 0) return undefined;
      const bad = Buffer.from(body);
      bad[bad.length >> 1] = (bad[bad.length >> 1] ?? 0) ^ 1;
      const range = String(request.headers.range).split('=')[1];
      response
        .writeHead(206, { 'content-length': bad.length, 'content-range': `bytes ${range}/${bytes.length}` })
        .end(bad);
      return 'Done';
    };
    // What the guest writes goes elsewhere: the export is read-only.
    const machine = await startMachine(t, [
      '-drive',
      `file=nbd+unix:///n0?socket=${socketPath},format=raw,if=virtio,snapshot=on`,
    ]);
    await machine.console.waitFor(/LAB-UP env=alpha /, bootMs);
    await machine.console.waitFor(/LAB-READY/, bootMs);
    const { counters } = exporter.cache;
    assert.ok(counters.corruptFromOrigin > 0, 'no chunk was corrupted while the guest booted');

    await origin.stop();
    const before = counters.originFaults;
    const skip = alpha.sizeBytes / mib;
    const reading = machine.console.run(`dd if=/dev/vda bs=1M skip=${skip} 2>/dev/null | sha256sum`, bootMs);
    let isAnswered = false;
    void reading.then(() => {
      isAnswered = true;
    });
    await until(() => counters.originFaults >= before + 3);
    assert.ok(!isAnswered, 'a read of what is not there was answered');
    await origin.start();
    const { output } = await reading;
    assert.equal(output.split(/\s/)[0], createHash('sha256').update(tail).digest('hex'));
    assert.deepEqual(
      faults.filter((fault) => fault.startsWith('inside')),
      [],
    );
  },
);

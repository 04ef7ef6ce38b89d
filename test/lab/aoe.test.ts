/**
 * AoE to a running guest: an image of the rack's cache, served by vblade, read by the guest's own aoe driver.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import process from 'node:process';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { startAoeExport } from '../../agent/image/aoe.ts';
import { assembleImage } from '../../agent/image/assemble.ts';
import { RackCache } from '../../agent/image/cache.ts';
import { systemClock } from '../../controller/runtime/clock.ts';
import { systemRandom } from '../../controller/runtime/random.ts';
import { needsRoot } from '../support/programs.ts';
import { bootMs, imageDirectory, imageTools, machineOptions, ownDirectory, startMachine } from './one-machine.ts';

const run = promisify(execFile);
const mac = '52:54:00:00:07:05';
const strangerMac = '52:54:00:00:07:06';
const options = { ...machineOptions(...imageTools), ...needsRoot('ip', 'vblade', 'aoecfg') };

test(
  'a guest reads every byte of its image over AoE, cannot write, and a guest that is not listed sees no target',
  options,
  async (t) => {
    const { alpha, beta } = await buildLabImages(imageDirectory);
    const directory = await ownDirectory(t);
    const cache = await RackCache.start({
      directory: join(directory, 'cache'),
      memoryBytes: 32 << 20,
      diskBytes: 1 << 30,
      clock: systemClock,
      random: systemRandom,
      policy: { directories: [imageDirectory] },
    });
    t.after(() => cache.close());
    const { image } = await cache.open({ ...beta, url: `file://${beta.path}`, format: 'Raw' });
    const file = join(directory, 'assembled.raw');
    await assembleImage(image, file, new AbortController().signal);

    const netns = `bvaoe-${process.pid}`;
    const inside = (...words: string[]): Promise<unknown> => run('ip', ['netns', 'exec', netns, ...words]);
    await run('ip', ['netns', 'add', netns]);
    t.after(() => run('ip', ['netns', 'del', netns]));
    await inside('ip', 'link', 'add', 'br0', 'type', 'bridge');
    for (const tap of ['tap0', 'tap1']) {
      await inside('ip', 'tuntap', 'add', tap, 'mode', 'tap');
      await inside('ip', 'link', 'set', tap, 'master', 'br0', 'up');
    }
    await inside('ip', 'link', 'set', 'br0', 'up');
    const { digest, sizeBytes } = image;
    const what = { file, shelf: 3, slot: 1, bridge: 'br0', netns, macs: [mac], digest, sizeBytes, generation: 1 };
    const target = await startAoeExport(what);
    t.after(() => target.close());

    const guest = async (
      tap: string,
      address: string,
    ): Promise<Awaited<ReturnType<typeof startMachine>>['console']> => {
      const disk = join(directory, `${tap}.raw`);
      await copyFile(alpha.path, disk);
      const network = [
        '-netdev',
        `tap,id=n0,ifname=${tap},script=no,downscript=no`,
        '-device',
        `virtio-net-pci,netdev=n0,romfile=,mac=${address}`,
      ];
      const machine = await startMachine(t, ['-drive', `file=${disk},format=raw,if=virtio`, ...network], netns);
      await machine.console.waitFor(/LAB-READY/, bootMs);
      const loaded = await machine.console.run('insmod /lib/modules/aoe.ko', bootMs);
      assert.equal(loaded.status, 0, loaded.output);
      return machine.console;
    };
    const reader = await guest('tap0', mac);
    const found = await reader.run(
      'n=0; until [ -b /dev/etherd/e3.1 ] || [ $n -gt 300 ]; do usleep 100000; n=$((n+1)); done; sha256sum /dev/etherd/e3.1',
      bootMs,
    );
    assert.equal(found.output.split(/\s/)[0], beta.sha256, found.output);
    const written = await reader.run('dd if=/dev/zero of=/dev/etherd/e3.1 bs=512 count=8 conv=fsync', bootMs);
    assert.notEqual(written.status, 0, 'a read-only target was written to');

    const stranger = await guest('tap1', strangerMac);
    const seen = await stranger.run('usleep 3000000; ls /dev/etherd | grep "^e[0-9]"', bootMs);
    assert.equal(seen.output, '', 'a guest that is not listed sees the target');

    await target.close();
    const gone = await reader.run(
      'echo 3 >/proc/sys/vm/drop_caches; (dd if=/dev/etherd/e3.1 of=/dev/null bs=64k count=1 skip=3 & sleep 3; kill -0 $! && echo waits)',
      bootMs,
    );
    assert.match(gone.output, /waits/, 'a read without its target was answered');
  },
);

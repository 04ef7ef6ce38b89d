/**
 * The trusted image against the agent's side of it: it comes up, attests, wipes its disks so that nothing of them can be read
 * back, and reports what the machine is made of.
 */
import assert from 'node:assert/strict';
import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { patternedBytes } from '../../agent/drivers/qemu/images/pattern.ts';
import { imageDirectory, imageTools, machineOptions, ownDirectory, startMachine } from './one-machine.ts';
import { trustedServer } from './trusted-server.ts';

const mebibyte = 1 << 20;
const serials = ['n0-sda', 'n0-sdb', 'n0-sdc'];

async function isBlank(path: string): Promise<boolean> {
  const file = await open(path);
  try {
    for (;;) {
      const { bytesRead, buffer } = await file.read(Buffer.alloc(mebibyte), 0, mebibyte);
      if (bytesRead === 0) return true;
      if (!buffer.subarray(0, bytesRead).equals(Buffer.alloc(bytesRead))) return false;
    }
  } finally {
    await file.close();
  }
}

test('the trusted image attests, wipes every disk and checks the machine', machineOptions(...imageTools), async (t) => {
  const { trusted } = await buildLabImages(imageDirectory);
  const { boots, port, up } = await trustedServer(t, 'n0');
  const directory = await ownDirectory(t);
  const disks: string[] = [];
  const drives: string[] = [];
  // The second disk cannot drop blocks, and the third only says so: Quick has to overwrite both.
  for (const [name, options, says] of [
    ['sda', 'discard=unmap', 'discard=on'],
    ['sdb', 'discard=ignore', 'discard=off'],
    ['sdc', 'discard=ignore', 'discard=on'],
  ]) {
    const path = join(directory, `${name}.raw`);
    await writeFile(path, patternedBytes(String(name), 0, 48 * mebibyte));
    disks.push(path);
    drives.push('-drive', `file=${path},format=raw,if=none,id=${name},${options}`);
    drives.push('-device', `virtio-blk-pci,drive=${name},serial=n0-${name},${says},write-zeroes=off`);
  }
  const { kernelArguments } = boots.begin('n0');
  const control = '52:54:00:00:07:02';
  const machine = await startMachine(t, [
    ...['-kernel', trusted.kernel, '-initrd', trusted.initrd],
    ...[
      '-append',
      `console=ttyS0 quiet bitvisor.control=${control} bitvisor.agent=http://10.0.2.2:${port}/trusted ${kernelArguments.join(' ')}`,
    ],
    ...['-netdev', 'user,id=n0', '-device', `virtio-net-pci,netdev=n0,romfile=,mac=${control}`, ...drives],
  ]);
  await Promise.race([up, machine.ended.then(() => assert.fail('the machine ended'))]);
  assert.deepEqual(
    boots.facts('n0')?.disks.map(({ serial, sizeBytes }) => ({ serial, sizeBytes })),
    serials.map((serial) => ({ serial, sizeBytes: 48 * mebibyte })),
  );

  await boots.attest('n0', 'c0ffee');
  assert.deepEqual(boots.read('n0'), {
    up: true,
    nonce: 'c0ffee',
    attestation: { method: 'Token' },
    wiped: [],
    checked: false,
  });

  await assert.rejects(boots.wipe('n0', 'Crypto'), /not wiped: n0-sda: this image cannot do Crypto/);
  assert.equal(await isBlank(disks[0] ?? ''), false);
  await boots.wipe('n0', 'Quick');
  assert.deepEqual(boots.read('n0').wiped, serials);
  for (const path of disks) assert.equal(await isBlank(path), true, path);
  await boots.wipe('n0', 'Full');
  assert.deepEqual(boots.read('n0').wiped, serials);

  await assert.rejects(boots.check('n0', { cores: 2 }), /1 cores instead of 2/);
  await boots.check('n0', {
    cores: 1,
    minMemoryBytes: 64 * mebibyte,
    disks: serials.map((serial) => ({ serial, sizeBytes: 48 * mebibyte })),
    links: [control],
  });
  assert.equal(boots.read('n0').checked, true);
  assert.doesNotMatch(machine.console.text, new RegExp(String(kernelArguments[1]).replace(/^.*=/, '')));
});

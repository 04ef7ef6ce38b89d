/**
 * The lab's guests boot, say what they are, take what a machine's boot adds, and keep what they write.
 */
import assert from 'node:assert/strict';
import { copyFile, open, readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { readLayout, type TenantData, tenantWrites } from '../../agent/drivers/boot/tenant-data.ts';
import { buildLabImages, type LabImage } from '../../agent/drivers/qemu/images/build.ts';
import { bootMs, imageDirectory, imageTools, machineOptions, ownDirectory, startMachine } from './one-machine.ts';

const nobody: TenantData = { kernelArguments: [], hostname: 'n0', sshKeys: [], instance: 'e1' };

async function ownDisk(t: TestContext, image: LabImage, data: TenantData): Promise<string> {
  const path = join(await ownDirectory(t), 'disk.raw');
  await copyFile(image.path, path);
  const file = await open(path, 'r+');
  try {
    const { buffer } = await file.read(Buffer.alloc(512), 0, 512, 512);
    for (const { offset, bytes } of tenantWrites(readLayout(buffer, image.sizeBytes), data)) {
      await file.write(bytes, 0, bytes.length, offset);
    }
  } finally {
    await file.close();
  }
  return path;
}

const disk = (path: string): string[] => ['-drive', `file=${path},format=raw,if=virtio`];
const port = [
  '-netdev',
  'user,id=n0,restrict=on',
  '-device',
  'virtio-net-pci,netdev=n0,romfile=,mac=52:54:00:00:07:01',
];

test(
  'an environment reports itself, its arguments and its address, and keeps them on the local disk',
  machineOptions(...imageTools),
  async (t) => {
    const { alpha } = await buildLabImages(imageDirectory);
    const data: TenantData = {
      kernelArguments: ['tenant=one', 'lab.note=a=b'],
      hostname: 'r00n07',
      sshKeys: ['ssh-ed25519 AAAA somebody'],
      instance: 'e7',
      userData: '#!/bin/sh\necho "ran as $(id -u)" >>~/first-boot\n',
    };
    const path = await ownDisk(t, alpha, data);

    for (const boot of ['first', 'second']) {
      const machine = await startMachine(t, [...disk(path), ...port]);
      const [, address] = await machine.console.waitFor(
        /LAB-UP env=alpha mac=52:54:00:00:07:01 ip=(\S+) uptime=\S+ args=.*lab\.env=alpha.* tenant=one lab\.note=a=b/,
        bootMs,
      );
      assert.equal(address, '10.99.7.1');
      await machine.console.waitFor(/LAB-READY/, bootMs);
      const page = await machine.console.run('wget -q -O - http://127.0.0.1/cgi-bin/info', bootMs);
      assert.equal(page.status, 0, page.output);
      assert.match(page.output, /^env=alpha$/m);
      assert.match(page.output, /^hostname=r00n07$/m);
      assert.match(page.output, /^args=.*lab\.env=alpha.* tenant=one lab\.note=a=b( |$)/m);
      const notes = await machine.console.run('cat ~/first-boot ~/.ssh/authorized_keys; sync', bootMs);
      assert.equal(notes.output, 'ran as 0\nssh-ed25519 AAAA somebody', `${boot} boot`);
      assert.equal((await machine.console.run('exit 3', bootMs)).status, 3);
      await machine.off();
    }
  },
);

test('root in a guest sends whatever frames it likes, and answers DHCP', machineOptions(...imageTools), async (t) => {
  const { beta } = await buildLabImages(imageDirectory);
  const path = await ownDisk(t, beta, nobody);
  const dump = join(await ownDirectory(t), 'frames');
  const machine = await startMachine(t, [
    ...disk(path),
    ...port,
    '-object',
    `filter-dump,id=dump,netdev=n0,file=${dump}`,
  ]);
  await machine.console.waitFor(/LAB-READY/, bootMs);
  const sent = await machine.console.run(
    'send-frames 02:00:00:00:be:ef ff:ff:ff:ff:ff:ff 10.66.0.1 10.66.0.2 5',
    bootMs,
  );
  assert.equal(sent.status, 0, sent.output);
  const rogue = 'answer-dhcp 10.99.66.1 10.99.66.9 >/run/dhcpd.log 2>&1 & sleep 2; pidof udhcpd';
  assert.match((await machine.console.run(rogue, bootMs)).output, /^\d+$/);
  // Destination, source, IPv4.
  const forged = Buffer.from('ffffffffffff02000000beef0800', 'hex');
  const frames = await readFile(dump);
  let seen = 0;
  for (let at = frames.indexOf(forged); at >= 0; at = frames.indexOf(forged, at + 1)) seen += 1;
  assert.equal(seen, 5);
});

test('the power button ends an environment in order', machineOptions(...imageTools), async (t) => {
  const { beta } = await buildLabImages(imageDirectory);
  const path = await ownDisk(t, beta, nobody);
  const monitor = join(await ownDirectory(t), 'monitor');
  const machine = await startMachine(t, [...disk(path), ...port, '-monitor', `unix:${monitor},server=on,wait=off`]);
  await machine.console.waitFor(/LAB-UP env=beta /, bootMs);
  await machine.console.waitFor(/LAB-READY/, bootMs);
  await machine.console.run('until [ -e /run/button ]; do usleep 50000; done', bootMs);
  const hmp = connect(monitor);
  hmp.write('system_powerdown\n');
  await machine.console.waitFor(/Requesting system poweroff/, bootMs);
  await machine.ended;
  hmp.destroy();
});

test(
  'a guest that is no operating system reads its disk whole and counts its boots',
  machineOptions(...imageTools),
  async (t) => {
    const { other } = await buildLabImages(imageDirectory);
    const path = await ownDisk(t, other, nobody);
    for (const boots of ['00000001', '00000002']) {
      const machine = await startMachine(t, disk(path));
      await machine.console.waitFor(new RegExp(`OTHER-UP boots=${boots}`), bootMs);
      const [, sum] = await machine.console.waitFor(/OTHER-SUM ([0-9a-f]{8})/, bootMs);
      assert.equal(sum, other.sum);
      await machine.off();
    }
  },
);

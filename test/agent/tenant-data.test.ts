/** What a machine's boot writes into an image: only where the image keeps a place for it, and only what fits. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { layoutSector, readLayout, type TenantData, tenantWrites } from '../../agent/drivers/boot/tenant-data.ts';

const layout = { bootEntry: { offset: 4096, length: 4096 }, seed: { offset: 8192, length: 1024 } };
const imageBytes = 1 << 20;
const data: TenantData = {
  kernelArguments: ['a=1', 'b'],
  hostname: 'n0',
  sshKeys: ['ssh-ed25519 AAAA'],
  instance: '7',
};

test('the layout comes back from the sector, and writes go to its places alone', () => {
  assert.deepEqual(readLayout(layoutSector(layout), imageBytes), layout);
  const writes = tenantWrites(layout, { ...data, userData: '#!/bin/sh\n' });
  assert.deepEqual(
    writes.map(({ offset, bytes }) => [offset, bytes.length]),
    [
      [4096, 4096],
      [8192, 1024],
    ],
  );
  assert.match(writes[0]?.bytes.toString() ?? '', /^# [^\n]+\nAPPEND a=1 b\n#+$/);
  assert.match(
    writes[1]?.bytes.toString() ?? '',
    /^BITVISOR-SEED 59\nhostname=n0\ninstance=7\nssh-key=ssh-ed25519 AAAA\n\n#!\/bin\/sh\n\0+$/,
  );
});

test('an image without a layout is left alone, and takes no arguments', () => {
  assert.equal(readLayout(Buffer.alloc(512), imageBytes), undefined);
  assert.deepEqual(tenantWrites(undefined, { ...data, kernelArguments: [] }), []);
  assert.throws(() => tenantWrites(undefined, data), /no boot entry/);
  assert.throws(
    () => tenantWrites(undefined, { ...data, kernelArguments: [], userData: 'x' }),
    /no place for user data/,
  );
});

test('a layout that points outside is refused', () => {
  for (const wrong of [
    { offset: imageBytes - 1, length: 4096 },
    { offset: 0, length: 4096 },
    { offset: 2 ** 52, length: 1 },
    { offset: 4096, length: 2 << 20 },
  ]) {
    assert.throws(() => readLayout(layoutSector({ ...layout, seed: wrong }), imageBytes), /outside of its/);
  }
});

test('what does not fit, or would break a line, is refused and never cut', () => {
  const refused: [Partial<TenantData>, RegExp][] = [
    [{ kernelArguments: Array.from({ length: 64 }, () => 'x'.repeat(64)) }, /the kernel takes/],
    [{ kernelArguments: ['a\nAPPEND b'] }, /no command line carries/],
    [{ hostname: 'n0\nssh-key=evil' }, /line break/],
    [{ sshKeys: ['ssh-ed25519 AAAA\nx'] }, /line break/],
    [{ userData: 'ü'.repeat(1000) }, /do not fit/],
  ];
  for (const [change, reason] of refused) assert.throws(() => tenantWrites(layout, { ...data, ...change }), reason);
});

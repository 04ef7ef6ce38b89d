import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { parseTreeFile } from '../../../agent/image/acquire.ts';
import {
  DigestTree,
  decodeDescriptor,
  descriptorBytes,
  digestOf,
  encodeDescriptor,
  TreeLayout,
} from '../../../agent/image/tree.ts';
import { needs } from '../../support/programs.ts';
import { kib, mib, noise, treeFileOf } from './support.ts';

test('tree and digest are those of fsverity', needs('fsverity'), (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'tree-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const path = (name: string): string => join(directory, name);
  for (const [bytes, blockBytes] of [
    [512, 4 * kib],
    [4 * kib, 4 * kib],
    [mib + 512, 4 * kib],
    // Three levels.
    [70 * mib, 4 * kib],
    [3 * mib + 512, 64 * kib],
    [mib, mib],
  ] as const) {
    const image = noise(bytes, bytes);
    writeFileSync(path('image'), image);
    const { stdout, stderr } = spawnSync(
      'fsverity',
      [
        'digest',
        '--compact',
        `--block-size=${blockBytes}`,
        `--out-merkle-tree=${path('tree')}`,
        `--out-descriptor=${path('descriptor')}`,
        path('image'),
      ],
      { encoding: 'utf8' },
    );
    const ours = treeFileOf(image, blockBytes);
    assert.equal(digestOf(ours.subarray(0, descriptorBytes)), stdout.trim(), `${bytes} in ${blockBytes}: ${stderr}`);
    assert.ok(Buffer.concat([readFileSync(path('descriptor')), readFileSync(path('tree'))]).equals(ours));
  }
});

test('a tree verifies its own image block by block, and nothing else', () => {
  const image = noise(600 * kib + 512, 7);
  image.fill(0, 128 * kib, 256 * kib);
  const tree = parseTreeFile(treeFileOf(image, 4 * kib));
  const { layout } = tree;
  assert.equal(layout.levels.length, 2);
  for (let block = 0; block < layout.dataBlocks; block++) {
    const bytes = Buffer.from(image.subarray(block * 4 * kib, block * 4 * kib + layout.lengthOf(block)));
    assert.ok(tree.verifies(block, bytes), `block ${block}`);
    assert.equal(
      tree.isZero(block),
      bytes.every((byte) => byte === 0),
      `block ${block}`,
    );
    bytes[block % bytes.length] = (bytes[block % bytes.length] ?? 0) ^ 1;
    assert.ok(!tree.verifies(block, bytes), `changed block ${block}`);
    assert.ok(!tree.verifies(block, bytes.subarray(1)));
  }
});

test('a block of the tree cannot stand for a block of the image', () => {
  const file = treeFileOf(noise(600 * kib, 3), 4 * kib);
  const tree = parseTreeFile(file);
  const start = tree.layout.levels[0]?.start ?? 0;
  const treeBlock = file.subarray(descriptorBytes + start * 4 * kib, descriptorBytes + (start + 1) * 4 * kib);
  for (let block = 0; block < tree.layout.dataBlocks; block++) assert.ok(!tree.verifies(block, treeBlock));
  // An image of the tree's blocks with the same root needs another size, which is another descriptor.
  const other = encodeDescriptor({ sizeBytes: tree.layout.treeBytes, blockBytes: 4 * kib, root: tree.descriptor.root });
  assert.notEqual(digestOf(other), digestOf(file.subarray(0, descriptorBytes)));
});

test('any changed byte of a tree file is refused or changes the digest', () => {
  const file = treeFileOf(noise(600 * kib, 5), 4 * kib);
  fc.assert(
    fc.property(fc.nat(file.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
      const changed = Buffer.from(file);
      changed[at] = (changed[at] ?? 0) ^ change;
      if (at < descriptorBytes) {
        assert.notEqual(digestOf(changed.subarray(0, descriptorBytes)), digestOf(file.subarray(0, descriptorBytes)));
      } else {
        assert.throws(() => parseTreeFile(changed), { name: 'TreeError' });
      }
    }),
  );
});

test('descriptors come back as they were; hostile ones are refused', () => {
  const good = encodeDescriptor({ sizeBytes: 4 * mib, blockBytes: 64 * kib, root: noise(32) });
  assert.deepEqual(decodeDescriptor(good), { sizeBytes: 4 * mib, blockBytes: 64 * kib, root: noise(32) });
  const hostile = (change: (bytes: Buffer) => void): Buffer => {
    const bytes = Buffer.from(good);
    change(bytes);
    return bytes;
  };
  const refused: readonly [string, Buffer, RegExp][] = [
    ['short', good.subarray(1), /256 bytes/],
    ['another version', hostile((bytes) => bytes.writeUInt8(2, 0)), /version 1/],
    ['SHA-512', hostile((bytes) => bytes.writeUInt8(2, 1)), /SHA-256/],
    ['blocks of 2^255', hostile((bytes) => bytes.writeUInt8(255, 2)), /power of two/],
    ['a salt', hostile((bytes) => bytes.writeUInt8(8, 3)), /salt/],
    ['reserved', hostile((bytes) => bytes.writeUInt8(1, 5)), /reserved/],
    ['reserved at the end', hostile((bytes) => bytes.writeUInt8(1, 255)), /reserved/],
    ['a size of no disk', hostile((bytes) => bytes.writeBigUInt64LE(511n, 8)), /multiple of 512/],
    ['a size without end', hostile((bytes) => bytes.writeBigUInt64LE(2n ** 64n - 512n, 8)), /multiple of 512/],
  ];
  for (const [what, bytes, message] of refused) assert.throws(() => decodeDescriptor(bytes), message, what);
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 0, maxLength: 300 }), (bytes) => {
      try {
        decodeDescriptor(Buffer.from(bytes));
      } catch (error) {
        assert.equal((error as Error).name, 'TreeError');
      }
    }),
  );
});

test('an image of one block needs no tree, and of 1 TiB one of 0.05 %', () => {
  assert.equal(new TreeLayout({ sizeBytes: 512, blockBytes: 64 * kib }).treeBytes, 0);
  const image = noise(512);
  const tree = parseTreeFile(treeFileOf(image));
  assert.ok(tree.verifies(0, image));
  const large = new TreeLayout({ sizeBytes: 2 ** 40, blockBytes: 64 * kib });
  assert.equal(large.levels.length, 3);
  assert.ok(large.treeBytes / 2 ** 40 < 0.0005);
  assert.throws(() => DigestTree.from(tree.descriptor, Buffer.alloc(1)), /1 bytes/);
});

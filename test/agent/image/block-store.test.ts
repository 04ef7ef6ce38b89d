import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { BlockStore, DiskBudget } from '../../../agent/image/block-store.ts';
import { kib, noise } from './support.ts';

const blockBytes = 4 * kib;
const block = (index: number): Buffer => noise(blockBytes, index + 1);

/** 64 blocks in segments of 4. */
async function storeIn(
  t: TestContext,
  limitBlocks: number,
): Promise<() => Promise<{ store: BlockStore; budget: DiskBudget }>> {
  const directory = await mkdtemp(join(tmpdir(), 'blocks-'));
  t.after(() => rm(directory, { recursive: true }));
  return async () => {
    const budget = new DiskBudget(limitBlocks * blockBytes);
    const store = await BlockStore.open({ directory, blocks: 64, blockBytes, budget, segmentBytes: 4 * blockBytes });
    t.after(() => store.close());
    return { store, budget };
  };
}

test('a segment is not given up while it is written or read', async (t) => {
  const { store } = await (await storeIn(t, 4))();
  const writing = store.write(0, [block(0), block(1), block(2), block(3)]);
  assert.equal(await store.write(4, [block(4)]), 0, 'there was room in a segment that is being written');
  assert.equal(await writing, 4);
  const reading = store.read(0, [blockBytes]);
  assert.equal(await store.write(4, [block(4)]), 0, 'there was room in a segment that is being read');
  assert.ok((await reading)[0]?.equals(block(0)));
  assert.equal(await store.write(4, [block(4)]), 1);
  assert.ok(!store.has(0) && store.has(4));
});

test('a segment that is given up and written again at once is there after a restart', async (t) => {
  const open = await storeIn(t, 2);
  const { store, budget } = await open();
  for (let turn = 0; turn < 20; turn++) {
    assert.equal(await store.write(0, [block(0)]), 1);
    assert.equal(await store.write(4, [block(4)]), 1);
    // The first makes room by giving up the segment that the second writes.
    const written = await Promise.all([store.write(8, [block(8)]), store.write(0, [block(0)])]);
    assert.deepEqual(written, [1, 1]);
    await store.flush();
    const { store: again } = await open();
    for (const index of [0, 8]) {
      assert.ok(again.has(index), `block ${index} in turn ${turn}`);
      assert.ok((await again.read(index, [blockBytes]))[0]?.equals(block(index)));
    }
  }
  assert.equal(budget.usedBytes, 2 * blockBytes);
});

test('segments of images that nobody has open go first, then the least recently used; a pinned one that is open never', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'blocks-'));
  t.after(() => rm(directory, { recursive: true }));
  const budget = new DiskBudget(3 * blockBytes);
  const named = async (name: string): Promise<BlockStore> => {
    const store = await BlockStore.open({
      directory: join(directory, name),
      blocks: 64,
      blockBytes,
      budget,
      segmentBytes: blockBytes,
    });
    t.after(() => store.close());
    store.isOpen = true;
    return store;
  };
  const [one, two] = [await named('one'), await named('two')];
  for (const [store, index] of [
    [one, 0],
    [two, 0],
    [one, 1],
  ] as const)
    assert.equal(await store.write(index, [block(index)]), 1);
  two.isOpen = false;
  assert.equal(await one.write(2, [block(2)]), 1);
  assert.ok(!two.has(0) && one.has(0) && one.has(1));
  await one.read(0, [blockBytes]);
  assert.equal(await one.write(3, [block(3)]), 1);
  assert.ok(one.has(0) && !one.has(1), 'the one that was read last went');
  one.isPinned = true;
  assert.equal(await two.write(5, [block(5)]), 0);
  one.isOpen = false;
  assert.equal(await two.write(5, [block(5)]), 1);
});

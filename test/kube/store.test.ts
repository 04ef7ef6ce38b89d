import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { KubeObject } from '../../controller/kube/port.ts';
import { compareResourceVersions } from '../../controller/kube/resource-version.ts';
import { createStore, keyString, parseKey } from '../../controller/kube/store.ts';
import { silentLogger } from '../../controller/runtime/log.ts';

interface Item extends KubeObject {
  owner?: string;
  ballast?: string;
}

function item(name: string, resourceVersion: number, owner = '', extra: Partial<Item['metadata']> = {}): Item {
  return { metadata: { name, uid: name, resourceVersion: String(resourceVersion), ...extra }, owner };
}

function setUp() {
  const { reader, writer } = createStore<Item>({
    log: silentLogger,
    indexes: { owner: ({ owner }) => (owner === undefined || owner === '' ? [] : [owner]) },
    strip: ({ ballast: _ballast, ...rest }) => rest,
  });
  const changes: string[] = [];
  reader.onChange((key, old, current) => {
    changes.push(`${key} ${old?.metadata.resourceVersion ?? '-'}>${current?.metadata.resourceVersion ?? '-'}`);
  });
  const list = (resourceVersion: number, ...items: Item[]): void => {
    writer.beginList();
    writer.addPage(items, String(resourceVersion));
    writer.endList(String(resourceVersion));
  };
  const names = (owner: string): string[] => reader.byIndex('owner', owner).map((each) => each.metadata.name);
  return { reader, writer, changes, list, names };
}

describe('store', () => {
  it('is synced after the first complete list, and tells what a relist no longer has', async () => {
    const { reader, writer, changes, list } = setUp();
    const synced = reader.waitForSync();
    writer.beginList();
    writer.addPage([item('a', 1)], '5');
    assert.equal(reader.synced, false);
    list(5, item('a', 1), item('b', 2));
    await synced;
    list(9, item('b', 8));
    assert.deepEqual(changes, ['a ->1', 'b ->2', 'b 2>8', 'a 1>-']);
    assert.equal(reader.size, 1);
  });

  it('rejects a wait for sync that is given up', async () => {
    const giveUp = new AbortController();
    const waiting = setUp().reader.waitForSync(giveUp.signal);
    giveUp.abort(new Error('enough'));
    await assert.rejects(waiting, /enough/);
  });

  it('shows its own write at once and no older state after it', () => {
    const { reader, writer, changes, list } = setUp();
    list(5, item('a', 1));
    reader.noteWrite(item('a', 9));
    writer.apply(item('a', 7));
    assert.equal(reader.getByKey('a')?.metadata.resourceVersion, '9');
    writer.apply(item('a', 9));
    assert.deepEqual(changes, ['a ->1', 'a 1>9'], 'the watch bringing our own write is no change');
  });

  it('keeps what was written after a list was taken, and drops what was deleted before it', () => {
    const { reader, list } = setUp();
    list(5);
    reader.noteWrite(item('new', 12));
    list(10);
    assert.notEqual(reader.getByKey('new'), undefined);
    list(15);
    assert.equal(reader.getByKey('new'), undefined);
  });

  it('does not bring back an object whose deletion the watch has shown before a slow answer came', () => {
    const { reader, writer, list } = setUp();
    list(5, item('a', 1));
    writer.remove(item('a', 8));
    reader.noteWrite(item('a', 7));
    assert.equal(reader.getByKey('a'), undefined);
  });

  it('removes at once what lost its last finalizer by our hand, whatever the watch still has to say', () => {
    const { reader, writer, list } = setUp();
    list(5, item('a', 1));
    reader.noteWrite(item('a', 9, '', { deletionTimestamp: '2026-01-01T00:00:00Z', finalizers: [] }));
    assert.equal(reader.getByKey('a'), undefined);
    writer.apply(item('a', 8, '', { deletionTimestamp: '2026-01-01T00:00:00Z', finalizers: ['x/y'] }));
    assert.equal(reader.getByKey('a'), undefined);
    writer.remove(item('a', 10));
    writer.apply(item('a', 11));
    assert.equal(
      reader.getByKey('a')?.metadata.resourceVersion,
      '11',
      'an object of the same name made later is shown',
    );
  });

  it('ignores a deletion that is older than the object of the same name made since', () => {
    const { reader, writer, list } = setUp();
    list(5, item('a', 1));
    reader.noteWrite(item('a', 9));
    writer.remove(item('a', 8));
    assert.equal(reader.getByKey('a')?.metadata.resourceVersion, '9');
  });

  it('takes the list of a server that was restored from a backup as it is', () => {
    const { reader, writer, list } = setUp();
    list(100, item('a', 90), item('b', 95));
    writer.progress('200');
    list(50, item('a', 40));
    assert.equal(reader.getByKey('a')?.metadata.resourceVersion, '40');
    assert.equal(reader.getByKey('b'), undefined);
    writer.apply(item('a', 51));
    assert.equal(reader.getByKey('a')?.metadata.resourceVersion, '51');
  });

  it('takes the list of a server that was restored from a backup and goes on counting versions', () => {
    const { reader, writer, list } = setUp();
    list(100, item('a', 90), item('b', 95), item('c', 96));
    writer.apply(item('a', 110));
    reader.noteWrite(item('b', 130));
    list(121, item('a', 90), item('b', 95), item('c', 96));
    assert.equal(
      reader.getByKey('a')?.metadata.resourceVersion,
      '90',
      'version 110 is older than the list and not in it',
    );
    assert.equal(reader.getByKey('b')?.metadata.resourceVersion, '130', 'version 130 was written after the list');
    writer.apply(item('a', 122));
    assert.equal(reader.getByKey('a')?.metadata.resourceVersion, '122');
  });

  it('keeps indexes in step with every change', () => {
    const { reader, writer, list, names } = setUp();
    list(5, item('a', 1, 'x'), item('b', 2, 'x'));
    assert.deepEqual(names('x').sort(), ['a', 'b']);
    reader.noteWrite(item('a', 6, 'y'));
    assert.deepEqual([names('x'), names('y')], [['b'], ['a']]);
    writer.remove(item('b', 7));
    assert.equal(reader.countByIndex('owner', 'x'), 0);
    assert.throws(() => reader.byIndex('colour', 'red'), /no index colour.*owner/);
  });

  it('keeps only what strip leaves', () => {
    const { reader, list } = setUp();
    list(5, { ...item('a', 1), ballast: 'heavy' });
    assert.deepEqual(reader.getByKey('a'), item('a', 1));
  });

  it('tells the other listeners when one throws', () => {
    const { reader, changes, list } = setUp();
    const later: string[] = [];
    reader.onChange(() => {
      throw new Error('a bug');
    });
    const stop = reader.onChange((key) => later.push(key));
    list(5, item('a', 1));
    stop();
    list(6);
    assert.deepEqual([later, changes.length], [['a'], 2]);
  });

  it('writes keys that can be read back', () => {
    for (const key of [{ name: 'a' }, { namespace: 'n', name: 'a' }]) assert.deepEqual(parseKey(keyString(key)), key);
  });
});

describe('resource versions', () => {
  it('compares by number, beyond what a double can hold, and refuses what is none', () => {
    assert.ok(compareResourceVersions('9', '10') < 0);
    assert.ok(
      compareResourceVersions('340282366920938463463374607431768211455', '340282366920938463463374607431768211454') > 0,
    );
    assert.equal(compareResourceVersions('7', '7'), 0);
    for (const odd of ['', '01', '1a', '-1']) assert.throws(() => compareResourceVersions('1', odd), /KEP-5504/);
  });
});

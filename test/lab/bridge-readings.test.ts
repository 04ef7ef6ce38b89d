/** What the bridge fabric reads back from the kernel, also when something else changes it, and how long a change takes. */
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { bridgeFabric } from '../../agent/drivers/fabric/bridge.ts';
import { counterpart } from '../support/counterpart.ts';
import { FabricRoom, macOf, nodes, portOf } from './support/fabric-room.ts';
import { broadcast, frame, textHex } from './support/packets.ts';
import { roomIsPossible, roomRemedy } from './support/switch-room.ts';

describe(
  'readings of the bridge fabric',
  counterpart('a kernel that lets tests make networks', roomIsPossible(), roomRemedy),
  () => {
    let hall: FabricRoom;
    before(async () => {
      hall = await FabricRoom.open('readings');
    });
    after(() => hall.close());
    beforeEach(async () => {
      await hall.twoTenants();
      hall.faults.length = 0;
    });

    test('egress without a way to keep it is refused with a sentence', async () => {
      const bare = bridgeFabric({
        ...hall.options(),
        table: 'bare',
        nodes: new Map([['x', [{ ...portOf('a1'), ifname: 'none0' }]]]),
        gateway: undefined as never,
      });
      bare.set('x', 'Data', 'allocation/a', 'Shared', 'no-gateway');
      assert.match(bare.read('x').dataChange?.error ?? '', /needs a gateway, and the layout has none/);
      bare.set('x', 'Data', 'bad domain"', 'None', 'bad');
      assert.match(bare.read('x').dataChange?.error ?? '', /is no name for a domain/);
      await bare.close();
      hall.room.run('nft', 'delete', 'table', 'bridge', 'bare');
    });

    test('a closed port has no link, and is read as closed only while it has none', async () => {
      assert.equal((await hall.put('c1', 'closed')).status, 'Done');
      assert.equal(hall.domainOf('c1'), 'closed');
      const flags = (): string[] => JSON.parse(hall.room.run('ip', '-json', 'link', 'show', 'cc1'))[0].flags;
      assert.equal(flags().includes('UP'), false);
      hall.room.run('ip', 'link', 'set', 'cc1', 'up');
      hall.fabric.refresh('c1');
      await hall.until('a look that finds the link up', () => hall.domainOf('c1') !== 'closed');
      await hall.until('the link down again', () => hall.domainOf('c1') === 'closed');
      assert.equal(flags().includes('UP'), false);
      assert.equal((await hall.put('c1', 'provisioning')).status, 'Done');
      assert.ok(flags().includes('UP'));
    });

    test('an interface that was made anew is taught nothing by its guest', async () => {
      hall.room.run('ip', 'link', 'set', 'da1', 'type', 'bridge_slave', 'learning', 'on');
      hall.fabric.refresh('a1');
      await hall.until('a look', () => hall.domainOf('a1') === 'Unknown');
      await hall.until('learning off', () => hall.domainOf('a1') === 'allocation/a');
      assert.deepEqual(hall.faults.length, 1);
    });

    test('a flushed table is seen without asking, and all is shut until it is asked for again', async () => {
      hall.room.run('nft', 'flush', 'ruleset');
      await hall.until('the drift', () => hall.domainOf('a1') === 'quarantine' && hall.domainOf('c1') === 'quarantine');
      assert.match(hall.faults.join(), /something else changed table isolation/);
      assert.deepEqual(hall.fabric.read('a1').ports[0]?.state, 'Ready');
      assert.deepEqual(
        await hall.whoGets('a1', (part) => [frame(macOf('a1'), broadcast, part)], ['a2', 'b1', 'c1', 'gw']),
        [],
      );
      await hall.twoTenants();
      assert.deepEqual(await hall.whoGets('a1', (part) => [frame(macOf('a1'), broadcast, part)], ['a2', 'b1']), ['a2']);
    });

    test('a rule or an element that somebody slips in is taken out, and what it concerned is shut', async () => {
      hall.room.run('nft', 'add', 'element', 'bridge', 'isolation', 'member', '{ "db1" . 16 }');
      await hall.until('the stray element', () => hall.domainOf('b1') === 'quarantine');
      assert.equal(hall.domainOf('a1'), 'allocation/a');
      assert.deepEqual(await hall.whoGets('a1', (part) => [frame(macOf('a1'), broadcast, part)], ['a2', 'b1']), ['a2']);
      hall.room.run('nft', 'insert', 'rule', 'bridge', 'isolation', 'between', 'accept');
      await hall.until('the stray rule', () => hall.domainOf('a1') === 'quarantine');
      assert.doesNotMatch(
        hall.room.run('nft', 'list', 'chain', 'bridge', 'isolation', 'between'),
        /between \{\s*accept/,
      );
    });

    test('a change right after the table was taken away still ends well, with the rest shut', async () => {
      hall.room.run('nft', 'delete', 'table', 'bridge', 'isolation');
      assert.equal((await hall.put('a1', 'allocation/new')).status, 'Done');
      assert.equal(hall.domainOf('a1'), 'allocation/new');
      assert.equal(hall.domainOf('b1'), 'quarantine');
    });

    test('a driver that lost its memory reads the same and interrupts nobody', async () => {
      await hall.put('a1', 'allocation/a', 'Shared');
      const before = nodes.map((name) => hall.fabric.read(name).ports[0]);
      await hall.room.guest('a1').flood(frame(macOf('a1'), macOf('a2'), 'goes on').slice(0, 44), 500);
      await hall.fabric.close();
      hall.fabric = bridgeFabric(hall.options());
      assert.equal(hall.domainOf('a1'), 'Unknown');
      assert.equal(hall.fabric.read('a1').ports[0]?.state, 'Unknown');
      await hall.fabric.ready;
      assert.deepEqual(
        nodes.map((name) => hall.fabric.read(name).ports[0]),
        before,
      );
      assert.equal(hall.fabric.read('a1').dataChange, undefined);
      await hall.room.guest('a1').flood(null);
      const counters = (await hall.room.guest('a2').seen())
        .filter((seen) => seen.includes(textHex('goes on')))
        .map((seen) => Number.parseInt(seen.slice(44, 60), 16));
      assert.ok(counters.length > 10);
      assert.equal((counters.at(-1) ?? 0) - (counters[0] ?? 0) + 1, counters.length, 'a frame was lost');
    });
  },
);

/**
 * The Redfish driver against what is publicly known of vendors' BMCs (vendors/): no device was at hand, so this shows that the driver does
 * what their trackers and manuals ask of a client, and no more.
 */
import assert from 'node:assert/strict';
import { describe, type TestContext, test } from 'node:test';
import type { BmcEndpoint } from '../../../agent/drivers/redfish/power.ts';
import { credentials, PowerBench } from './bench.ts';
import { MegaRac } from './vendors/ami.ts';
import { Idrac9, Idrac10 } from './vendors/dell.ts';
import { Ilo5 } from './vendors/hpe.ts';
import { IbmOpenBmc, OpenBmc, Xcc } from './vendors/others.ts';
import { SupermicroX10, SupermicroX11 } from './vendors/supermicro.ts';
import type { VendorBmc } from './vendors/vendor-bmc.ts';

async function benchOf<T extends VendorBmc>(
  t: TestContext,
  vendor: T,
  endpoint: Partial<BmcEndpoint> = {},
): Promise<{ bench: PowerBench; bmc: T }> {
  const bmc = await vendor.listen();
  t.after(() => bmc.close());
  const bench = new PowerBench({ n0: { url: bmc.url, credentials: () => credentials, ...endpoint } });
  t.after(() => bench.power.close());
  await bench.known();
  return { bench, bmc };
}

const vendors: Record<string, () => VendorBmc> = {
  'Dell iDRAC9': () => new Idrac9(),
  'Dell iDRAC10': () => new Idrac10(),
  'HPE iLO 5': () => new Ilo5(),
  'Supermicro X11': () => new SupermicroX11(),
  'Supermicro X10': () => new SupermicroX10(),
  'AMI MegaRAC': () => new MegaRac(),
  'Lenovo XCC': () => new Xcc(),
  OpenBMC: () => new OpenBmc(),
};

for (const [name, make] of Object.entries(vendors)) {
  describe(name, () => {
    test('goes on and off, and is read', async (t) => {
      const { bench, bmc } = await benchOf(t, make());
      assert.equal((await bench.set('On')).status, 'Done');
      assert.equal((await bench.set('On')).status, 'Done', 'what is so already');
      assert.equal((await bench.set('Off')).status, 'Done');
      assert.equal((await bench.set('Off')).status, 'Done');
      assert.equal(bmc.power, 'Off');
      const { systemUuid, inventory } = bench.power.machine('n0');
      assert.equal(systemUuid, '4c4c4544-0042-3510-8036-b4c04f4e3332');
      assert.deepEqual(inventory, {
        architecture: 'x86_64',
        cores: 32,
        memoryBytes: 256 * 2 ** 30,
        disks: [{ name: 'Disk.0', serial: 'PHYF0001', sizeBytes: 480103981056, media: 'SSD' }],
      });
    });

    test('boots from the network as long as it is to, then from its disk', async (t) => {
      const { bench, bmc } = await benchOf(t, make());
      const network = await bench.order('Network');
      assert.equal(network.status, 'Done', network.error);
      for (let boot = 0; boot < 2; boot++) {
        await bench.set('On');
        await bench.set('Off');
        assert.equal(bench.read().order, 'Network', `after boot ${boot}`);
      }
      const disk = await bench.order('Disk');
      assert.equal(disk.status, 'Done', disk.error);
      await bench.set('On');
      const places = bmc.boots.map((boot) => boot.replace(/^Boot0003/, 'Pxe').replace(/^Boot0001/, 'Hdd'));
      assert.deepEqual(places, ['Pxe UEFI', 'Pxe UEFI', 'Hdd UEFI']);
    });
  });
}

test('a reset that races with the machine is refused by an iDRAC and read as what it is', async (t) => {
  const { bench, bmc } = await benchOf(t, new Idrac9());
  await bench.set('On');
  bench.power.set('n0', 'Off', 'x');
  bmc.power = 'Off';
  await bench.until('the end', () => bench.read().stateChange?.status !== 'Pending');
  assert.deepEqual(bench.read().stateChange, { token: 'x', status: 'Done' });
});

test('a MegaRAC that refuses while the machine boots is asked again', async (t) => {
  const { bench, bmc } = await benchOf(t, new MegaRac());
  bmc.busy = 2;
  assert.equal((await bench.order('Network')).status, 'Done');
  const changes = bmc.asked.filter(({ method }) => method === 'PATCH');
  assert.ok(changes.every(({ ifMatch, path }) => ifMatch !== undefined && path.endsWith('/SD')));
});

test('no PATCH to an iLO names the mode, or None', async (t) => {
  const { bench, bmc } = await benchOf(t, new Ilo5());
  await bench.order('Network');
  await bench.order('Disk');
  const sent = JSON.stringify(bmc.asked);
  assert.doesNotMatch(sent, /Mode|"None"/);
});

test('a machine without a lasting boot order is told in words', async (t) => {
  const { bench } = await benchOf(t, new IbmOpenBmc());
  const change = await bench.order('Network');
  assert.deepEqual(change.status, 'Error');
  assert.match(
    change.error ?? '',
    /no lasting boot order can be set: the BMC has no boot override; it shows no boot order/,
  );
  assert.equal((await bench.set('On')).status, 'Done');
});

test('an inventory that cannot be read any more keeps nobody from the power switch, and one that never was does', async (t) => {
  class Broken extends OpenBmc {
    broken = false;
    override resources() {
      return this.broken ? {} : super.resources();
    }
  }
  const { bench, bmc } = await benchOf(t, new Broken());
  bmc.broken = true;
  bench.power.refresh('n0');
  assert.equal((await bench.set('On')).status, 'Done');
  bench.power.refresh('n0');
  await bench.until('the trouble', () => /inventory cannot be read again: .*Storage/.test(bench.troubles.at(-1) ?? ''));
  assert.equal((await bench.set('Off')).status, 'Done');
  assert.equal(bench.power.machine('n0').inventory.disks.length, 1);
  const fresh = new PowerBench({ n0: { url: bmc.url, credentials: () => credentials } });
  t.after(() => fresh.power.close());
  await fresh.until('the trouble', () => /Storage/.test(fresh.troubles.at(-1) ?? ''));
  assert.equal(fresh.read().state, 'Unknown');
});

test('network boot over HTTP is set where it is asked for', async (t) => {
  const { bench, bmc } = await benchOf(t, new OpenBmc(), { network: 'UefiHttp' });
  await bench.order('Network');
  assert.equal(bench.read().order, 'Network');
  assert.equal(bmc.boot.target, 'UefiHttp');
});

/**
 * A machine that says or asks more than anybody has to know, as a tenant with root can have it do: it costs the agent no write and no news a
 * word.
 */
import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { departureTimes } from '../../../agent/drivers/hardware/departure.ts';
import { type Kept, keptPlan } from '../../../agent/drivers/hardware/kept.ts';
import { HardwareNode } from '../../../agent/drivers/hardware/node.ts';
import type { HardwareNodeOptions } from '../../../agent/drivers/hardware/node-options.ts';
import type { Serving } from '../../../agent/drivers/port.ts';
import type { ChannelReading } from '../../../agent/drivers/vmm-channel/agent-side.ts';
import type { Status } from '../../../agent/drivers/vmm-channel/messages.ts';
import { seededRandom } from '../../../controller/runtime/random.ts';
import { environment } from '../../support/agent-room.ts';
import { VirtualClock } from '../../support/virtual-clock.ts';

const newsMs = 1_000;
const running: Status = {
  ...{ kind: 'Status', epoch: 7n, guest: 'Running', map: 'Valid', flushed: false, starts: 1, inFlight: 0 },
  ...{ totalBytes: 1n << 30n, localBytes: 0n, fetchedBytes: 0n },
};

interface Rig {
  readonly clock: VirtualClock;
  readonly node: HardwareNode;
  says(reading: Partial<ChannelReading>): void;
  stored(): Kept;
  told: number;
}

/** A node whose hypervisor was given its plan, and has said nothing yet. */
function resident(t: TestContext): Rig {
  const directory = mkdtempSync(join(tmpdir(), 'flood-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, 'vmm.json');
  const plan = keptPlan({
    ...{ kind: 'Plan', epoch: 7n, start: 'Fresh', yields: 'Fair', totalBytes: 1n << 30n, maxRateBytes: 0n },
    ...{ imageDigest: Buffer.alloc(32), diskSerial: 'S0A', writes: [] },
    source: { transport: 'Nbd', address: '10.77.0.1:10809', name: 'e' },
  });
  const ids = { fileId: 'f', bootId: '10'.repeat(16), key: '00'.repeat(32) };
  const kept: Kept = {
    starts: { epoch: 0, count: 0 },
    begun: { epoch: 7, status: 'Offered' },
    boot: { kind: 'Vmm', ...ids, epoch: 7, plan, isOffered: true, hasLeft: false },
  };
  writeFileSync(path, JSON.stringify(kept));
  const clock = new VirtualClock();
  let reading: ChannelReading = { connected: true, leaving: false };
  const options: Partial<HardwareNodeOptions> = {
    ...{ name: 'n0', path, clock, random: seededRandom(1), onError: (error) => assert.fail(String(error)) },
    times: { ...departureTimes, prepareMs: 1, commitMs: 1, lookMs: 1_000_000, newsMs },
    changed: () => void rig.told++,
    channels: { expect() {}, forget() {}, read: () => reading } as unknown as HardwareNodeOptions['channels'],
    trusted: { end() {} } as unknown as HardwareNodeOptions['trusted'],
    surroundings: { fabric: () => ({ ports: [] }) } as unknown as HardwareNodeOptions['surroundings'],
  };
  const node = new HardwareNode(options as HardwareNodeOptions);
  const rig: Rig = {
    ...{ clock, node, told: 0 },
    says(more) {
      reading = { ...reading, ...more };
      node.channelChanged();
    },
    stored: () => JSON.parse(readFileSync(path, 'utf8')) as Kept,
  };
  return rig;
}

test('that a guest begins is stored at once, and however often it then says to start is stored once in a while', async (t) => {
  const rig = resident(t);
  rig.says({});
  rig.says({ status: running });
  assert.deepEqual(rig.stored().begun, { epoch: 7, status: 'Begun' }, 'within the pause after the first news');
  const seen = new Set<number>();
  for (let starts = 2; starts <= 500; starts++) {
    rig.says({ status: { ...running, starts, inFlight: starts % 2 } });
    seen.add(rig.stored().starts.count);
  }
  assert.deepEqual([...seen], [1]);
  await rig.clock.advance(newsMs);
  assert.equal(rig.stored().starts.count, 500, 'the newest is known in the end');
  assert.ok(rig.told <= 3, `told ${rig.told} times`);
  const told = rig.told;
  await rig.clock.advance(60_000);
  assert.equal(rig.told, told, 'and then there is quiet');
});

test('the last words before a machine starts anew count for the start that ended', (t) => {
  const rig = resident(t);
  rig.says({});
  rig.says({
    failure: { code: 'VmmFailed', text: 'no such device' },
    status: { ...running, starts: 0, guest: 'NotStarted', map: 'None' },
  });
  assert.notEqual(rig.stored().begun, undefined);
  rig.node.boot().catch(() => {});
  return new Promise<void>((resolve) => {
    setImmediate(() => {
      assert.equal(rig.stored().begun, undefined, 'nothing was begun: the next boot is fresh');
      resolve();
    });
  });
});

/** A machine whose control port is in provisioning, and what its boot server is to answer. */
function asking(t: TestContext, serving: Serving) {
  const directory = mkdtempSync(join(tmpdir(), 'flood-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, 'vmm.json');
  const clock = new VirtualClock();
  const counts = { told: 0, begun: 0, ended: 0, expected: 0 };
  const control = { name: 'ctl0', role: 'Control', kind: 'Ethernet', state: 'Ready', domain: 'provisioning' } as const;
  const disk = { name: 'sda', sizeBytes: 2 ** 40, media: 'Ssd', serial: 'S0A' } as const;
  // One that keeps no place for arguments of the kernel.
  const plain = environment();
  const inventory = { cores: 4, memoryBytes: 2 ** 33, disks: [disk] };
  const options: Partial<HardwareNodeOptions> = {
    ...{ name: 'n0', path, clock, random: seededRandom(1), onError: (error) => assert.fail(String(error)) },
    ...{ server: 'http://10.77.0.1:8080', control: { mac: '52:54:00:00:00:01' } },
    times: { ...departureTimes, prepareMs: 1, commitMs: 1, lookMs: 1_000_000, newsMs },
    trustedImage: { kernel: 'kernel', initrd: 'initrd' },
    vmmFiles: { directory, bios: 'bitvisor.elf', uefi: 'loadvmm.efi' },
    changed: () => void counts.told++,
    channels: {
      expect() {
        counts.expected++;
        return { bootId: Buffer.alloc(16), key: Buffer.alloc(32) };
      },
      forget() {},
    } as unknown as HardwareNodeOptions['channels'],
    trusted: {
      begin: () => ({ bootId: `boot-${++counts.begun}`, script: 'boot trusted\n' }),
      end: () => void counts.ended++,
    } as unknown as HardwareNodeOptions['trusted'],
    surroundings: {
      fabric: () => ({ ports: [control] }),
      images: () => ({ exported: 'Open', serving }),
      machine: () => ({ systemUuid: '', inventory }),
      readImage: async (_offset: number, length: number) => Buffer.alloc(length),
      source: () => ({ transport: 'Nbd', address: '10.77.0.1:10809', name: 'e' }),
    } as unknown as HardwareNodeOptions['surroundings'],
  };
  const node = new HardwareNode(options as HardwareNodeOptions);
  node.plan({
    ...{
      epoch: 7,
      environment: { ...plain, boot: { ...plain.boot, kernelArguments: [] } },
      hostname: 'host',
      sshKeys: [],
      disk: 'sda',
      start: 'Fresh',
    },
  });
  let writes = 0;
  return {
    ...{ clock, counts, writes: () => writes },
    /** @returns the script */
    async ask(): Promise<string> {
      // What is written is renamed into place, and readable by the agent alone.
      chmodSync(path, 0o640);
      const { script } = await node.boot();
      if ((statSync(path).mode & 0o777) === 0o600) writes++;
      await clock.advance(0);
      return script;
    },
  };
}

for (const serving of ['Nothing', 'Trusted', 'Vmm'] as const) {
  test(`however often a machine asks that is to be answered ${serving}, the agent writes seldom`, async (t) => {
    const { ask, clock, counts, writes } = asking(t, serving);
    const first = await ask();
    for (let time = 0; time < 1_000; time++) await ask();
    assert.ok(writes() <= 22, `${writes()} writes`);
    assert.ok(counts.told <= 22, `told ${counts.told} times`);
    assert.ok(counts.begun <= 10 && counts.expected <= 10);
    assert.equal(counts.begun, counts.ended, 'a request that is not answered ends the boot that was all the same');
    if (serving === 'Nothing') return;
    assert.match(await ask(), /asked too often[\s\S]*chain --replace --autofree http/);
    assert.doesNotMatch(first, /too often/);
    await clock.advance(10_000);
    assert.doesNotMatch(await ask(), /too often/, 'who waits is given its boot');
  });
}

test('a machine that resets itself as fast as firmware can is given every boot', async (t) => {
  const { ask, clock, counts } = asking(t, 'Vmm');
  for (let time = 0; time < 100; time++) {
    await ask();
    await clock.advance(10_000);
  }
  assert.equal(counts.expected, 100);
});

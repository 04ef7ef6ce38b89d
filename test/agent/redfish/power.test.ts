/** The Redfish power driver against the lab's BMC, in all its moods. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { startBmc } from '../../../agent/drivers/qemu/bmc/server.ts';
import { factsFile } from '../../../agent/drivers/redfish/power.ts';
import { sleep, systemClock } from '../../../controller/runtime/clock.ts';
import { systemRandom } from '../../../controller/runtime/random.ts';
import { MemoryMachine, testHardware } from '../../support/bmc-machine.ts';
import { makeTestCa } from '../../support/test-ca.ts';
import { VirtualClock } from '../../support/virtual-clock.ts';
import { credentials, labBench, PowerBench, quickPolls, quickTimes } from './bench.ts';

/** The tests wait for BMCs, each for its own. */
const sideBySide = { concurrency: 8 };

describe('a BMC that behaves', sideBySide, () => {
  test('power goes on and off, and is read back', async (t) => {
    const bench = await labBench(t);
    assert.equal(bench.read().state, 'Unknown');
    await bench.known();
    assert.equal(bench.read().state, 'Off');
    assert.equal((await bench.set('On')).status, 'Done');
    assert.equal(bench.read().state, 'On');
    assert.equal((await bench.set('Off')).status, 'Done');
    assert.deepEqual(bench.machine.log, ['on', 'off']);
  });

  test('the machine is read: UUID, processor, memory, disks, interfaces', async (t) => {
    const bench = await labBench(t);
    await bench.known();
    const facts = bench.power.machine('n0');
    assert.deepEqual(facts, {
      systemUuid: testHardware.systemUuid,
      inventory: {
        architecture: 'x86_64',
        cores: 4,
        memoryBytes: 2 ** 31,
        disks: testHardware.disks.map(({ name, serial, sizeBytes, media }) => ({ name, serial, sizeBytes, media })),
      },
    });
    assert.equal(bench.power.machine('n0'), facts);
    assert.deepEqual(bench.power.interfaces('n0'), testHardware.interfaces);
  });

  test('an order lasts over boots, both ways', async (t) => {
    const bench = await labBench(t);
    await bench.known();
    assert.equal(bench.read().order, 'Disk');
    assert.equal((await bench.order('Network')).status, 'Done');
    assert.equal(bench.read().order, 'Network');
    for (let boot = 0; boot < 3; boot++) {
      await bench.set('On');
      await bench.set('Off');
    }
    assert.equal(bench.read().order, 'Network');
    assert.equal((await bench.order('Disk')).status, 'Done');
    await bench.set('On');
    assert.deepEqual(bench.machine.boots, ['Pxe', 'Pxe', 'Pxe', 'Hdd']);
  });

  test('firmware that boots by HTTP is told to, where its BMC has the target', async (t) => {
    const endpoint = { network: 'UefiHttp' } as const;
    const hasTarget = await labBench(t, { endpoint, hardware: { ...testHardware, bootsByHttp: true } });
    await hasTarget.known();
    assert.equal((await hasTarget.order('Network')).status, 'Done');
    assert.deepEqual(hasTarget.machine.bootOverride, { target: 'UefiHttp', enabled: 'Continuous' });
    const hasNone = await labBench(t, { endpoint });
    await hasNone.known();
    assert.match((await hasNone.order('Network')).error ?? '', /its boot override has no target UefiHttp/);
  });

  test('the button is pressed once, and that is all its change says', async (t) => {
    const bench = await labBench(t);
    await bench.known();
    await bench.set('On');
    bench.machine.guestObeysButton = false;
    assert.equal((await bench.set('Shutdown')).status, 'Done');
    assert.equal(bench.read().state, 'On');
    bench.machine.guestObeysButton = true;
    assert.equal((await bench.set('Shutdown')).status, 'Done');
    await bench.until('off', () => bench.read().state === 'Off');
    assert.deepEqual(bench.machine.log, ['on', 'shutdown', 'shutdown']);
  });

  test('what happens at the machine is seen without asking', async (t) => {
    const bench = await labBench(t);
    await bench.known();
    await bench.set('On');
    bench.machine.losePower();
    await bench.until('the loss of power', () => bench.read().state === 'Off');
    bench.machine.bootOverride = { target: 'Pxe', enabled: 'Once' };
    await bench.until('an order that does not last', () => bench.read().order === 'Unknown');
  });

  test('a session is held over requests, renewed when it is lost, and deleted at the end', async (t) => {
    const bench = await labBench(t);
    const auth = {
      authorization: `Basic ${Buffer.from(`${credentials.username}:${credentials.password}`).toString('base64')}`,
    };
    const sessions = async (): Promise<string[]> => {
      const answer = await fetch(`${bench.bmc.url}/redfish/v1/SessionService/Sessions`, { headers: auth });
      return ((await answer.json()) as { Members: { '@odata.id': string }[] }).Members.map((one) => one['@odata.id']);
    };
    await bench.known();
    await bench.set('On');
    const [session, ...others] = await sessions();
    assert.deepEqual(others, []);
    await fetch(`${bench.bmc.url}${session}`, { method: 'DELETE', headers: auth });
    assert.equal((await bench.set('Off')).status, 'Done');
    assert.notEqual((await sessions())[0], session);
    await bench.power.close();
    assert.deepEqual(await sessions(), []);
  });
});

describe('a BMC that misbehaves', sideBySide, () => {
  test('ignores Once: nothing is asked for once', async (t) => {
    const bench = await labBench(t, { misbehaviour: { ignoresOnce: true } });
    await bench.known();
    await bench.order('Network');
    await bench.set('On');
    assert.deepEqual(bench.machine.boots, ['Pxe']);
  });

  test('loses the override at a reset: the reading says so', async (t) => {
    const bench = await labBench(t, { misbehaviour: { losesOverrideAtReset: true } });
    await bench.known();
    assert.equal((await bench.order('Network')).status, 'Done');
    await bench.set('On');
    await bench.until('the lost order', () => bench.read().order === 'Disk');
  });

  test('answers slowly: all is done, and no answer is taken for another', async (t) => {
    const bench = await labBench(t, { misbehaviour: { slowMs: 60 } });
    await bench.known();
    assert.equal((await bench.set('On')).status, 'Done');
    assert.equal((await bench.order('Network')).status, 'Done');
    assert.deepEqual(bench.machine.log, ['on']);
  });

  test('shows an old state for a while: the change waits for the reading', async (t) => {
    const bench = await labBench(t, { misbehaviour: { staleMs: 200 } });
    await bench.known();
    const begin = performance.now();
    assert.equal((await bench.set('On')).status, 'Done');
    assert.ok(performance.now() - begin >= 199, 'Done came with the reading');
    assert.equal(bench.read().state, 'On');
  });

  test('does it later, with a task: pending until it is read', async (t) => {
    const bench = await labBench(t, { misbehaviour: { deferMs: 150 } });
    await bench.known();
    const begin = performance.now();
    assert.equal((await bench.set('On')).status, 'Done');
    assert.ok(performance.now() - begin >= 149);
    assert.deepEqual(bench.machine.log, ['on']);
    assert.equal((await bench.order('Network')).status, 'Done');
    bench.machine.guestObeysButton = false;
    assert.equal((await bench.set('Shutdown')).status, 'Done');
    assert.deepEqual(bench.machine.log, ['on', 'shutdown'], 'the button was pressed before the change said so');
  });

  test('does it much too late: the task is deleted, and nothing follows the Error', async (t) => {
    const bmcClock = new VirtualClock();
    const bench = await labBench(t, { misbehaviour: { deferMs: 600_000 }, bmcClock });
    await bench.known();
    const change = await bench.set('On');
    assert.equal(change.status, 'Error');
    assert.match(change.error ?? '', /power is Off/);
    await bmcClock.advance(1_200_000);
    assert.deepEqual(bench.machine.log, []);
  });

  test('a task that fails ends the change with its words', async (t) => {
    const bench = await labBench(t, { misbehaviour: { deferMs: 20 } });
    await bench.known();
    bench.machine.failing = true;
    const change = await bench.set('On');
    assert.equal(change.status, 'Error');
    assert.match(change.error ?? '', /the machine does not obey/);
  });

  test('takes a reset and does nothing: asked again, then given up with what is read', async (t) => {
    const bench = await labBench(t, { misbehaviour: { ignoresReset: true } });
    await bench.known();
    const change = await bench.set('On');
    assert.deepEqual(change.status, 'Error');
    assert.match(change.error ?? '', /power is Off: the BMC took the request and did not act/);
    bench.bmc.misbehaviour.ignoresReset = false;
    assert.equal((await bench.set('On')).status, 'Done');
  });

  test('hangs: Unknown at once, an error that names it in bounded time, and back when it is back', async (t) => {
    const bench = await labBench(t);
    await bench.known();
    bench.bmc.misbehaviour.hangs = true;
    await bench.until('Unknown', () => bench.read().state === 'Unknown' && bench.read().order === 'Unknown');
    assert.equal(bench.power.machine('n0').systemUuid, testHardware.systemUuid, 'the machine stays the same');
    const begin = performance.now();
    const change = await bench.set('Off');
    assert.ok(performance.now() - begin < quickTimes.limitMs + quickTimes.silentMs + 5_000);
    assert.equal(change.status, 'Error');
    assert.match(change.error ?? '', /no answer within/);
    assert.match(bench.troubles.at(-1) ?? '', /no answer within/);
    bench.bmc.misbehaviour.hangs = false;
    await bench.until('the reading', () => bench.read().state === 'Off');
    assert.equal(bench.troubles.at(-1), undefined);
    assert.equal((await bench.set('On')).status, 'Done');
  });

  test('hangs after it took the request: pending while that may still act, and Done when it is read', async (t) => {
    const bench = await labBench(t, { misbehaviour: { deferMs: 1 } });
    await bench.known();
    bench.power.set('n0', 'On', 'x');
    await bench.until(
      'the machine on',
      () => bench.machine.power() === 'On' || bench.read().stateChange?.status === 'Done',
    );
    bench.bmc.misbehaviour.hangs = true;
    await bench.until('silence', () => bench.read().state === 'Unknown');
    if (bench.read().stateChange?.status !== 'Done') assert.equal(bench.read().stateChange?.status, 'Pending');
    bench.bmc.misbehaviour.hangs = false;
    await bench.until('Done', () => bench.read().stateChange?.status === 'Done');
  });

  test('refuses the credentials: says so without them, and does not try on and on', async (t) => {
    const bench = await labBench(t, { misbehaviour: { refusesCredentials: true } });
    await bench.until('trouble', () => bench.troubles.length > 0);
    const change = await bench.set('On');
    assert.equal(change.status, 'Error');
    assert.match(change.error ?? '', /nothing was sent: the BMC refuse/);
    assert.doesNotMatch(`${change.error} ${bench.troubles.join()}`, /correct horse/);
    // The service root, the login, and no more.
    assert.ok(bench.bmc.requests() <= 3, `${bench.bmc.requests()} requests`);
  });

  for (const failsWith of [500, 503]) {
    test(`answers everything with ${failsWith}: unknown, then well again`, async (t) => {
      const bench = await labBench(t);
      await bench.known();
      bench.bmc.misbehaviour.failsWith = failsWith;
      await bench.until('Unknown', () => bench.read().state === 'Unknown');
      assert.equal((await bench.set('On')).status, 'Error');
      delete bench.bmc.misbehaviour.failsWith;
      await bench.until('a reading', () => bench.read().state === 'Off');
      assert.equal((await bench.set('On')).status, 'Done');
    });
  }

  test('is asked no more often than a slow BMC can bear', async (t) => {
    const bench = await labBench(t, { misbehaviour: { slowMs: 100 } });
    await bench.known();
    const before = bench.bmc.requests();
    await sleep(systemClock, 1_000);
    // A look takes a request of 100 ms, and the rest after it four times as long.
    assert.ok(bench.bmc.requests() - before <= 4, `${bench.bmc.requests() - before} requests in a second`);
  });
});

describe('what a machine is made of', sideBySide, () => {
  test('outlives the process while the BMC is silent, and a machine that was never read is no machine', async (t) => {
    const directory = mkdtempSync(join(tmpdir(), 'facts-'));
    t.after(() => rmSync(directory, { recursive: true }));
    const facts = factsFile(join(directory, 'facts.json'));
    const first = await labBench(t, { facts });
    await first.known();
    assert.match(readFileSync(join(directory, 'facts.json'), 'utf8'), /S0A/);
    await first.power.close();
    const silent = { url: 'http://127.0.0.1:9', credentials: () => credentials };
    const second = new PowerBench({ n0: silent, n1: silent }, { facts });
    t.after(() => second.power.close());
    assert.equal(second.power.machine('n0').systemUuid, testHardware.systemUuid);
    assert.equal(second.power.machine('n0').inventory.disks.length, 2);
    assert.equal(second.power.machine('n1').systemUuid, 'never-read/n1');
    assert.equal(second.read('n1').state, 'Unknown');
  });

  test('a machine that was put in the place of another is read at once, also while it is off', async (t) => {
    const hardware = { ...testHardware };
    const bench = await labBench(t, { hardware });
    await bench.known();
    Object.assign(hardware, { systemUuid: '4c4c4544-0044-4210-8031-c2c04f999999', disks: testHardware.disks.slice(1) });
    await bench.until('the other machine', () => bench.power.machine('n0').systemUuid === hardware.systemUuid);
    assert.equal(bench.power.machine('n0').inventory.disks.length, 1);
    assert.equal(bench.read().state, 'Off');
    Object.assign(hardware, { systemUuid: '00000000-0000-0000-0000-000000000000' });
    await bench.until('a BMC that does not know its machine', () => bench.read().state === 'Unknown');
    assert.match(bench.power.machine('n0').systemUuid, /f999999$/, 'the machine stays the one that it was');
  });

  test('a disk that is missing while the machine is off, or once, is not believed to be gone', async (t) => {
    const disks = [...testHardware.disks];
    const bench = await labBench(t, { hardware: { ...testHardware, disks }, polls: { ...quickPolls, factsMs: 50 } });
    await bench.known();
    await bench.set('On');
    disks.pop();
    const counts: number[] = [];
    await bench.until('the change', () => {
      counts.push(bench.power.machine('n0').inventory.disks.length);
      return counts.at(-1) === 1;
    });
    await bench.set('Off');
    disks.pop();
    bench.power.refresh('n0');
    await bench.set('On');
    assert.equal(
      bench.power.machine('n0').inventory.disks.length,
      1,
      'a reading of the machine off counts for nothing',
    );
  });
});

describe('the wire', sideBySide, () => {
  test('a pinned certificate, or a CA, is asked for before anything is sent', async (t) => {
    const ca = await makeTestCa();
    const identity = await ca.issue('localhost', ['localhost']);
    const machine = new MemoryMachine();
    const bmc = await startBmc({
      machine,
      hardware: testHardware,
      credentials,
      clock: systemClock,
      random: systemRandom,
      tls: identity,
    });
    const { X509Certificate } = await import('node:crypto');
    const fingerprint = new X509Certificate(identity.certPem).fingerprint256;
    const url = bmc.url;
    const login = { url, credentials: () => credentials };
    const bench = new PowerBench({
      pinned: { ...login, tls: { fingerprint } },
      byCa: { ...login, tls: { caPem: ca.caPem, serverName: 'localhost' } },
      wrongPin: {
        ...login,
        tls: { fingerprint: fingerprint.replace(/^../, fingerprint.startsWith('00') ? '01' : '00') },
      },
      wrongName: { ...login, tls: { caPem: ca.caPem, serverName: 'other' } },
      unknownCa: login,
    });
    t.after(async () => {
      await bench.power.close();
      await bmc.close();
    });
    await bench.known('pinned');
    await bench.known('byCa');
    const refusals = { wrongPin: /another fingerprint/, wrongName: /altnames/, unknownCa: /unable to|self.signed/ };
    await Promise.all(
      Object.entries(refusals).map(async ([node, message]) => {
        const change = await bench.set('On', node);
        assert.equal(change.status, 'Error', node);
        assert.match(change.error ?? '', message);
        assert.match(change.error ?? '', /nothing was sent/);
      }),
    );
    assert.deepEqual(machine.log, []);
  });

  test('credentials come from a file, and its faults are told without what is in it', async (t) => {
    const directory = mkdtempSync(join(tmpdir(), 'credentials-'));
    t.after(() => rmSync(directory, { recursive: true }));
    const file = join(directory, 'bmc.json');
    writeFileSync(file, '{"username": "operator", "password": secret}');
    const bench = await labBench(t, { endpoint: { credentials: file } });
    await bench.until('trouble', () => bench.troubles.length > 0);
    assert.match(bench.troubles[0] ?? '', /credentials file .*bmc\.json is no JSON/);
    assert.doesNotMatch(bench.troubles.join(), /secret/);
    writeFileSync(file, JSON.stringify(credentials));
    await bench.known();
  });
});

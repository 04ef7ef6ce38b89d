/**
 * Software that others wrote drives the lab's BMC: DMTF's redfishtool, and OpenStack's sushy as OpenStack Ironic and Metal3 use it.
 */
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { before, describe, type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { type RunningBmc, startBmc } from '../../../agent/drivers/qemu/bmc/server.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { systemRandom } from '../../../controller/runtime/random.ts';
import { MemoryMachine, testHardware } from '../../support/bmc-machine.ts';
import { counterpart } from '../../support/counterpart.ts';
import { makeTestCa, type TestIdentity } from '../../support/test-ca.ts';

const run = promisify(execFile);
const credentials = { username: 'operator', password: 'correct horse' };
/** Debian's own Python: sushy is a Debian package. */
const python = '/usr/bin/python3';
const hasTool = spawnSync('redfishtool', ['--version']).error === undefined;
/** Without the settings by which python-requests would prefer another CA to the one it is given. */
const { REQUESTS_CA_BUNDLE: _bundle, CURL_CA_BUNDLE: _curl, ...plainEnvironment } = process.env;
const hasSushy = spawnSync(python, ['-c', 'import sushy']).status === 0;

let identity: TestIdentity;
let caPem: string;
before(async () => {
  const ca = await makeTestCa();
  caPem = ca.caPem;
  identity = await ca.issue('localhost', ['localhost']);
});

interface Setup {
  readonly machine: MemoryMachine;
  readonly bmc: RunningBmc;
  readonly directory: string;
}

async function setUp(t: TestContext): Promise<Setup> {
  const machine = new MemoryMachine();
  const bmc = await startBmc({
    machine,
    hardware: testHardware,
    credentials,
    clock: systemClock,
    random: systemRandom,
    tls: identity,
  });
  const directory = mkdtempSync(join(tmpdir(), 'bmc-'));
  t.after(async () => {
    await bmc.close();
    rmSync(directory, { recursive: true });
  });
  return { machine, bmc, directory };
}

describe('redfishtool', counterpart('redfishtool', hasTool), () => {
  const tool = async ({ bmc, directory }: Setup, ...args: string[]): Promise<Record<string, unknown>> => {
    const config = join(directory, 'redfishtool.json');
    writeFileSync(config, JSON.stringify({ user: credentials.username, password: credentials.password }));
    const host = new URL(bmc.url).host;
    const { stdout } = await run('redfishtool', ['-c', config, '-r', host, '-S', 'Always', ...args]);
    return stdout.trim() === '' ? {} : JSON.parse(stdout);
  };

  for (const auth of ['Basic', 'Session']) {
    test(`reads the system and switches it, by ${auth} login`, async (t) => {
      const setup = await setUp(t);
      const { machine } = setup;
      const systems = (...args: string[]) => tool(setup, '-A', auth, 'Systems', ...args);
      const before = await systems('get');
      assert.equal(before.UUID, testHardware.systemUuid);
      assert.equal(before.PowerState, 'Off');
      await systems('reset', 'On');
      assert.equal((await systems('get')).PowerState, 'On');
      machine.guestObeysButton = false;
      await systems('reset', 'GracefulShutdown');
      assert.equal((await systems('get')).PowerState, 'On');
      await systems('reset', 'ForceOff');
      assert.equal((await systems('get')).PowerState, 'Off');
      assert.deepEqual(machine.log, ['on', 'shutdown', 'off']);
    });
  }

  test('sets a boot override for once and for good', async (t) => {
    const setup = await setUp(t);
    const { machine } = setup;
    const systems = (...args: string[]) => tool(setup, 'Systems', ...args);
    await systems('setBootOverride', 'Once', 'Pxe');
    assert.deepEqual(machine.bootOverride, { target: 'Pxe', enabled: 'Once' });
    await systems('reset', 'On');
    await systems('reset', 'ForceRestart');
    await systems('setBootOverride', 'Continuous', 'Pxe');
    await systems('reset', 'ForceRestart');
    await systems('reset', 'ForceRestart');
    assert.deepEqual(machine.boots, ['Pxe', 'Hdd', 'Pxe', 'Pxe']);
    const { Boot: boot } = (await systems('get')) as { Boot: Record<string, unknown> };
    assert.equal(boot.BootSourceOverrideEnabled, 'Continuous');
    assert.equal(boot.BootSourceOverrideTarget, 'Pxe');
    await systems('setBootOverride', 'Disabled');
    assert.deepEqual(machine.bootOverride, { target: 'None', enabled: 'Disabled' });
  });

  test('walks the rest of the service', async (t) => {
    const setup = await setUp(t);
    assert.equal((await tool(setup, 'root')).RedfishVersion, '1.17.0');
    assert.equal((await tool(setup, 'Managers', 'get')).ManagerType, 'BMC');
    assert.equal((await tool(setup, 'Chassis', 'get')).ChassisType, 'RackMount');
    const processors = (await tool(setup, 'Systems', 'Processors', '-F')) as { Members?: unknown[] };
    assert.equal(JSON.stringify(processors).includes('x86-64') || processors.Members?.length === 1, true);
    assert.equal((await tool(setup, 'SessionService', 'get')).ServiceEnabled, true);
  });
});

const sushyScript = `
import json, sys
import sushy
url, ca, how, steps = sys.argv[1:5]
user, password = json.load(sys.stdin)
auth = sushy.auth.BasicAuth(user, password) if how == 'Basic' else sushy.auth.SessionAuth(user, password)
root = sushy.Sushy(url, auth=auth, verify=ca)
system = root.get_system('/redfish/v1/Systems/1')
seen = []
for step in json.loads(steps):
    if step[0] == 'reset':
        system.reset_system(sushy.ResetType[step[1]])
    if step[0] == 'boot':
        system.set_system_boot_options(sushy.BootSource[step[1]], sushy.BootSourceOverrideEnabled[step[2]])
    system.refresh(force=True)
    seen.append([system.power_state.value, system.boot.enabled.value, system.boot.target.value])
disks = [[d.serial_number, d.capacity_bytes] for s in system.storage.get_members() for d in s.drives]
macs = sorted(system.ethernet_interfaces.summary)
cpu = [str(p.instruction_set.value) for p in system.processors.get_members()]
auth.close()
print(json.dumps(dict(seen=seen, uuid=system.uuid, disks=disks, macs=macs, cpu=cpu, memory=system.memory_summary.size_gib)))
`;

describe('sushy', counterpart('sushy', hasSushy, 'install python3-sushy'), () => {
  for (const how of ['Basic', 'Session']) {
    test(`switches the machine, sets its boot override and reads its inventory, by ${how} login`, async (t) => {
      const { bmc, machine, directory } = await setUp(t);
      const caFile = join(directory, 'ca.pem');
      writeFileSync(caFile, caPem);
      const url = bmc.url.replace('127.0.0.1', 'localhost');
      const steps = [
        ['look'],
        ['boot', 'PXE', 'ONCE'],
        ['reset', 'ON'],
        ['boot', 'PXE', 'CONTINUOUS'],
        ['reset', 'FORCE_RESTART'],
        ['reset', 'GRACEFUL_SHUTDOWN'],
        ['reset', 'ON'],
        ['reset', 'FORCE_OFF'],
      ];
      const child = run(python, ['-c', sushyScript, url, caFile, how, JSON.stringify(steps)], {
        env: plainEnvironment,
      });
      child.child.stdin?.end(JSON.stringify([credentials.username, credentials.password]));
      const result = JSON.parse((await child).stdout);
      assert.deepEqual(result.seen, [
        ['Off', 'Disabled', 'None'],
        ['Off', 'Once', 'Pxe'],
        ['On', 'Disabled', 'None'],
        ['On', 'Continuous', 'Pxe'],
        ['On', 'Continuous', 'Pxe'],
        ['Off', 'Continuous', 'Pxe'],
        ['On', 'Continuous', 'Pxe'],
        ['Off', 'Continuous', 'Pxe'],
      ]);
      assert.deepEqual(machine.boots, ['Pxe', 'Pxe', 'Pxe']);
      assert.equal(result.uuid, testHardware.systemUuid);
      assert.deepEqual(
        result.disks,
        testHardware.disks.map(({ serial, sizeBytes }) => [serial, sizeBytes]),
      );
      assert.deepEqual(
        result.macs,
        testHardware.interfaces.map(({ address }) => address),
      );
      assert.deepEqual(result.cpu, ['x86-64']);
      assert.equal(result.memory, 2);
    });
  }
});

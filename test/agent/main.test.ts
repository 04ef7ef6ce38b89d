import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { simulatedDrivers } from '../../agent/drivers/simulated/drivers.ts';
import { defaultRoom } from '../../agent/drivers/simulated/options.ts';
import { SimulatedRack } from '../../agent/drivers/simulated/rack.ts';
import { MemoryRackStore, readRackHistory } from '../../agent/drivers/simulated/store.ts';
import { type AgentsOptions, type RackSpec, startAgents } from '../../agent/main.ts';
import { AgentPool } from '../../controller/agents/pool.ts';
import type { AgentLink } from '../../controller/agents/port.ts';
import type { Instruction } from '../../controller/api/protocol.generated.ts';
import { systemClock } from '../../controller/runtime/clock.ts';
import { seededRandom, systemRandom } from '../../controller/runtime/random.ts';
import { sharedCa, untilReal } from '../support/agent-network.ts';
import { enrolment, type TestStep } from '../support/agent-room.ts';

const dataDir = mkdtempSync(join(tmpdir(), 'agents-'));
after(() => rmSync(dataDir, { recursive: true }));

const racks: readonly RackSpec[] = ['rack-a', 'rack-b'].map((name) => ({
  name,
  site: 'site',
  rack: name,
  nodes: [`${name}-0`, `${name}-1`],
}));

async function options(overrides: Partial<AgentsOptions> = {}): Promise<AgentsOptions> {
  const ca = await sharedCa();
  return {
    racks,
    dataDir,
    room: { factor: 2_000 },
    clock: systemClock,
    random: systemRandom,
    log: {
      info: () => {},
      warn: () => {},
      error: (fields, message) => assert.fail(`${message} ${JSON.stringify(fields)}`),
    },
    tls: async ({ name }) => ({ caPem: ca.caPem, ...(await ca.issue(name, [name])) }),
    ...overrides,
  };
}

async function linkTo(rack: RackSpec, endpoint: string): Promise<AgentLink> {
  const ca = await sharedCa();
  const pool = new AgentPool({ ...(await ca.issue('bitvisor-operator')), clock: systemClock, random: seededRandom(5) });
  const { name, nodes } = rack;
  return pool.connect({ name, endpoint, caPem: ca.caPem, serverName: name, acceptedNodes: new Set(nodes) });
}

async function carryOut(link: AgentLink, steps: readonly TestStep[], node: string): Promise<void> {
  for (const step of steps) {
    const operationId = `${step.verb}-1`;
    const [result] = await link.instruct([{ operationId, node, epoch: 1, ...step } as Instruction], 1);
    assert.equal(result?.result, 'Accepted', result?.message);
    await untilReal(
      () => link.nodes.get(node)?.operation?.id === operationId && link.nodes.get(node)?.operation?.status === 'Done',
    );
  }
}

test('racks of one process keep their own logs and machines across a restart', async (t) => {
  const [rack] = racks;
  assert.ok(rack);
  const first = await startAgents(await options());
  t.after(() => first.close());
  const link = await linkTo(rack, first.endpoints.get('rack-a') ?? '');
  t.after(() => link.close());
  await carryOut(link, enrolment, 'rack-a-0');
  const { hello } = link.state();
  link.close();
  await first.close();
  assert.ok(existsSync(join(dataDir, 'rack-b', 'log.sqlite')));

  const second = await startAgents(await options());
  t.after(() => second.close());
  const again = await linkTo(rack, second.endpoints.get('rack-a') ?? '');
  t.after(() => again.close());
  await untilReal(() => again.state().synced);
  assert.equal(again.state().hello?.storeId, hello?.storeId);
  assert.notEqual(again.state().hello?.bootNonce, hello?.bootNonce);
  assert.equal(again.nodes.get('rack-a-0')?.record.certificate?.epoch, 1);
  assert.equal(again.nodes.get('rack-a-1')?.record.certificate, undefined);
  const history = readRackHistory(join(dataDir, 'rack-a', 'room.sqlite'));
  assert.equal(history.filter(({ event }) => event === 'wiped').length, 2);
});

test('a port that is taken stops the start, and the error names the rack', async (t) => {
  const running = await startAgents(await options({ racks: racks.slice(0, 1) }));
  t.after(() => running.close());
  const port = Number(new URL(running.endpoints.get('rack-a') ?? '').port);
  const { dataDir: _kept, ...rest } = await options({ racks: racks.slice(1).map((rack) => ({ ...rack, port })) });
  await assert.rejects(startAgents(rest), /rack-b did not start.*EADDRINUSE/);
});

test('an agent of real machines that are attested by token alone says so at its start', async () => {
  const [rack] = racks.slice(0, 1);
  assert.ok(rack);
  const warningsWith = async (...capabilities: string[]): Promise<string[]> => {
    const warnings: string[] = [];
    const given = await options();
    const openDrivers: AgentsOptions['openDrivers'] = async ({ nodes }, { clock, random, onError }) => {
      const store = new MemoryRackStore(defaultRoom.historyLimit, false);
      const simulated = new SimulatedRack({
        ...{ nodes, room: defaultRoom, store, clock, random, progressIntervalMs: 1000, onError },
      });
      return { drivers: { ...simulatedDrivers(simulated), capabilities }, close: async () => {} };
    };
    const directory = mkdtempSync(join(dataDir, 'warned-'));
    const log = { ...given.log, warn: (_fields: object, message: string) => void warnings.push(message) };
    const running = await startAgents({ ...given, racks: [rack], dataDir: directory, openDrivers, log });
    await running.close();
    return warnings;
  };
  const [warning, ...more] = await warningsWith('hardware', 'attestation:Token');
  assert.match(warning ?? '', /attested by token alone.*hardware\.attestation/);
  assert.deepEqual(more, []);
  assert.deepEqual(await warningsWith('hardware', 'attestation:Tpm'), []);
  assert.deepEqual(await warningsWith('qemu', 'attestation:Token'), []);
});

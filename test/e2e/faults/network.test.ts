/** Certificates that end or are replaced while all processes run; strangers by the thousand; connections that went dead. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import process from 'node:process';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Condition } from '../../../controller/api/meta.ts';
import { bitVisorAgents } from '../../../controller/api/meta.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { FrozenRelay } from '../../support/frozen-relay.ts';
import { makeTestCa } from '../../support/test-ca.ts';
import { Plant } from './plant.ts';
import { Service } from './service.ts';

const stranger = fileURLToPath(new URL('stranger.ts', import.meta.url));

let plant: Plant;
before(async () => {
  plant = await Plant.start();
});
after(() => plant.stop());

const condition = async (type: string): Promise<Condition | undefined> =>
  (await plant.agent('p0'))?.status?.conditions?.find((one) => one.type === type);
const connected = (): Promise<void> =>
  plant.until('the rack is ready', async () => (await condition('Ready'))?.status === 'True');

/** An allocation comes and goes: instructions and observations pass. */
async function works(): Promise<void> {
  await plant.allocate('job', 2);
  await plant.settled('job');
  await plant.release('job');
  await plant.until('its nodes are clean again', async () => {
    const isOver = (await plant.allocation('job')) === undefined;
    return isOver && (await plant.nodes()).every(({ status }) => status?.end === undefined);
  });
}

test('certificates of both sides are replaced on disk, and nothing is restarted', async () => {
  await connected();
  const since = (await condition('Ready'))?.lastTransitionTime;
  plant.writeIdentity('tls/p0', await plant.ca.issue('p0', ['p0']));
  plant.writeIdentity('tls/tls', await plant.ca.issue('bitvisor-operator'));
  for (const name of ['agents', 'one']) {
    const renewed = (): boolean => /renewed certificates are in force/.test(plant.service(name).output);
    await plant.until(`${name} took them into force`, renewed);
  }
  await works();
  assert.equal((await condition('Ready'))?.lastTransitionTime, since, 'the stream stood all the time');
});

test('half a file is said to be one and changes nothing', async () => {
  const whole = readFileSync(plant.path('tls/tls.crt'), 'utf8');
  writeFileSync(plant.path('tls/tls.crt'), whole.slice(0, 200));
  await plant.until('it is said', () => /renewed certificates cannot be used/.test(plant.service('one').output));
  await works();
  writeFileSync(plant.path('tls/tls.crt'), whole);
});

test("an agent's certificate that ends cuts the rack off with that reason, tenants run on, and a new one brings it back", async () => {
  await plant.allocate('long', 2);
  await plant.settled('long');
  const before = plant.history().length;
  plant.writeIdentity('tls/p0', await plant.ca.issue('p0', ['p0'], 9_000));
  // The stream that stands is under the certificate of before: only a new one meets the short one.
  await plant.service('agents').end('SIGKILL');
  plant.startAgents();
  await plant.until('it is refused', async () => (await condition('Stalled'))?.reason === 'Untrusted');
  assert.match((await condition('Stalled'))?.message ?? '', /certificate has expired/);
  assert.equal((await plant.allocation('long'))?.status?.ready, 2);
  plant.writeIdentity('tls/p0', await plant.ca.issue('p0', ['p0']));
  await connected();
  assert.equal((await condition('Stalled'))?.status, 'False');
  const touched = plant
    .history()
    .slice(before)
    .filter(({ event }) => ['imaged', 'wiped', 'power'].includes(event));
  assert.deepEqual(touched, []);
});

test("an operator's certificate that ends is said to be its own, and a new one is taken without a restart", async () => {
  plant.writeIdentity('tls/tls', await plant.ca.issue('bitvisor-operator', [], 9_000));
  await plant.service('one').end('SIGTERM');
  const operator = plant.startOperator('one');
  await plant.until('it is refused', async () => /operator's own/.test((await condition('Stalled'))?.message ?? ''));
  plant.writeIdentity('tls/tls', await plant.ca.issue('bitvisor-operator'));
  await connected();
  assert.equal(operator.isRunning, true);
});

test('the CA is replaced by way of both, and the old one is no longer believed', async () => {
  const next = await makeTestCa('next CA');
  const file = plant.path('tls/ca.crt');
  const inForce = async (work: () => void | Promise<void>): Promise<void> => {
    const count = (name: string): number =>
      plant.service(name).output.split('renewed certificates are in force').length;
    const old = new Map(['agents', 'one'].map((name) => [name, count(name)]));
    await work();
    for (const [name, before] of old) await plant.until(`${name} took it`, () => count(name) > before);
  };
  await inForce(() => writeFileSync(file, `${plant.ca.caPem}\n${next.caPem}`));
  await inForce(async () => {
    plant.writeIdentity('tls/p0', await next.issue('p0', ['p0']));
    plant.writeIdentity('tls/tls', await next.issue('bitvisor-operator'));
  });
  await inForce(() => writeFileSync(file, next.caPem));
  await connected();
  await works();
  // A stream that stands goes on: only a new one meets it.
  plant.writeIdentity('tls/p0', await plant.ca.issue('p0', ['p0']));
  await plant.service('agents').end('SIGKILL');
  plant.startAgents();
  await plant.until('the old CA is refused', async () => (await condition('Stalled'))?.reason === 'Untrusted');
  plant.writeIdentity('tls/p0', await next.issue('p0', ['p0']));
  await connected();
});

test('1,000 strangers a second do not keep the operator from its work, and cost the agent no memory', async () => {
  const pid = plant.service('agents').pid;
  const megabytes = (): number =>
    Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024;
  const sockets = (): number => Number(/TCP: inuse (\d+)/.exec(readFileSync('/proc/net/sockstat', 'utf8'))?.[1]);
  const [memory, open] = [megabytes(), sockets()];
  const flood = new Service([stranger, String(plant.ports.get('p0')), '1000']);
  try {
    await plant.until('they come', () => /rate \d{3,}/.test(flood.output));
    const since = (await condition('Ready'))?.lastTransitionTime;
    const startedAt = systemClock.monotonic();
    await works();
    await plant.service('one').end('SIGTERM');
    plant.startOperator('one');
    await connected();
    const seconds = (systemClock.monotonic() - startedAt) / 1000;
    const rates = [...flood.output.matchAll(/rate (\d+)/g)].map(([, rate]) => Number(rate));
    const mean = Math.round(rates.reduce((sum, rate) => sum + rate, 0) / rates.length);
    process.stdout.write(
      `${mean} connects/s over ${seconds.toFixed(1)} s: memory ${memory.toFixed(0)} → ${megabytes().toFixed(0)} MB, TCP sockets of the machine ${open} → ${sockets()}\n`,
    );
    assert.ok(since !== undefined);
    assert.ok(megabytes() < memory + 150, 'memory is bounded');
  } finally {
    await flood.end('SIGKILL');
  }
});

test('a connection that went dead is noticed by the operator, shown, and replaced', async () => {
  const relay = await FrozenRelay.before(`https://127.0.0.1:${plant.ports.get('p0')}`);
  try {
    const spec = { endpoint: relay.endpoint };
    await (await plant.client()).patch(bitVisorAgents, { name: 'p0' }, { spec }, { type: 'merge' });
    await plant.until('the relay is in use', () => relay.open() > 0);
    await connected();
    const reason = async (): Promise<string | undefined> => (await condition('Ready'))?.message;
    relay.freeze();
    await plant.until('it is noticed', async () => /nothing was heard/.test((await reason()) ?? ''));
    await connected();
    await plant.until('the agent gave it up as well', () => relay.givenUp() === relay.frozen());
    await works();
  } finally {
    relay.close();
  }
});

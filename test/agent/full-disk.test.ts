/** A full disk holds an agent up, and ends it not. What it stores is its own user's alone. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { test } from 'node:test';
import { AgentCore } from '../../agent/core.ts';
import type { Images, Vmm } from '../../agent/drivers/port.ts';
import { simulatedDrivers } from '../../agent/drivers/simulated/drivers.ts';
import { openSqliteLog } from '../../agent/log.ts';
import { freshRow, type Row } from '../../agent/row.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { AgentRoom, enrolment, environment, steps } from '../support/agent-room.ts';

test('a driver whose disk is full ends no agent: what rests on the act that failed waits until it succeeds', async (t) => {
  const room = new AgentRoom();
  t.after(() => room.close());
  await room.runAll(enrolment, 1);
  const served: string[] = [];
  let isFull = true;
  room.core.close();
  const drivers = simulatedDrivers(room.rack);
  const plan: Vmm['plan'] = (node, given) => {
    if (isFull && given !== undefined) throw new Error('no space left on device');
    drivers.vmm.plan(node, given);
  };
  const serve: Images['serve'] = (node, what, token) => {
    served.push(what);
    drivers.images.serve(node, what, token);
  };
  const { name, nodes, log, clock, errors } = room;
  room.core = new AgentCore({
    ...{ name, nodes, log, clock, version: 'test', random: seededRandom(3) },
    drivers: { ...drivers, vmm: { ...drivers.vmm, plan }, images: { ...drivers.images, serve } },
    onError: (error) => errors.push(error),
  });
  await room.run(steps.isolate(), 2);
  assert.equal(room.give(steps.reimage(), { epoch: 2 }).result, 'Accepted');
  await room.clock.runUntil(() => errors.length > 3);
  assert.match(String(errors[0]), /no space left/);
  assert.ok(!served.includes('Vmm'), 'the boot server answered with a plan that was not stored');
  isFull = false;
  await room.clock.runUntil(() => room.seen().operation?.status === 'Done');
  assert.equal(room.seen().guest.state, 'Running');
});

test('the log is for the agent alone, and what a tenant gave is gone from it once its row is', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'agent-log-'));
  const before = process.umask(0o022);
  t.after(() => {
    process.umask(before);
    rmSync(directory, { recursive: true });
  });
  const place = join(directory, 'rack');
  const log = openSqliteLog(join(place, 'log.sqlite'), 'store', 'PowerLoss');
  const secret = 'correct horse battery staple';
  const userData = { format: 'CloudInit', inline: secret.repeat(1000) } as const;
  const plan: Row['plan'] = {
    ...{ environment: { ...environment(), userData }, allocation: 'uid-1', hostname: 'host', sshKeys: [] },
  };
  log.write([{ ...freshRow('n0'), plan }], 1);
  for (const file of readdirSync(place)) assert.equal(statSync(join(place, file)).mode & 0o077, 0, file);
  assert.equal(statSync(place).mode & 0o077, 0);
  log.write([freshRow('n0')], 1);
  log.close();
  for (const file of readdirSync(place)) assert.ok(!readFileSync(join(place, file)).includes(secret), file);
});

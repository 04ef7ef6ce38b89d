/** A port that left its domain under a guest is closed by the agent, where nobody puts it back. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentRoom, enrolment, steps, tenancy } from '../support/agent-room.ts';

const minute = 60_000;

const domains = (room: AgentRoom, node = 'n0'): string[] =>
  room.rack
    .truth(node)
    .ports.filter(({ role }) => role === 'Data')
    .map(({ domain }) => domain);

async function running(): Promise<AgentRoom> {
  const room = new AgentRoom({ nodes: ['n0'] });
  await room.runAll(enrolment, 1);
  await room.runAll(tenancy, 2);
  return room;
}

test('a strayed port that nobody puts back is closed, and opened by the next isolate alone', async () => {
  const room = await running();
  room.rack.faults.inject('fabricDefaults');
  assert.deepEqual(domains(room), ['default', 'default']);
  await room.clock.advance(20_000);
  assert.deepEqual(domains(room), ['default', 'default']);
  await room.clock.advance(20_000);
  assert.deepEqual(domains(room), ['quarantine', 'quarantine']);
  await room.clock.advance(60 * minute);
  assert.deepEqual(domains(room), ['quarantine', 'quarantine']);
  assert.equal(room.rack.truth('n0').power, 'On');
  await room.runAll([steps.isolate()], 2);
  assert.deepEqual(domains(room), ['alloc-1', 'alloc-1']);
  room.close();
});

test('a strayed port that is put back in time is not closed', async () => {
  const room = await running();
  room.rack.faults.inject('fabricDefaults');
  await room.clock.advance(20_000);
  await room.runAll([steps.isolate()], 2);
  await room.clock.advance(10 * minute);
  const closed = room.events('port').filter(({ from, to }) => from === 'alloc-1' && to === 'quarantine');
  assert.deepEqual(closed, []);
  room.close();
});

test('a strayed port is closed while a newer epoch waits for a BMC that hangs', async () => {
  const room = await running();
  room.rack.faults.inject('bmcHang', { node: 'n0', lastsMs: 120 * minute });
  assert.equal(room.give(steps.off, { epoch: 2 }).result, 'Accepted');
  await room.clock.advance(minute);
  assert.equal(room.give(steps.isolate(), { epoch: 3 }).reason, 'Busy');
  room.rack.faults.inject('fabricDefaults');
  assert.equal(room.give(steps.isolate(), { epoch: 2 }).reason, 'StaleEpoch');
  assert.equal(room.give(steps.isolate(), { epoch: 3 }).reason, 'Busy');
  await room.clock.advance(minute);
  assert.deepEqual(domains(room), ['quarantine', 'quarantine']);
  room.close();
});

test('a strayed port is closed after a restart of the agent, and again once a switch that hung answers', async () => {
  const room = await running();
  room.rack.faults.inject('fabricStuck', { node: 'n0', lastsMs: 10 * minute });
  room.rack.faults.inject('fabricDefaults');
  room.restartAgent();
  await room.clock.advance(20 * minute);
  assert.deepEqual(domains(room), ['quarantine', 'quarantine']);
  room.close();
});

test('a port that strays while its guest shuts down is closed; the network of one that does not stray stays', async () => {
  const room = await running();
  room.rack.faults.inject('bmcSilent', { node: 'n0', lastsMs: 120 * minute });
  assert.equal(room.give(steps.drain(3600), { epoch: 3 }).result, 'Accepted');
  await room.clock.advance(minute);
  assert.deepEqual(domains(room), ['alloc-1', 'alloc-1']);
  room.rack.faults.inject('fabricDefaults');
  await room.clock.advance(minute);
  assert.equal(room.seen().operation?.status, 'Running');
  assert.deepEqual(domains(room), ['quarantine', 'quarantine']);
  room.close();
});

test('a port that leaves quarantine behind a fence is closed again while the guest may run', async () => {
  const room = await running();
  await room.runAll([steps.fence], 3);
  assert.deepEqual(domains(room), ['quarantine', 'quarantine']);
  room.rack.faults.inject('fabricDefaults');
  await room.clock.advance(minute);
  assert.deepEqual(domains(room), ['quarantine', 'quarantine']);
  room.close();
});

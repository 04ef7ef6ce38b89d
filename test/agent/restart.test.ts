import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { openSqliteRackStore, readRackHistory } from '../../agent/drivers/simulated/store.ts';
import { MemoryLog, openSqliteLog } from '../../agent/log.ts';
import type { Row } from '../../agent/row.ts';
import type { Instruction } from '../../controller/api/protocol.generated.ts';
import { AgentRoom, enrolment, environment, steps, type TestStep, tenancy } from '../support/agent-room.ts';

interface Planned {
  readonly step: TestStep;
  readonly epoch: number;
}

/** A machine's whole life, twice. */
const life: readonly Planned[] = [
  ...enrolment.map((step) => ({ step, epoch: 1 })),
  ...tenancy.map((step) => ({ step, epoch: 2 })),
  ...[steps.drain(), ...enrolment].map((step) => ({ step, epoch: 3 })),
];

/** Runs the whole life; after every `everyMs` of the machine's time, `interrupt` happens. */
async function live(room: AgentRoom, everyMs: number, interrupt: (room: AgentRoom) => void): Promise<void> {
  for (const [index, { step, epoch }] of life.entries()) {
    const instruction = { operationId: `life-${index}`, node: 'n0', epoch, ...step } as Instruction;
    const give = (): void => {
      room.core.instruct({ term: 1, instructions: [instruction] });
    };
    give();
    for (
      let turn = 0;
      room.seen().operation?.id !== `life-${index}` || room.seen().operation?.status !== 'Done';
      turn++
    ) {
      assert.ok(turn < 3_000, `${step.verb} does not end: ${JSON.stringify(room.seen().operation)}`);
      assert.notEqual(room.seen().operation?.status, 'Failed', JSON.stringify(room.seen().operation));
      await room.clock.advance(everyMs);
      interrupt(room);
      // As an operator does that does not know what became of it.
      give();
    }
  }
}

function assertLivedOnce(room: AgentRoom): void {
  const count = (event: string): number => room.events(event).length;
  assert.deepEqual(
    {
      imaged: count('imaged'),
      wiped: count('wiped'),
      attested: count('attested'),
      devirtualized: count('devirtualized'),
    },
    { imaged: 1, wiped: 4, attested: 2, devirtualized: 1 },
  );
  assert.equal(room.seen().record.certificate?.epoch, 3);
  assert.deepEqual(room.errors, []);
}

for (const everyMs of [137, 1_009, 7_919]) {
  test(`an agent that dies every ${everyMs} ms of its machines' time does everything, and once`, async () => {
    const room = new AgentRoom({ nodes: ['n0'] });
    await live(room, everyMs, (it) => it.restartAgent());
    assertLivedOnce(room);
    room.close();
  });
}

test('machines that are found again as they were stored go on, and nothing is done twice', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'agent-'));
  try {
    const path = join(directory, 'room.sqlite');
    const store = openSqliteRackStore(path, 10_000);
    // The rack closes its store with itself; here the file is what goes on.
    const reopened = { ...store, close: () => {} };
    const room = new AgentRoom({ nodes: ['n0'], store: reopened });
    await live(room, 2_003, (it) => it.restartProcess());
    assertLivedOnce(room);
    room.close();
    assert.equal(readRackHistory(path).filter(({ event }) => event === 'imaged').length, 1);
    store.close();
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test('the log keeps store id, terms and rows, and a torn write changes nothing', () => {
  const directory = mkdtempSync(join(tmpdir(), 'agent-'));
  try {
    const path = join(directory, 'rack', 'log.sqlite');
    const first = openSqliteLog(path, 'first', 'PowerLoss');
    const room = new AgentRoom({ log: first });
    room.give(steps.fence, { epoch: 7, term: 9 });
    const [row] = first.load().filter(({ node }) => node === 'n0');
    assert.ok(row);
    const unwritable = { ...row, node: null } as unknown as typeof row;
    assert.throws(() => first.write([{ ...row, epoch: 99 }, unwritable], 99));
    room.close();
    first.close();
    const second = openSqliteLog(path, 'second', 'PowerLoss');
    assert.equal(second.storeId, 'first');
    assert.equal(second.highestTerm(), 9);
    assert.equal(second.load().find(({ node }) => node === 'n0')?.epoch, 7);
    second.close();
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test('an agent whose log forgot a running tenant takes no new one for the machine', async () => {
  const log = new MemoryLog('store-1', 'Manual');
  const room = new AgentRoom({ nodes: ['n0'], log });
  await room.runAll(enrolment, 1);
  await room.runAll(tenancy.slice(0, 2), 2);
  log.crash();
  room.restartAgent();
  assert.equal(room.seen().record.guestStarted, false);
  assert.equal(room.seen().guest.state, 'Running');
  assert.equal(room.give(steps.isolate('alloc-2', 'uid-2'), { epoch: 3 }).reason, 'NotAllowed');
  assert.equal(room.events('imaged').length, 1);
  room.close();
});

test('an agent whose log went back to a certified machine takes no tenant for it while a hypervisor runs there', async () => {
  const log = new MemoryLog('store-1', 'Manual');
  const room = new AgentRoom({ nodes: ['n0'], log });
  await room.runAll(enrolment, 1);
  log.flush();
  await room.runAll(tenancy.slice(0, 2), 2);
  log.crash();
  room.restartAgent();
  assert.notEqual(room.seen().record.certificate, undefined);
  const refused = room.give(steps.isolate('alloc-2', 'uid-2'), { epoch: 3 });
  assert.deepEqual([refused.reason, room.seen().vmm], ['NotAllowed', 'Resident']);
  room.close();
});

test('an agent whose log is lost keeps provisioning from a machine that comes up from its own disk', async () => {
  const log = new MemoryLog('store-1', 'Manual');
  const room = new AgentRoom({ nodes: ['n0'], log });
  await room.runAll(enrolment, 1);
  await room.runAll(tenancy.slice(0, 3), 2);
  log.crash();
  room.restartAgent();
  room.rack.reset(room.rack.machine('n0'));
  await room.clock.runUntil(() => room.events('guest').at(-1)?.throughVmm === false);
  assert.equal(room.seen().record.epoch, 0);
  assert.equal(room.events('guest').at(-1)?.control, 'closed');
  room.close();
});

test('an agent whose log went back to an isolate that ran opens no control port under a guest that has its machine alone', async () => {
  const log = new MemoryLog('store-1', 'Manual');
  const room = new AgentRoom({ nodes: ['n0'], log });
  await room.runAll(enrolment, 1);
  room.give(steps.isolate(), { epoch: 2, id: 'isolate' });
  await room.clock.advance(1);
  assert.deepEqual([room.seen().operation?.id, room.seen().operation?.status], ['isolate', 'Running']);
  log.flush();
  await room.clock.runUntil(() => room.seen().operation?.status === 'Done');
  await room.runAll(tenancy.slice(1), 2);
  const opened = (): number => room.events('port').filter(({ to }) => to === 'provisioning').length;
  const before = opened();
  log.crash();
  room.restartAgent();
  await room.clock.advance(3_600_000);
  assert.deepEqual([opened(), room.rack.truth('n0').power], [before, 'On']);
  room.close();
});

for (const [what, isUpdate] of [
  ['a first image', false],
  ['an update', true],
] as const) {
  test(`an agent whose log went back to ${what} that was being made leaves the guest that runs by now alone`, async () => {
    const log = new MemoryLog('store-1', 'Manual');
    const room = new AgentRoom({ nodes: ['n0'], log });
    await room.runAll(enrolment, 1);
    await room.runAll(isUpdate ? tenancy : tenancy.slice(0, 1), 2);
    const epoch = isUpdate ? 3 : 2;
    if (isUpdate) await room.runAll(tenancy.slice(0, 1), epoch);
    room.give(steps.reimage(environment('r2')), { epoch, id: 'reimage' });
    await room.clock.advance(1);
    log.flush();
    await room.clock.runUntil(() => room.seen().operation?.status === 'Done');
    await room.runAll(tenancy.slice(2), epoch);
    const imaged = room.events('imaged').length;
    log.crash();
    room.restartAgent();
    await room.clock.advance(24 * 3_600_000);
    assert.deepEqual([room.seen().operation?.id, room.seen().operation?.awaitsWord], ['reimage', true]);
    const { power, stage } = room.rack.truth('n0');
    assert.deepEqual([power, stage, room.events('imaged').length], ['On', 'BareMetal', imaged]);
    room.close();
  });
}

test('an agent that starts goes on with what was under way once it is asked for again, under its id', async () => {
  const room = new AgentRoom({ nodes: ['n0'] });
  await room.runAll(enrolment, 1);
  await room.runAll(tenancy.slice(0, 1), 2);
  room.give(steps.reimage(), { epoch: 2, id: 'reimage' });
  room.restartAgent();
  await room.clock.advance(60_000);
  assert.equal(room.seen().operation?.awaitsWord, true);
  room.give(steps.reimage(), { epoch: 2, id: 'reimage' });
  await room.clock.runUntil(() => room.seen().operation?.status === 'Done');
  assert.equal(room.events('imaged').length, 1);
  room.close();
});

test('an agent whose log went back to an isolate takes no port of the tenant that has the machine by now', async () => {
  const log = new MemoryLog('store-1', 'Manual');
  const room = new AgentRoom({ nodes: ['n0'], log });
  await room.runAll(enrolment, 1);
  room.give(steps.isolate(), { epoch: 2, id: 'isolate' });
  log.flush();
  await room.clock.runUntil(() => room.seen().operation?.status === 'Done');
  await room.runAll([steps.drain(), ...enrolment], 3);
  await room.runAll([steps.isolate('alloc-2', 'uid-2'), steps.reimage(environment(), 'uid-2')], 4);
  log.crash();
  room.restartAgent();
  await room.clock.advance(3_600_000);
  assert.deepEqual(
    room
      .seen()
      .ports.filter(({ role }) => role === 'Data')
      .map(({ domain }) => domain),
    ['alloc-2', 'alloc-2'],
  );
  room.close();
});

/** Its process dies once "commit sent" is durable, before anything is done about it. */
class DiesBehindCommit extends MemoryLog {
  dies = true;

  override write(rows: readonly Row[], highestTerm: number): void {
    super.write(rows, highestTerm);
    if (this.dies && rows.some(({ commitSent }) => commitSent)) throw new Error('the agent dies here');
  }
}

test('a boot order that a tenant turns while the agent is dead is put right before the hypervisor leaves', async () => {
  const log = new DiesBehindCommit('store-1');
  const room = new AgentRoom({ nodes: ['n0'], log });
  await room.runAll(enrolment, 1);
  await room.runAll(tenancy.slice(0, 3), 2);
  room.give(steps.commit, { epoch: 2, id: 'commit' });
  await room.clock.advance(10);
  assert.deepEqual([log.load()[0]?.commitSent, room.events('devirtualized').length], [true, 0]);
  room.rack.faults.inject('setsOrder', { node: 'n0' });
  log.dies = false;
  room.restartAgent();
  room.give(steps.commit, { epoch: 2, id: 'commit' });
  await room.clock.runUntil(() => room.seen().operation?.status === 'Done');
  assert.equal(room.events('devirtualized').at(-1)?.order, 'Disk');
  assert.equal(room.seen().ports.find(({ role }) => role === 'Control')?.domain, 'closed');
  room.close();
});

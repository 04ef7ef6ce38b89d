import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentRoom, enrolment, environment, steps, type TestStep, tenancy } from '../support/agent-room.ts';

async function inRoom(
  body: (room: AgentRoom) => Promise<void>,
  options?: ConstructorParameters<typeof AgentRoom>[0],
): Promise<void> {
  const room = new AgentRoom(options);
  try {
    await body(room);
    assert.deepEqual(room.errors, []);
  } finally {
    room.close();
  }
}

const reasonFor = (room: AgentRoom, step: TestStep, epoch: number, term = 1): string | undefined =>
  room.give(step, { epoch, term }).reason;

test('a lower term is refused for every node, also after a restart', () =>
  inRoom(async (room) => {
    assert.equal(room.core.instruct({ term: 5, instructions: [] }).highestTerm, 5);
    assert.equal(reasonFor(room, steps.fence, 1, 4), 'StaleTerm');
    room.restartAgent();
    assert.equal(reasonFor(room, steps.fence, 1, 4), 'StaleTerm');
    assert.equal(reasonFor(room, steps.fence, 1, 5), undefined);
  }));

test('a lower epoch is refused, also after a restart', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment, 3);
    assert.equal(reasonFor(room, steps.isolate(), 2), 'StaleEpoch');
    room.restartAgent();
    assert.equal(reasonFor(room, steps.isolate(), 2), 'StaleEpoch');
  }));

test('a machine without a clean certificate takes no tenant', () =>
  inRoom(async (room) => {
    assert.equal(reasonFor(room, steps.isolate(), 1), 'NotAllowed');
    assert.equal(reasonFor(room, steps.reimage(), 1), 'NotIsolated');
    await room.runAll(enrolment.slice(0, 4), 1);
    assert.equal(reasonFor(room, steps.isolate(), 2), 'NotAllowed');
  }));

test('a machine that a tenant used takes no other tenant, and nobody else takes its epoch', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment, 1);
    await room.runAll(tenancy.slice(0, 2), 2);
    assert.equal(reasonFor(room, steps.isolate('alloc-2', 'uid-2'), 3), 'NotAllowed');
    assert.equal(reasonFor(room, steps.reimage(environment(), 'uid-2'), 3), 'NotIsolated');
    assert.equal(reasonFor(room, steps.reimage(environment(), 'uid-2'), 2), 'Conflict');
    for (const step of [steps.fence, steps.drain(), steps.attest, steps.check]) {
      assert.equal(reasonFor(room, step, 2), 'NotAllowed', step.verb);
    }
    assert.equal(room.seen().record.ended, false);
  }));

test('an id that was used for one allocation is not accepted for another', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment, 1);
    const isolate = (domain: string, allocation: string): string | undefined =>
      room.give(steps.isolate(domain, allocation), { epoch: 2, id: 'isolate' }).reason;
    assert.equal(isolate('alloc-1', 'uid-1'), undefined);
    assert.equal(isolate('alloc-1', 'uid-1'), undefined);
    assert.equal(isolate('alloc-2', 'uid-2'), 'Conflict');
    await room.clock.advance(1);
    assert.equal(room.seen().record.allocation, 'uid-1');
  }));

test('reimage waits for isolation that was read back, not for one that was asked for', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment, 1);
    assert.equal(room.give(steps.isolate(), { epoch: 2 }).result, 'Accepted');
    assert.equal(reasonFor(room, steps.reimage(), 2), 'Busy');
    await room.clock.runUntil(() => room.seen().operation?.status === 'Done' && room.seen().record.epoch === 2);
    const [port] = room.rack.machine('n0').ports;
    assert.ok(port);
    port.domain = 'default';
    assert.equal(reasonFor(room, steps.reimage(), 2), 'NotIsolated');
    assert.equal(room.seen().power, 'Off');
  }));

test('commit is refused unless prepared, and prepare unless every block is local', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment, 1);
    await room.runAll([steps.isolate(), steps.reimage(environment('r1', { sizeBytes: 64 * 2 ** 30 }))], 2);
    assert.equal(reasonFor(room, steps.prepare, 2), 'NotPrepared');
    assert.equal(reasonFor(room, steps.commit, 2), 'NotPrepared');
    assert.equal(await room.run(steps.prepare, 2), 'Done');
    assert.equal(room.seen().prepared, true);
    await room.run(steps.commit, 2);
    assert.equal(reasonFor(room, steps.reimage(), 2), 'Conflict');
    assert.equal(room.events('imaged').length, 1);
  }));

test('attest is refused unless fenced and off, wipe unless attested, check unless wiped', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment, 1);
    await room.runAll(tenancy.slice(0, 2), 2);
    assert.equal(reasonFor(room, steps.wipe, 3), 'NotAttested');
    assert.equal(reasonFor(room, steps.attest, 3), 'NotAllowed');
    assert.equal(room.seen().record.epoch, 2);
    await room.run(steps.off, 3);
    assert.equal(room.seen().record.ended, false);
    assert.equal(reasonFor(room, steps.attest, 3), 'NotAllowed');
    assert.equal(reasonFor(room, steps.wipe, 3), 'NotAllowed');
    await room.run(steps.fence, 3);
    assert.equal(reasonFor(room, steps.wipe, 3), 'NotAttested');
    await room.run(steps.attest, 3);
    assert.equal(reasonFor(room, steps.check, 3), 'NotAllowed');
    assert.equal(reasonFor(room, steps.on, 3), 'NotAllowed');
    assert.equal(room.events('wiped').length, 2);
  }));

test('an attested boot that ended is no attestation any more', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment.slice(0, 3), 1);
    room.rack.reset(room.rack.machine('n0'));
    await room.clock.advance(1);
    assert.equal(room.seen().reclaim.attestedNonce, '');
    assert.equal(reasonFor(room, steps.wipe, 1), 'NotAttested');
  }));

test('a newer epoch waits until what runs under the older one can have no effect', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment, 1);
    await room.runAll(tenancy.slice(0, 1), 2);
    assert.equal(room.give(steps.reimage(), { epoch: 2 }).result, 'Accepted');
    await room.clock.advance(0);
    assert.equal(reasonFor(room, steps.fence, 3), 'Busy');
    await room.clock.advance(0);
    assert.equal(room.seen().operation?.status, 'Cancelled');
    assert.equal(reasonFor(room, steps.reimage(), 2), 'StaleEpoch');
    await room.clock.advance(5_000);
    assert.equal(room.give(steps.fence, { epoch: 3 }).result, 'Accepted');
    await room.clock.runUntil(() => room.seen().operation?.status === 'Done');
    assert.equal(room.events('guest').length, 0);
  }));

test('an end waits for no trusted image that hangs, and counts nothing of what it did', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment.slice(0, 3), 1);
    assert.equal(room.give({ verb: 'wipe', args: { erase: 'Full' } }, { epoch: 1 }).result, 'Accepted');
    await room.clock.advance(1_000);
    assert.equal(room.seen().operation?.status, 'Running');
    assert.equal(reasonFor(room, steps.isolate(), 2), 'NotAllowed');
    await room.runAll(enrolment, 2);
    const { certificate } = room.seen().record;
    assert.deepEqual([certificate?.epoch, certificate?.erase], [2, 'Quick']);
  }));

test('an update erases the target disk of the same allocation alone, under its newer epoch', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment, 1);
    await room.runAll(tenancy, 2);
    assert.equal(await room.run(steps.reimage(environment('r2')), 3), 'Done');
    const { record, guest } = room.seen();
    assert.deepEqual([record.epoch, record.revision, record.commitSent, guest.starts], [3, 'r2', false, 1]);
    assert.deepEqual(
      room.events('imaged').map(({ revision }) => revision),
      ['r1', 'r2'],
    );
  }));

test('an image with another digest is never booted, and trying again is no use', () =>
  inRoom(
    async (room) => {
      await room.runAll(enrolment, 1);
      await room.run(steps.isolate(), 2);
      assert.equal(await room.run(steps.reimage(), 2), 'Failed');
      const { operation, record } = room.seen();
      assert.deepEqual([operation?.failure?.code, operation?.failure?.retryable], ['ImageDigestMismatch', false]);
      assert.equal(record.guestStarted, false);
      assert.ok(record.certificate);
      await room.clock.advance(10_000);
      assert.equal(room.rack.machine('n0').exported, 'Closed');
    },
    { room: { rottenImages: [environment().image.url] } },
  ));

test('an image that no disk can hold fails at once', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment, 1);
    await room.run(steps.isolate(), 2);
    assert.equal(await room.run(steps.reimage(environment('r1', { sizeBytes: 2 ** 50 })), 2), 'Failed');
    assert.equal(room.seen().operation?.failure?.code, 'ImageTooLarge');
  }));

test('a reboot keeps the epoch, the map and what was copied; a torn map is a failure and no restart', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment, 1);
    await room.runAll([steps.isolate(), steps.reimage(environment('r1', { sizeBytes: 64 * 2 ** 30 }))], 2);
    await room.clock.advance(60_000);
    const before = room.seen().copy.localBytes;
    assert.ok(before > 0);
    const machine = room.rack.machine('n0');
    room.rack.cutPower(machine);
    await room.clock.advance(1_000);
    assert.deepEqual([room.seen().power, room.seen().guest.state], ['Off', 'Off']);
    assert.equal(room.seen().copy.localBytes >= before, true, 'progress is not unsaid by a reboot');
    room.rack.givePower(machine);
    await room.clock.runUntil(() => room.seen().guest.starts === 2);
    assert.ok(room.seen().copy.localBytes >= before);
    const disk = machine.disks.find(({ map }) => map !== undefined);
    assert.ok(disk?.map);
    disk.map.state = 'Invalid';
    room.rack.reset(machine);
    await room.clock.runUntil(() => room.rack.machine('n0').failure !== undefined);
    await room.clock.advance(1);
    assert.equal(room.seen().guest.failure?.code, 'MapInvalid');
    assert.equal(room.seen().copy.map, 'Invalid');
    assert.equal(reasonFor(room, steps.prepare, 2), 'NotPrepared');
    assert.equal(room.seen().guest.state, 'Off');
    assert.equal(room.events('imaged').length, 1);
  }));

test('a failed step is reported with its code, and a new operation does it again', () =>
  inRoom(async (room) => {
    room.rack.failNext('n0', 'attest');
    await room.runAll(enrolment.slice(0, 2), 1);
    assert.equal(await room.run(steps.attest, 1), 'Failed');
    assert.equal(room.seen().operation?.failure?.code, 'AttestationFailed');
    await room.runAll([steps.off, ...enrolment.slice(2)], 1);
    room.rack.failNext('n0', 'vmmLoad');
    await room.run(steps.isolate(), 2);
    assert.equal(await room.run(steps.reimage(), 2), 'Failed');
    assert.equal(room.seen().operation?.failure?.code, 'VmmFailed');
    assert.equal(await room.run(steps.reimage(), 2), 'Done');
  }));

test('a log that cannot be written accepts nothing', () =>
  inRoom(async (room) => {
    const { log } = room as { log: { nextError?: Error } };
    log.nextError = new Error('disk full');
    assert.throws(() => room.give(steps.fence, { epoch: 1 }), /disk full/);
    assert.equal(room.seen().record.epoch, 0);
    assert.equal(room.give(steps.fence, { epoch: 1 }).result, 'Accepted');
  }));

test('a throttle of 0 stops the copy, and lifting it finishes it', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment, 1);
    await room.runAll(tenancy.slice(0, 2), 2);
    await room.run(steps.throttle(0), 2);
    const stopped = room.rack.machine('n0').disks.find(({ map }) => map)?.map?.localBytes;
    await room.clock.advance(3_600_000);
    assert.equal(room.rack.machine('n0').disks.find(({ map }) => map)?.map?.localBytes, stopped);
    await room.run(steps.throttle(100e6), 2);
    await room.clock.runUntil(() => room.seen().copy.flushed);
  }));

test('an uncertain commit closes the control port, re-images nothing, and may be asked for again', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment, 1);
    await room.runAll(tenancy.slice(0, 3), 2);
    room.rack.failNext('n0', 'devirtualize');
    assert.equal(await room.run(steps.commit, 2), 'Failed');
    const { operation, ports, record } = room.seen();
    assert.equal(operation?.failure?.code, 'VmmFailed');
    assert.equal(record.commitSent, true);
    assert.equal(ports.find(({ role }) => role === 'Control')?.domain, 'closed');
    assert.equal(reasonFor(room, steps.reimage(), 2), 'Conflict');
    assert.equal(await room.run(steps.commit, 2), 'Done');
    assert.equal(room.seen().vmm, 'Absent');
  }));

test('an update may isolate first: the guest runs on until the reimage of the newer epoch', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment, 1);
    await room.runAll(tenancy.slice(0, 2), 2);
    assert.equal(await room.run(steps.isolate(), 3), 'Done');
    const { guest, copy, record } = room.seen();
    assert.deepEqual([guest.state, guest.starts, copy.totalBytes, record.guestStarted], ['Running', 0, 0, true]);
    assert.equal(await room.run(steps.reimage(environment('r2')), 3), 'Done');
    assert.deepEqual([room.seen().guest.starts, room.seen().record.revision], [1, 'r2']);
  }));

test('power that comes back under a tenancy boots the same epoch, and isolation that drifted keeps it off', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment, 1);
    await room.runAll(tenancy.slice(0, 2), 2);
    await room.runAll([steps.off], 2);
    const machine = room.rack.machine('n0');
    machine.ports = machine.ports.map((port) => (port.name === 'ib0' ? { ...port, domain: 'default' } : port));
    assert.equal(reasonFor(room, steps.on, 2), 'NotIsolated');
    await room.runAll([steps.isolate(), steps.on], 2);
    await room.clock.runUntil(() => room.seen().guest.starts === 2);
    assert.equal(room.events('imaged').length, 1);
  }));

test('an instruction that comes once more, late, is not carried out again', () =>
  inRoom(async (room) => {
    await room.runAll(enrolment.slice(0, 3), 1);
    const wipe = { epoch: 1, id: 'wipe' };
    const isWiped = (): boolean => {
      const { operation } = room.seen();
      return operation?.id === 'wipe' && operation.status === 'Done';
    };
    assert.equal(room.give(steps.wipe, wipe).result, 'Accepted');
    await room.clock.runUntil(isWiped);
    assert.equal(room.give(steps.wipe, wipe).result, 'Accepted');
    await room.clock.advance(1);
    assert.ok(isWiped());
    await room.runAll([steps.check], 1);
    await room.runAll(tenancy.slice(0, 1), 2);
    const [first, later] = [steps.isolate(), steps.isolate('alloc-2', 'uid-2')];
    for (const [step, id, result] of [
      [first, 'first', 'Accepted'],
      [later, 'later', 'Accepted'],
      [later, 'later', 'Accepted'],
      [first, 'first', 'Refused'],
    ] as const) {
      assert.equal(room.give(step, { epoch: 2, id }).result, result);
      await room.clock.advance(60_000);
    }
    const domains = room.seen().ports.filter(({ role }) => role === 'Data');
    assert.deepEqual([...new Set(domains.map(({ domain }) => domain))], ['alloc-2']);
    assert.equal(room.seen().record.allocation, 'uid-2');
    assert.equal(room.give(steps.reimage(), { epoch: 2, id: 'later' }).reason, 'Conflict');
    assert.equal(room.events('wiped').length, 2);
  }));

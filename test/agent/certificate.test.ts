/** How a machine was attested, from the reading of a driver to the certificate that an auditor reads. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Decision, decide } from '../../agent/decide.ts';
import { readNode } from '../../agent/drivers/port.ts';
import { simulatedDrivers } from '../../agent/drivers/simulated/drivers.ts';
import type { Row } from '../../agent/row.ts';
import type { Attestation } from '../../controller/api/protocol.generated.ts';
import { parseLine } from '../../controller/api/protocol.ts';
import { certificateRecord } from '../../controller/domain/node-records.ts';
import { AgentRoom, enrolment, steps } from '../support/agent-room.ts';
import { MachineHall, testRoom } from '../support/machine-hall.ts';

const tpm: Attestation = { method: 'Tpm', referenceSha256: 'ab'.repeat(32) };

function rowOf({ log }: AgentRoom): Row {
  const row = log.load().find(({ node }) => node === 'n0');
  assert.ok(row);
  return row;
}

/** The last step of a reclaim from this row, where the driver says of the attestation what it is made to say. */
function certified(room: AgentRoom, row: Row, said: Attestation | undefined): Row {
  const readings = readNode(simulatedDrivers(room.rack), 'n0');
  const { attestation: _truly, ...trusted } = readings.vmm.trusted;
  const told = { ...trusted, checked: true, ...(said === undefined ? {} : { attestation: said }) };
  const decision: Decision = decide(
    row,
    {
      ...readings,
      vmm: { ...readings.vmm, trusted: told },
      power: { ...readings.power, state: 'Off' },
      images: { ...readings.images, serving: 'Nothing' },
    },
    { expired: new Set(), nowMs: 0 },
  );
  assert.ok(decision.row.certificate);
  return decision.row;
}

test('the certificate says how its boot was attested, and what a driver says later is not in it', async (t) => {
  const room = new AgentRoom();
  t.after(() => room.close());
  await room.runAll(enrolment.slice(0, -1), 1);
  assert.deepEqual(rowOf(room).reclaim.attestation, { method: 'Token' });
  assert.equal(room.give(steps.check, { epoch: 1 }).result, 'Accepted');
  const row = rowOf(room);
  assert.deepEqual(certified(room, row, tpm).certificate?.attestation, { method: 'Token' });
  assert.deepEqual(certified(room, row, undefined).certificate?.attestation, { method: 'Token' });
  // As the log of an agent holds it that did not know of it yet.
  const { attestation: _unknown, ...reclaim } = row.reclaim;
  assert.equal(certified(room, { ...row, reclaim }, tpm).certificate?.attestation, undefined);
});

test('with the boot that was attested goes how it was', async (t) => {
  const room = new AgentRoom();
  t.after(() => room.close());
  await room.runAll(enrolment.slice(0, -1), 1);
  await room.runAll([steps.off], 1);
  assert.deepEqual([rowOf(room).reclaim.attestedNonce, rowOf(room).reclaim.attestation], ['', undefined]);
  await room.runAll([steps.attest], 1);
  assert.deepEqual(rowOf(room).reclaim.attestation, { method: 'Token' });
});

test('an attestation by token cannot name reference values, and one by TPM has to', async (t) => {
  const room = new AgentRoom();
  t.after(() => room.close());
  await room.runAll(enrolment, 1);
  const { record, ...seen } = room.seen();
  assert.ok(record.certificate);
  const { attestation: _own, ...certificate } = record.certificate;
  const line = (attestation?: unknown): string =>
    JSON.stringify({
      ...{ type: 'node', seq: 1 },
      node: { ...seen, record: { ...record, certificate: { ...certificate, attestation } } },
    });
  for (const right of [undefined, { method: 'Token' }, tpm]) parseLine(line(right));
  for (const wrong of [{ method: 'Tpm' }, { ...tpm, method: 'Token' }, { method: 'Unknown' }, { ...tpm, more: 1 }, {}])
    assert.throws(() => parseLine(line(wrong)), /attestation/, JSON.stringify(wrong));
});

test('a node shows how it was attested', async (t) => {
  const hall = new MachineHall({ r0: 'r0n[0-1]' }, { ...testRoom, zeroDelays: true });
  t.after(() => hall.stop());
  await hall.addAgents();
  await hall.start();
  const shown = (name: string): unknown =>
    hall.nodes().find(({ metadata }) => metadata.name === name)?.status?.certificate?.attestation;
  await hall.clock.runUntil(() => hall.inState('Available') === 2);
  assert.deepEqual([shown('r0n0'), shown('r0n1')], [{ method: 'Token' }, { method: 'Token' }]);
});

test('what a log does not say of an attestation is unknown', async (t) => {
  const room = new AgentRoom();
  t.after(() => room.close());
  await room.runAll(enrolment, 1);
  const seen = room.seen();
  const { certificate } = seen.record;
  assert.ok(certificate);
  const recorded = (attestation: Attestation | undefined): unknown => {
    const { attestation: _own, ...rest } = certificate;
    const record = { ...seen.record, certificate: attestation === undefined ? rest : { ...rest, attestation } };
    return certificateRecord({ facts: { ...seen, record } }).certificate?.attestation;
  };
  assert.deepEqual([undefined, tpm, { method: 'Token' } as const].map(recorded), [
    { method: 'Unknown' },
    tpm,
    { method: 'Token' },
  ]);
});

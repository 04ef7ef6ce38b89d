/** A machine that does not prove what it booted, as a person sees it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MachineHall, testRoom } from '../support/machine-hall.ts';

test('a node whose attestation fails is held, says why, is fenced, and has no certificate', async () => {
  const hall = new MachineHall({ r0: 'r0n0' }, { ...testRoom, failureRates: { attest: 1 } });
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(
    () => hall.inState('Quarantined') === 1 && hall.nodes()[0]?.status?.lastError?.code === 'AttestationFailed',
  );
  const { status } = hall.nodes()[0] ?? {};
  assert.equal(status?.lastError?.code, 'AttestationFailed');
  assert.match(status?.lastError?.message ?? '', /^attestation: /);
  assert.equal(hall.history('r0n0', 'wiped'), 0);
  const { record, ports } = hall.operator?.fleet.lastFactsOf('r0n0') ?? {};
  assert.equal(record?.certificate, undefined);
  assert.ok(ports?.filter(({ role }) => role === 'Data').every(({ domain }) => domain === 'quarantine'));
  await hall.stop();
});

test('whoever looks at an agent sees that its machines are attested by token alone', async () => {
  const hall = new MachineHall({ r0: 'r0n0' });
  hall.capabilities.push('attestation:Token');
  hall.restartAgent('r0');
  await hall.addAgents();
  await hall.start();
  const ready = (): { status: string; message: string } | undefined =>
    hall.operator?.fleet.agents.getByKey('r0')?.status?.conditions?.find(({ type }) => type === 'Ready');
  await hall.clock.runUntil(() => ready()?.status === 'True');
  assert.match(ready()?.message ?? '', /attested by token alone/);
  await hall.stop();
});

/** A guest that runs stays isolated, whatever else is going on with its node. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { computeEnvironments } from '../../controller/api/meta.ts';
import { MachineHall } from '../support/machine-hall.ts';

const minute = 60_000;

test('a port that strays while an update cannot begin is put back once the switch answers again', async () => {
  const hall = new MachineHall({ r0: 'r0n0' });
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  await hall.environment('rocky');
  await hall.allocation('job', 'rocky', 1, { update: { policy: 'Rolling', maxUnavailable: 1 } });
  await hall.clock.runUntil(() => hall.inState('Devirtualizing') === 1);
  const rack = hall.racks.get('r0')?.rack;
  const domain = (): string | undefined => rack?.machine('r0n0').ports.find(({ name }) => name === 'eth0')?.domain;
  const own = domain();
  // The control port is still to be closed, so the agent takes no newer epoch.
  rack?.faults.inject('fabricLate', { node: 'r0n0', lastsMs: 120 * minute });
  await hall.clock.runUntil(() => hall.history('r0n0', 'devirtualized') === 1);
  const url = 'https://images.example/new.raw';
  const image = { url, size: '8Gi', format: 'Raw', sha256: hall.digestOf(url) };
  const environment = { namespace: 'cfd', name: 'rocky' };
  await hall.kube.patch(computeEnvironments, environment, { spec: { image } }, { type: 'merge' });
  await hall.clock.advance(60 * minute);
  assert.equal(hall.nodes()[0]?.status?.state, 'Isolating');
  assert.equal(hall.nodes()[0]?.status?.lastError?.code, 'Deadline');
  rack?.faults.inject('fabricDefaults', { node: 'r0n0' });
  assert.notEqual(domain(), own);
  await hall.clock.advance(120 * minute);
  assert.equal(domain(), own);
  await hall.stop();
});

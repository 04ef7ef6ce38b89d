/** A guest that runs stays isolated, whatever else is going on with its node. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { computeEnvironments, nodeAllocations, physicalNodes } from '../../controller/api/meta.ts';
import { MachineHall } from '../support/machine-hall.ts';

const minute = 60_000;
const merge = { type: 'merge' } as const;
const statusMerge = { type: 'merge', subresource: 'status' } as const;

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

test('an agent that has seen a newer epoch than a restored record knows is held, and its guest stays out of other domains', async () => {
  const hall = new MachineHall({ r0: 'r0n0' });
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  const environment = await hall.environment('rocky');
  await hall.allocation('job', 'rocky', 1, { update: { policy: 'Rolling', maxUnavailable: 1 } });
  await hall.clock.runUntil(() => hall.inState('Devirtualizing') === 1);
  const rack = hall.racks.get('r0')?.rack;
  // The control port is still to be closed, so the agent takes no newer epoch.
  rack?.faults.inject('fabricLate', { node: 'r0n0', lastsMs: 120 * minute });
  await hall.clock.runUntil(() => hall.history('r0n0', 'devirtualized') === 1);
  const backup = hall.nodes()[0]?.status;
  const ofJob = hall.seen('job')?.status;
  await hall.newImage('rocky');
  await hall.clock.runUntil(() => hall.nodes()[0]?.status?.epoch === (backup?.epoch ?? 0) + 1);
  await hall.clock.advance(minute);
  await hall.kube.patch(computeEnvironments, { namespace: 'cfd', name: 'rocky' }, { spec: environment.spec }, merge);
  await hall.kube.patch(nodeAllocations, { namespace: 'cfd', name: 'job' }, { status: ofJob }, statusMerge);
  await hall.forgetStatus('r0n0');
  await hall.kube.patch(physicalNodes, { name: 'r0n0' }, { status: backup }, statusMerge);
  rack?.faults.inject('fabricDefaults', { node: 'r0n0' });
  await hall.clock.advance(180 * minute);
  const status = hall.nodes()[0]?.status;
  assert.equal(status?.epoch, backup?.epoch);
  assert.equal(status?.state, 'Orphaned');
  const seen = (backup?.epoch ?? 0) + 1;
  assert.match(status?.message ?? '', new RegExp(`epoch ${seen} .*decide End, naming epoch ${seen}`));
  assert.equal(rack?.machine('r0n0').ports.find(({ name }) => name === 'eth0')?.domain, 'quarantine');
  assert.equal(hall.history('r0n0', 'imaged'), 1);
  await hall.decide('r0n0', { spec: { decision: { action: 'Adopt', epoch: seen, reason: 'test' } } });
  await hall.clock.advance(10 * minute);
  assert.equal(hall.nodes()[0]?.status?.state, 'Orphaned');
  await hall.kube.delete(nodeAllocations, { namespace: 'cfd', name: 'job' });
  await hall.decide('r0n0', { spec: { decision: { action: 'End', epoch: seen, reason: 'test' } } });
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  await hall.stop();
});

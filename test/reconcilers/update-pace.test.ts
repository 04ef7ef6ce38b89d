/** An update takes no more running nodes from its tenant at once than it said, whatever the operator sees of them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { computeEnvironments, nodeAllocations, physicalNodes } from '../../controller/api/meta.ts';
import { MachineHall } from '../support/machine-hall.ts';

const hour = 3_600_000;

test('nodes that are held while an update begins, and whose guests run on, are not updated all at once afterwards', async () => {
  const hall = new MachineHall({ r0: 'r0n[0-1]' });
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === 2);
  await hall.environment('rocky');
  await hall.allocation('job', 'rocky', 2);
  await hall.clock.runUntil(() => hall.inState('BareMetal') === 2);
  const names = ['r0n0', 'r0n1'];
  const uuids = hall.nodes().map(({ status }) => status?.systemUuid);
  const says = (name: string, systemUuid: string | undefined): Promise<unknown> =>
    hall.kube.patch(physicalNodes, { name }, { status: { systemUuid } }, { type: 'merge', subresource: 'status' });
  for (const name of names) await says(name, 'a-machine-of-another-serial-number');
  await hall.clock.runUntil(() => hall.inState('Quarantined') === 2);
  const url = 'https://images.example/new.raw';
  const image = { url, size: '8Gi', format: 'Raw', sha256: hall.digestOf(url) };
  const environment = { namespace: 'cfd', name: 'rocky' };
  await hall.kube.patch(computeEnvironments, environment, { spec: { image } }, { type: 'merge' });
  await hall.clock.runUntil(() => hall.seen('job')?.status?.updateRevision !== undefined);
  await hall.edit('job', { spec: { update: { revision: hall.seen('job')?.status?.updateRevision } } });
  await hall.clock.advance(60_000);
  for (const [index, name] of names.entries()) await says(name, uuids[index]);
  const imaged = (): number => hall.history('r0n0', 'imaged') + hall.history('r0n1', 'imaged');
  await hall.clock.runUntil(() => imaged() === 3, hour);
  const running = hall.racks
    .get('r0')
    ?.rack.machines()
    .filter(({ stage }) => stage === 'BareMetal');
  assert.equal(running?.length, 1, 'the other one runs on while the first is re-imaged');
  await hall.clock.runUntil(() => imaged() === 4 && hall.inState('BareMetal') === 2, hour);
  await hall.stop();
});

test('a guest that runs on because its update failed is updated to the revision after that, also where status was edited', async () => {
  const hall = new MachineHall({ r0: 'r0n0' });
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  await hall.environment('rocky');
  await hall.allocation('job', 'rocky', 1, { devirtualize: 'Never', update: { policy: 'Rolling', maxUnavailable: 1 } });
  await hall.clock.runUntil(() => hall.settled('job'));
  hall.failNext('r0n0', 'power');
  await hall.newImage('rocky');
  const inForce = (): string | undefined => hall.seen('job')?.status?.revision;
  const claimed = (): string | undefined => hall.nodes()[0]?.status?.claim?.revision;
  await hall.clock.runUntil(() => hall.seen('job')?.status?.updating === 'r0n0' && claimed() === inForce());
  const job = { namespace: 'cfd', name: 'job' };
  const first = inForce();
  await hall.kube.patch(nodeAllocations, job, { status: { updating: null } }, { type: 'merge', subresource: 'status' });
  const url = 'https://images.example/newer.raw';
  const image = { url, size: '8Gi', format: 'Raw', sha256: hall.digestOf(url) };
  const environment = { namespace: 'cfd', name: 'rocky' };
  await hall.kube.patch(computeEnvironments, environment, { spec: { image } }, { type: 'merge' });
  await hall.clock.runUntil(() => hall.settled('job') && hall.history('r0n0', 'imaged') > 1, hour);
  assert.notEqual(claimed(), first);
  await hall.stop();
});

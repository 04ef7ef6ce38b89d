import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bitVisorAgents, nodeAllocations, physicalNodes } from '../../controller/api/meta.ts';
import type { BitVisorAgent, NodeAllocation, PhysicalNode } from '../../controller/api/types.generated.ts';
import { MachineHall, testRoom } from '../support/machine-hall.ts';

const hour = 3_600_000;

const reason = (hall: MachineHall, name: string, type: string): string | undefined =>
  hall.seen(name)?.status?.conditions?.find((condition) => condition.type === type)?.reason;
const truth = (hall: MachineHall, name: string, type: string): string | undefined =>
  hall.seen(name)?.status?.conditions?.find((condition) => condition.type === type)?.status;
const claimedNames = (hall: MachineHall): string[] =>
  hall.nodes().flatMap((node) => (node.status?.claim && !node.status.end ? [node.metadata.name] : []));
const node = (hall: MachineHall, name: string): PhysicalNode | undefined =>
  hall.nodes().find((one) => one.metadata.name === name);
const counts = (hall: MachineHall, names: string[], event: string): number[] =>
  names.map((name) => hall.history(name, event));

async function running(nodes: number, replicas: number, change = {}): Promise<MachineHall> {
  const hall = new MachineHall({ r0: `r0n[0-${nodes - 1}]` }, testRoom);
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === nodes);
  await hall.environment('rocky');
  await hall.allocation('job', 'rocky', replicas, change);
  await hall.clock.runUntil(() => hall.settled('job'));
  return hall;
}

const loseAllocationStatus = (hall: MachineHall): Promise<unknown> => {
  const status = Object.fromEntries(Object.keys(hall.seen('job')?.status ?? {}).map((key) => [key, null]));
  const key = { namespace: 'cfd', name: 'job' };
  return hall.kube.patch(nodeAllocations, key, { status }, { type: 'merge', subresource: 'status' });
};

test('a decision from the first days of a node does not act again when its status is lost while a tenant runs', async () => {
  const hall = new MachineHall({ r0: 'r0n0' });
  await hall.addAgents({ commission: false });
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Quarantined') === 1);
  await hall.decide('r0n0', { spec: { decision: { action: 'Reclaim', epoch: 0, reason: 'new machine' } } });
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  await hall.environment('rocky');
  await hall.allocation('job', 'rocky', 1);
  await hall.clock.runUntil(() => hall.settled('job'));
  const wiped = hall.history('r0n0', 'wiped');
  await hall.forgetStatus('r0n0');
  await hall.clock.advance(24 * hour);
  assert.equal(hall.history('r0n0', 'wiped'), wiped);
  assert.equal(hall.inState('Orphaned'), 1);
  await hall.stop();
});

test('status of an allocation lost: what runs goes on, also when the environment has changed meanwhile', async () => {
  const hall = await running(3, 2);
  const names = claimedNames(hall);
  await hall.newImage('rocky');
  await hall.clock.runUntil(() => truth(hall, 'job', 'UpdateAvailable') === 'True');
  await loseAllocationStatus(hall);
  await hall.clock.runUntil(() => reason(hall, 'job', 'Accepted') === 'DefinitionLost');
  await hall.clock.advance(24 * hour);
  assert.deepEqual(claimedNames(hall), names);
  assert.deepEqual(counts(hall, names, 'imaged'), [1, 1]);
  assert.equal(hall.inState('BareMetal'), 2);
  await hall.kube.delete(nodeAllocations, { namespace: 'cfd', name: 'job' });
  await hall.clock.runUntil(() => hall.seen('job') === undefined && hall.inState('Available') === 3);
  await hall.stop();
});

test('status of an allocation lost: a port that strays meanwhile is put back, and nothing else is done', async () => {
  const hall = await running(3, 1);
  const [name = ''] = claimedNames(hall);
  const rack = hall.racks.get('r0')?.rack;
  assert.ok(rack);
  await hall.newImage('rocky');
  await hall.clock.runUntil(() => truth(hall, 'job', 'UpdateAvailable') === 'True');
  await loseAllocationStatus(hall);
  await hall.clock.runUntil(() => reason(hall, 'job', 'Accepted') === 'DefinitionLost');
  const domains = () => {
    const ports = hall.operator?.fleet.lastFactsOf(name)?.ports ?? [];
    return ports.flatMap(({ role, domain }) => (role === 'Data' ? [domain] : []));
  };
  const before = domains();
  assert.ok(before.length > 0 && before.every((domain) => domain === node(hall, name)?.status?.claim?.domain));
  rack.faults.inject('fabricDefaults');
  await hall.clock.runUntil(() => domains().includes('default'));
  await hall.clock.advance(hour);
  assert.deepEqual(domains(), before);
  assert.deepEqual([hall.history(name, 'imaged'), claimedNames(hall)], [1, [name]]);
  await hall.stop();
});

test("an allocation's status lost, then its node's: what Adopt gives back is re-imaged only once its owner asks for that", async () => {
  const hall = await running(3, 1);
  const [name = ''] = claimedNames(hall);
  await hall.newImage('rocky');
  await hall.clock.runUntil(() => truth(hall, 'job', 'UpdateAvailable') === 'True');
  await loseAllocationStatus(hall);
  await hall.clock.runUntil(() => reason(hall, 'job', 'Accepted') === 'DefinitionLost');
  await hall.forgetStatus(name);
  await hall.clock.runUntil(() => hall.inState('Orphaned') === 1);
  const epoch = Number(/must name epoch (\d+)/.exec(node(hall, name)?.status?.message ?? '')?.[1]);
  await hall.decide(name, { spec: { decision: { action: 'Adopt', epoch, reason: 'a mistake' } } });
  await hall.clock.runUntil(() => reason(hall, 'job', 'Stalled') === 'UpdateNotAsked');
  await hall.clock.advance(24 * hour);
  assert.deepEqual([hall.history(name, 'imaged'), claimedNames(hall)], [1, [name]]);
  const { revision } = hall.seen('job')?.status ?? {};
  await hall.edit('job', { spec: { update: { revision } } });
  await hall.clock.runUntil(() => hall.settled('job') && hall.history(name, 'imaged') === 2);
  await hall.stop();
});

test('status of an allocation lost with its environment unchanged: it heals by itself', async () => {
  const hall = await running(3, 2);
  const names = claimedNames(hall);
  await loseAllocationStatus(hall);
  await hall.clock.runUntil(() => hall.settled('job'));
  assert.deepEqual(claimedNames(hall), names);
  assert.deepEqual(counts(hall, names, 'imaged'), [1, 1]);
  await hall.stop();
});

test('an update that fails before the new guest starts takes no node from its tenant, and wipes nothing', async () => {
  const hall = await running(3, 1);
  const [name = ''] = claimedNames(hall);
  const wiped = hall.history(name, 'wiped');
  await hall.newImage('rocky');
  await hall.clock.runUntil(() => truth(hall, 'job', 'UpdateAvailable') === 'True');
  await hall.edit('job', { spec: { update: { revision: hall.seen('job')?.status?.updateRevision } } });
  const until = hall.clock.monotonic() + 4 * hour;
  await hall.clock.runUntil(() => {
    hall.failNext(name, 'vmmLoad');
    return hall.clock.monotonic() > until;
  }, 5 * hour);
  assert.equal(hall.history(name, 'wiped'), wiped);
  assert.deepEqual(claimedNames(hall), [name]);
  assert.equal(reason(hall, 'job', 'Stalled'), 'NodesFailed');
  await hall.stop();
});

test('Adopt gives a node whose record was lost back to its allocation, with nothing re-imaged', async () => {
  const hall = await running(4, 2);
  const names = claimedNames(hall);
  const [name = ''] = names;
  await hall.forgetStatus(name);
  await hall.clock.runUntil(() => hall.inState('Orphaned') === 1);
  await hall.clock.advance(hour);
  assert.equal(reason(hall, 'job', 'Stalled'), 'NodeOrphaned');
  const epoch = Number(/must name epoch (\d+)/.exec(node(hall, name)?.status?.message ?? '')?.[1]);
  await hall.decide(name, { spec: { decision: { action: 'Adopt', epoch, reason: 'restored a backup' } } });
  await hall.clock.runUntil(() => hall.settled('job') && hall.inState('BareMetal') === 2);
  await hall.clock.advance(hour);
  assert.deepEqual(claimedNames(hall), names);
  assert.deepEqual(counts(hall, names, 'imaged'), [1, 1]);
  await hall.stop();
});

test('another cluster: Adopt gives a running guest to the allocation that a person names, at its revision alone', async () => {
  const hall = await running(4, 2);
  const names = claimedNames(hall);
  await hall.edit('job', { metadata: { finalizers: null } });
  await hall.kube.delete(nodeAllocations, { namespace: 'cfd', name: 'job' });
  for (const name of names) await hall.forgetStatus(name);
  await hall.clock.runUntil(() => hall.inState('Orphaned') === 2);
  // Made anew with the same name: to the agents it is somebody else's. Suspended, so that it takes no other nodes meanwhile.
  await hall.allocation('job', 'rocky', 2, { suspend: true });
  const adopt = (name: string, allocation: object | undefined): Promise<unknown> => {
    const epoch = Number(/must name epoch (\d+)/.exec(node(hall, name)?.status?.message ?? '')?.[1]);
    return hall.decide(name, {
      spec: { decision: { action: 'Adopt', epoch, reason: 'the cluster is new', allocation } },
    });
  };
  for (const name of names) await adopt(name, undefined);
  await hall.clock.advance(hour);
  assert.equal(hall.inState('Orphaned'), 2);
  for (const name of names) await adopt(name, { namespace: 'cfd', name: 'job' });
  await hall.clock.runUntil(() => hall.settled('job') && hall.inState('BareMetal') === 2);
  await hall.edit('job', { spec: { suspend: false } });
  await hall.clock.advance(hour);
  assert.deepEqual(claimedNames(hall), names);
  assert.deepEqual(counts(hall, names, 'imaged'), [1, 1]);
  const domain = `allocation/${hall.seen('job')?.metadata.uid}`;
  assert.ok(names.every((name) => node(hall, name)?.status?.claim?.domain === domain));
  await hall.stop();
});

test('a node whose object was deleted by force comes back orphaned, and Adopt returns it as soon as there is room', async () => {
  const hall = await running(3, 2);
  const names = claimedNames(hall);
  const [name = ''] = names;
  hall.agents.detach('r0');
  await hall.decide(name, { metadata: { finalizers: null } });
  await hall.kube.delete(physicalNodes, { name });
  await hall.clock.advance(60_000);
  hall.restartAgent('r0');
  await hall.clock.runUntil(() => hall.inState('Orphaned') === 1 && hall.inState('BareMetal') === 2);
  const epoch = Number(/must name epoch (\d+)/.exec(node(hall, name)?.status?.message ?? '')?.[1]);
  await hall.decide(name, { spec: { decision: { action: 'Adopt', epoch, reason: 'a mistake' } } });
  await hall.clock.advance(hour);
  assert.equal(hall.inState('Orphaned'), 1);
  await hall.edit('job', { spec: { replicas: 3 } });
  await hall.clock.runUntil(() => hall.settled('job') && hall.inState('BareMetal') === 3);
  assert.equal(hall.history(name, 'imaged'), 1);
  await hall.stop();
});

test('a node that moves to another hostlist is spoken for by the other agent, whichever list is edited first', async () => {
  const hall = new MachineHall({ r0: 'r0n[0-1]', r1: 'r1n[0-1]' });
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === 4);
  const edit = (name: string, nodes: string): Promise<BitVisorAgent> =>
    hall.kube.patch(bitVisorAgents, { name }, { spec: { nodes } }, { type: 'merge' });
  await edit('r1', 'r1n[0-1],r0n1');
  await hall.clock.advance(10_000);
  assert.equal(hall.operator?.fleet.agentNameOf('r0n1'), 'r0');
  await edit('r0', 'r0n0');
  await hall.clock.runUntil(() => hall.operator?.fleet.agentNameOf('r0n1') === 'r1', 60_000);
  await edit('r0', 'r0n[0-1]');
  await hall.clock.runUntil(() => hall.operator?.fleet.agentNameOf('r0n1') === 'r0', 60_000);
  await hall.clock.runUntil(() => hall.inState('Available') === 4, 600_000);
  await hall.stop();
});

test('Replace: a node that failed in use is fenced with its disk kept, others stand in, and the end takes it back', async () => {
  const hall = new MachineHall({ r0: 'r0n[0-3]' });
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === 4);
  await hall.environment('rocky');
  await hall.allocation('job', 'rocky', 2, { failurePolicy: 'Replace' });
  await hall.clock.runUntil(() => claimedNames(hall).length === 2);
  const [name = ''] = claimedNames(hall);
  await hall.clock.runUntil(() => hall.operator?.fleet.stateOf(name) === 'Streaming');
  const rack = hall.racks.get('r0')?.rack;
  const machine = rack?.machine(name);
  assert.ok(rack && machine);
  for (const disk of machine.disks) if (disk.map) disk.map.state = 'Invalid';
  rack.reset(machine);
  await hall.clock.runUntil(() => hall.seen('job')?.status?.replaced === name && hall.settled('job'));
  await hall.clock.advance(hour);
  assert.equal(node(hall, name)?.status?.state, 'Quarantined');
  assert.deepEqual(
    machine.ports.filter(({ role }) => role === 'Data').map(({ domain }) => domain),
    ['quarantine', 'quarantine'],
  );
  const wiped = hall.history(name, 'wiped');
  await hall.crash();
  await hall.clock.advance(hour);
  assert.equal(hall.history(name, 'wiped'), wiped);
  await hall.kube.delete(nodeAllocations, { namespace: 'cfd', name: 'job' });
  await hall.clock.runUntil(() => hall.seen('job') === undefined && hall.inState('Available') === 4);
  await hall.stop();
});

test('two machines with one system UUID are both held until one is gone, and what runs on them goes on', async () => {
  const hall = await running(3, 1);
  const [name = ''] = claimedNames(hall);
  const other = ['r0n0', 'r0n1', 'r0n2'].find((one) => one !== name) ?? '';
  const rack = hall.racks.get('r0');
  assert.ok(rack);
  const uuid = rack.rack.machine(other).systemUuid;
  const becomes = (systemUuid: string): void => {
    const machine = rack.rack.machine(other);
    machine.systemUuid = systemUuid;
    rack.rack.factsChanged(machine);
  };
  becomes(rack.rack.machine(name).systemUuid);
  await hall.clock.runUntil(() => hall.inState('Quarantined') === 2);
  await hall.clock.advance(hour);
  becomes(uuid);
  await hall.clock.runUntil(() => hall.inState('Available') === 2 && hall.inState('BareMetal') === 1);
  assert.equal(hall.history(name, 'imaged'), 1);
  await hall.stop();
});

test('an expired allocation lets no update begin in its grace, and a suspended one none at all', async () => {
  const hall = await running(2, 1, { reclaim: { erase: 'Quick', gracePeriod: '1h' } });
  const [name = ''] = claimedNames(hall);
  await hall.edit('job', { spec: { suspend: true } });
  await hall.newImage('rocky');
  await hall.clock.runUntil(() => truth(hall, 'job', 'UpdateAvailable') === 'True');
  await hall.edit('job', { spec: { update: { revision: hall.seen('job')?.status?.updateRevision } } });
  await hall.clock.advance(hour);
  assert.equal(hall.history(name, 'imaged'), 1);
  await hall.kube.delete(nodeAllocations, { namespace: 'cfd', name: 'job' });
  await hall.edit('job', { spec: { suspend: false } });
  await hall.clock.advance(0.9 * hour);
  assert.equal(hall.history(name, 'imaged'), 1);
  assert.equal(hall.inState('BareMetal'), 1);
  await hall.clock.runUntil(() => hall.seen('job') === undefined);
  await hall.stop();
});

test('a name taken again while the old nodes are on their way back gets nodes of its own, and the old ones come back clean', async () => {
  const hall = await running(4, 2, { reclaim: { erase: 'Quick', gracePeriod: '0s' } });
  const names = claimedNames(hall);
  await hall.kube.delete(nodeAllocations, { namespace: 'cfd', name: 'job' });
  await hall.clock.runUntil(() => hall.seen('job') === undefined);
  const made: NodeAllocation = await hall.allocation('job', 'rocky', 2);
  await hall.clock.runUntil(() => hall.settled('job') && hall.inState('Available') === 2);
  assert.ok(claimedNames(hall).every((name) => !names.includes(name)));
  assert.equal(hall.seen('job')?.metadata.uid, made.metadata.uid);
  await hall.stop();
});

test('a way out that somebody opened at the switch of a running node is closed again, and its power is left alone', async () => {
  const hall = await running(1, 1);
  const [name = ''] = claimedNames(hall);
  const rack = hall.racks.get('r0')?.rack;
  const machine = rack?.machine(name);
  assert.ok(rack && machine);
  const before = counts(hall, [name], 'power');
  machine.ports = machine.ports.map((port) => (port.role === 'Data' ? { ...port, egress: 'Internet' as const } : port));
  rack.changed(machine);
  await hall.clock.runUntil(() =>
    rack.machine(name).ports.every((port) => port.role !== 'Data' || port.egress === 'None'),
  );
  assert.deepEqual(counts(hall, [name], 'power'), before);
  await hall.stop();
});

test('an allocation says which of its nodes is held, and its tenant keeps the grace period of a node whose record was lost', async () => {
  const hall = await running(2, 2);
  hall.agents.detach('r0');
  const uid = 'a-machine-of-another-serial-number';
  await hall.kube.patch(
    physicalNodes,
    { name: 'r0n0' },
    { status: { systemUuid: uid } },
    { type: 'merge', subresource: 'status' },
  );
  hall.restartAgent('r0');
  await hall.clock.runUntil(() => reason(hall, 'job', 'Stalled') === 'NodeHeld');
  await hall.forgetStatus('r0n1');
  await hall.clock.runUntil(() => node(hall, 'r0n1')?.status?.state === 'Orphaned');
  await hall.kube.delete(nodeAllocations, { namespace: 'cfd', name: 'job' });
  await hall.clock.advance(60_000);
  assert.equal(hall.seen('job')?.status?.ends?.reason, 'Deleted');
  assert.equal(hall.seen('job')?.status?.ending, undefined, 'the grace period is not over');
  await hall.stop();
});

test('an allocation that gives back a node whose records disagree says that it waits for a person', async () => {
  const hall = await running(2, 2);
  const status = { systemUuid: 'a-machine-of-another-serial-number' };
  await hall.kube.patch(physicalNodes, { name: 'r0n0' }, { status }, { type: 'merge', subresource: 'status' });
  await hall.clock.runUntil(() => node(hall, 'r0n0')?.status?.state === 'Quarantined');
  const fewer = { spec: { replicas: 1, release: 'r0n0' } };
  await hall.kube.patch(nodeAllocations, { namespace: 'cfd', name: 'job' }, fewer, { type: 'merge' });
  await hall.clock.runUntil(() => hall.seen('job')?.status?.nodes === 'r0n1');
  await hall.clock.advance(60_000);
  assert.equal(hall.seen('job')?.status?.ending?.[0]?.nodes, 'r0n0', 'its end cannot be recorded');
  const stalled = hall.seen('job')?.status?.conditions?.find(({ type }) => type === 'Stalled');
  assert.deepEqual([stalled?.status, stalled?.reason], ['True', 'NodeHeld']);
  assert.match(stalled?.message ?? '', /r0n0/);
  await hall.stop();
});

test('a port that strayed is put back also when the switch fails at first', async () => {
  const hall = await running(1, 1, { devirtualize: 'Never' });
  const rack = hall.racks.get('r0')?.rack;
  const moves = () => hall.history('r0n0', 'port');
  const domain = () => rack?.machine('r0n0').ports.find(({ name }) => name === 'eth0')?.domain;
  const own = domain();
  const before = moves();
  hall.failNext('r0n0', 'fabric');
  assert.ok(rack?.faults.inject('fabricDefaults', { node: 'r0n0' }));
  assert.notEqual(domain(), own);
  await hall.clock.runUntil(() => domain() === own && moves() > before, hour);
  await hall.stop();
});

test('a deleted allocation keeps its grace period while no agent says whether its guest was started', async () => {
  const hall = new MachineHall({ r0: 'r0n0' }, testRoom);
  await hall.addAgents();
  await hall.start();
  await hall.clock.runUntil(() => hall.inState('Available') === 1);
  await hall.environment('rocky');
  await hall.allocation('job', 'rocky', 1);
  await hall.clock.runUntil(() => claimedNames(hall).length === 1);
  hall.agents.detach('r0');
  await hall.clock.advance(60_000);
  await hall.kube.delete(nodeAllocations, { namespace: 'cfd', name: 'job' });
  await hall.clock.advance(60_000);
  assert.equal(hall.seen('job')?.status?.ends?.reason, 'Deleted');
  assert.equal(hall.seen('job')?.status?.ending, undefined);
  await hall.stop();
});

test('a deleted allocation keeps its grace period also where operator and agent have lost what they knew of its guest', async () => {
  const hall = await running(3, 1, { devirtualize: 'Never', reclaim: { erase: 'Quick', gracePeriod: '5m' } });
  const [name = ''] = claimedNames(hall);
  await hall.kube.delete(nodeAllocations, { namespace: 'cfd', name: 'job' });
  await hall.clock.runUntil(() => hall.seen('job')?.status?.ends?.reason === 'Deleted');
  hall.agents.detach('r0');
  await hall.forgetStatus(name);
  // Longer than an agent that is away keeps its nodes their place.
  await hall.clock.advance(60_000);
  await hall.edit('job', { metadata: { annotations: { 'example.com/seen': 'yes' } } });
  await hall.clock.advance(180_000);
  assert.equal(node(hall, name)?.status?.claim, undefined);
  assert.deepEqual([hall.seen('job')?.status?.nodes, hall.seen('job')?.status?.ending], [name, undefined]);
  await hall.clock.runUntil(() => hall.seen('job') === undefined);
  await hall.stop();
});

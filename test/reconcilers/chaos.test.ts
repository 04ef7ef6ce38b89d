/**
 * Seeded chaos over the whole system: tenants come, change and go while the operator crashes, agents restart or vanish, steps
 * fail, the API server refuses and loses answers, and people edit what is not theirs. The judges know nothing of the code under
 * test: they read the machines' own record and the objects as the API server stores them.
 *
 * `node test/reconcilers/chaos.test.ts FIRST COUNT` runs other seeds.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { FailingStep } from '../../agent/drivers/simulated/options.ts';
import type { RoomEvent } from '../../agent/drivers/simulated/store.ts';
import { computeEnvironments, nodeAllocations, physicalNodes } from '../../controller/api/meta.ts';
import type { NodeAllocation, PhysicalNode } from '../../controller/api/types.generated.ts';
import { confirmDeletionAnnotation } from '../../controller/domain/allocation-draft.ts';
import { type GroupVersionKind, KubeError, type KubeObject, type ObjectKey } from '../../controller/kube/port.ts';
import { type Random, seededRandom } from '../../controller/runtime/random.ts';
import { faultyKube } from '../support/faulty-kube.ts';
import { MachineHall, testRoom } from '../support/machine-hall.ts';
import { Judge } from '../support/tenancy-judge.ts';

const [firstSeed = 1, seedCount = 16] = process.argv.slice(2).map(Number);
const actionsPerSeed = 45;
const tenants = ['a', 'b', 'c', 'd', 'e'];
const racks = { r0: 'r0n[0-4]', r1: 'r1n[0-4]' };
const machines = Object.keys(racks).flatMap((rack) => [0, 1, 2, 3, 4].map((node) => `${rack}n${node}`));
const steps: readonly FailingStep[] = [
  'power',
  'bootOrder',
  'fabric',
  'imageOpen',
  'vmmLoad',
  'guestBoot',
  'disk',
  'devirtualize',
  'attest',
  'wipe',
  'check',
];

class Chaos {
  readonly hall: MachineHall;
  readonly random: Random;
  readonly judge: Judge;
  readonly done: string[] = [];
  #images = 0;
  apiFaults = 0;

  constructor(seed: number) {
    this.random = seededRandom(seed * 7919);
    // Every third room is a bad one.
    const rate = seed % 3 === 0 ? 0.03 : 0;
    const failureRates = Object.fromEntries(steps.map((step) => [step, rate]));
    this.hall = new MachineHall(racks, { ...testRoom, failureRates }, seed);
    this.judge = new Judge();
    this.hall.wrapClient = (client) =>
      faultyKube(client, {
        before: ({ verb }) => {
          if (verb === 'watch' || this.random.next() >= this.apiFaults) return undefined;
          const reason = verb === 'patch' && this.random.next() < 0.5 ? 'Conflict' : 'Unavailable';
          return new KubeError(reason, 'chaos');
        },
        after: ({ verb }) => {
          if (verb === 'watch' || verb === 'list' || this.random.next() >= this.apiFaults) return undefined;
          return new KubeError('Unknown', 'chaos: the answer was lost');
        },
      });
  }

  int(below: number): number {
    return Math.floor(this.random.next() * below);
  }

  pick<T>(list: readonly T[]): T {
    const one = list[this.int(list.length)];
    if (one === undefined) throw new Error('nothing to pick from');
    return one;
  }

  allocations(): NodeAllocation[] {
    return this.hall.kube.objects<NodeAllocation>(nodeAllocations);
  }

  nodes(): PhysicalNode[] {
    return this.hall.kube.objects<PhysicalNode>(physicalNodes);
  }

  /** Moves time in small steps, and lets the judge see each. */
  async pass(ms: number, stepMs = 500): Promise<void> {
    for (let left = ms; left > 0; left -= stepMs) {
      await this.hall.clock.advance(Math.min(left, stepMs));
      this.look();
    }
  }

  look(): void {
    const events = new Map<string, RoomEvent[]>();
    for (const [name, { rack }] of this.hall.racks) events.set(name, rack.history());
    this.judge.look(events, this.allocations(), this.nodes());
  }

  newImage(): Record<string, string> {
    const url = `https://images.example/${++this.#images}.raw`;
    return { url, format: 'Raw', size: '8Gi', sha256: this.hall.digestOf(url) };
  }

  async create(name: string): Promise<void> {
    const replicas = 1 + this.int(3);
    await this.hall.allocation(name, `env-${name}`, replicas, {
      ...(this.int(3) === 0 ? { minReplicas: 1 } : {}),
      devirtualize: this.int(3) === 0 ? 'Never' : 'WhenInstalled',
      update: { policy: this.int(2) === 0 ? 'Rolling' : 'OnDemand', maxUnavailable: 1 + this.int(2) },
      failurePolicy: this.int(2) === 0 ? 'Replace' : 'Report',
      reclaim: { erase: 'Quick', gracePeriod: this.pick(['0s', '30s', '5m']) },
      deletionPolicy: this.int(5) === 0 ? 'Retain' : 'Release',
      priority: this.int(3),
      suspend: this.int(6) === 0,
      ...(this.int(5) === 0 ? { schedule: { duration: '30m' } } : {}),
    });
  }

  /** One random action of a tenant, an administrator, or fate. */
  async act(): Promise<void> {
    const name = this.pick(tenants);
    const machine = this.pick(machines);
    const rackName = machine.slice(0, 2);
    const allocation = this.allocations().find((one) => one.metadata.name === name);
    const kinds = [
      'create',
      'create',
      'create',
      'delete',
      'scale',
      'scale',
      'update',
      'ask',
      'suspend',
      'crash',
      'crash',
      'restart',
      'detach',
      'attach',
      'lose',
      'fail',
      'fail',
      'reset',
      'cut',
      'maintain',
      'decide',
      'api',
      'drop',
      'release',
      'split',
      'heal',
      'forgetNode',
      'forgetAllocation',
      'vanish',
      'slow',
    ];
    const kind = this.pick(kinds);
    this.done.push(`${Math.round(this.hall.clock.monotonic() / 1000)}s ${kind} ${name} ${machine}`);
    const { hall } = this;
    switch (kind) {
      case 'create':
        if (allocation === undefined) await this.create(name);
        break;
      case 'delete':
        if (allocation) await hall.kube.delete(nodeAllocations, { namespace: 'cfd', name });
        break;
      case 'scale':
        if (allocation) await hall.edit(name, { spec: { replicas: 1 + this.int(4), minReplicas: null } });
        break;
      case 'release':
        if (allocation) await hall.edit(name, { spec: { replicas: 1, minReplicas: null, release: machine } });
        break;
      case 'update':
        await hall.kube.patch(
          computeEnvironments,
          { namespace: 'cfd', name: `env-${name}` },
          { spec: { image: this.newImage() } },
          { type: 'merge' },
        );
        break;
      case 'ask':
        if (allocation?.status?.updateRevision)
          await hall.edit(name, { spec: { update: { revision: allocation.status.updateRevision } } });
        break;
      case 'suspend':
        if (allocation) await hall.edit(name, { spec: { suspend: !allocation.spec.suspend } });
        break;
      case 'crash':
        await hall.crash();
        break;
      case 'restart':
        hall.restartAgent(rackName);
        break;
      case 'detach':
        hall.agents.detach(rackName);
        break;
      case 'attach':
        hall.restartAgent(rackName);
        break;
      case 'lose':
        hall.agents.faults(rackName).lostAnswers = 1 + this.int(3);
        break;
      case 'fail':
        hall.failNext(machine, this.pick(steps));
        break;
      case 'reset':
        hall.racks.get(rackName)?.rack.reset(hall.racks.get(rackName)?.rack.machine(machine) as never);
        break;
      case 'cut': {
        const rack = hall.racks.get(rackName)?.rack;
        rack?.cutPower(rack.machine(machine));
        rack?.givePower(rack.machine(machine));
        break;
      }
      case 'maintain': {
        const now = this.nodes().find((node) => node.metadata.name === machine)?.spec?.maintenance;
        await hall.decide(machine, { spec: { maintenance: now ? null : { reason: 'fan' } } });
        break;
      }
      case 'decide':
        await this.decide(this.pick(this.nodes()));
        break;
      case 'api':
        this.apiFaults = this.pick([0, 0.02, 0.1, 0.3]);
        break;
      case 'split':
        await hall.split();
        break;
      case 'heal':
        hall.heal();
        break;
      case 'slow':
        hall.agents.faults(rackName).delayMs = this.pick([0, 200, 5_000]);
        break;
      case 'forgetNode':
        if (this.int(3) > 0) break;
        this.judge.touched.add(machine);
        await this.forget(physicalNodes, { name: machine });
        break;
      case 'forgetAllocation':
        if (allocation && this.int(3) === 0) await this.forget(nodeAllocations, { namespace: 'cfd', name });
        break;
      case 'vanish':
        if (allocation === undefined || this.int(3) > 0) break;
        this.judge.retained.add(allocation.metadata.uid ?? '');
        await hall.edit(name, { metadata: { finalizers: null } });
        await hall.kube.delete(nodeAllocations, { namespace: 'cfd', name });
        break;
      case 'drop': {
        if (this.int(3) > 0) break;
        this.judge.touched.add(machine);
        await hall.decide(machine, { metadata: { finalizers: null } });
        await hall.kube.delete(physicalNodes, { name: machine });
        break;
      }
    }
  }

  /** As after a restore from a backup that had no status. */
  async forget(gvk: GroupVersionKind, key: ObjectKey): Promise<void> {
    const object = await this.hall.kube.get<KubeObject & { status?: object }>(gvk, key);
    const status = Object.fromEntries(Object.keys(object.status ?? {}).map((field) => [field, null]));
    await this.hall.kube.patch(gvk, key, { status }, { type: 'merge', subresource: 'status' });
  }

  async decide(node: PhysicalNode): Promise<void> {
    const { state, claim, epoch = 0 } = node.status ?? {};
    if (state !== 'Quarantined' && state !== 'Orphaned') return;
    const action = claim || state === 'Orphaned' ? this.pick(['End', 'Adopt']) : 'Reclaim';
    if (action === 'End') this.judge.ended.add(node.metadata.name);
    await this.hall.decide(node.metadata.name, { spec: { decision: { action, epoch, reason: 'chaos' } } });
  }

  async calm(): Promise<void> {
    const { hall } = this;
    this.apiFaults = 0;
    hall.heal();
    for (const name of Object.keys(racks)) {
      Object.assign(hall.agents.faults(name), { lostAnswers: 0, delayMs: 0 });
      hall.restartAgent(name);
    }
    for (const node of this.nodes())
      if (node.spec?.maintenance) await hall.decide(node.metadata.name, { spec: { maintenance: null } });
    for (const { metadata, spec } of this.allocations()) {
      await hall.edit(metadata.name, {
        metadata: { annotations: { [confirmDeletionAnnotation]: metadata.uid } },
        ...(spec.suspend ? { spec: { suspend: false } } : {}),
      });
    }
    for (let hour = 0; hour < 10; hour++) await this.pass(3_600_000, 600_000);
  }
}

function judgeRest(chaos: Chaos): void {
  const allocations = chaos.allocations();
  const free = chaos.nodes().filter((node) => node.status?.state === 'Available').length;
  for (const { metadata, spec, status } of allocations) {
    const truth = (type: string) => status?.conditions?.find((condition) => condition.type === type);
    const say = `${metadata.name}: ${JSON.stringify({ spec, status, deleted: metadata.deletionTimestamp })}`;
    if (metadata.deletionTimestamp !== undefined) {
      const waits = chaos.nodes().some(({ status: node }) => node?.claim?.allocation.uid === metadata.uid);
      assert.ok(waits, `deleted, nothing claimed, and still there: ${say}`);
      continue;
    }
    if (status?.phase === 'Expired') continue;
    const missing = (spec.minReplicas ?? spec.replicas) - (status?.replicas ?? 0);
    if (missing > 0) {
      assert.ok(truth('Scheduled')?.reason === 'Unschedulable' || truth('Stalled')?.status === 'True', say);
      assert.ok(truth('Stalled')?.status === 'True' || free < missing, `${free} are free: ${say}`);
      continue;
    }
    const settled = truth('Reconciling')?.status === 'False' && truth('Ready')?.status === 'True';
    const short = (status?.replicas ?? 0) < spec.replicas && free === 0;
    assert.ok(settled || short || truth('Stalled')?.status === 'True', `not settled: ${say}`);
  }
  for (const node of chaos.nodes()) {
    const { state = '', claim, end } = node.status ?? {};
    const say = `${node.metadata.name}: ${JSON.stringify(node.status)}`;
    const touched = chaos.judge.touched.has(node.metadata.name);
    if (state === 'Orphaned') {
      assert.ok(touched || chaos.judge.retained.has(claim?.allocation.uid ?? ''), `orphaned by nobody: ${say}`);
      continue;
    }
    if (state === 'Quarantined') continue;
    assert.ok(end === undefined, `still on its way back: ${say}`);
    assert.ok(claim !== undefined || state === 'Available', `neither free nor claimed: ${say}`);
  }
}

async function run(seed: number): Promise<Chaos> {
  const chaos = new Chaos(seed);
  const { hall } = chaos;
  try {
    await hall.addAgents();
    await hall.start();
    await hall.clock.runUntil(() => hall.inState('Available') + hall.inState('Quarantined') === machines.length);
    for (const name of tenants) await hall.environment(`env-${name}`, { image: chaos.newImage() as never });
    for (let index = 0; index < actionsPerSeed; index++) {
      await chaos.act().catch((error: unknown) => {
        // What the action was about may be gone by now.
        if (!(error instanceof KubeError) || error.reason !== 'NotFound') throw error;
      });
      await chaos.pass(chaos.pick([0, 100, 500, 2_000, 10_000, 30_000, 90_000]));
    }
    await chaos.calm();
    judgeRest(chaos);
    const before = hall.totalWrites();
    hall.writes.clear();
    await chaos.pass(3_600_000, 600_000);
    assert.equal(hall.totalWrites(), 0, `written at rest (${before} before): ${JSON.stringify([...hall.writes])}`);
    assert.deepEqual(hall.errors, []);
  } catch (error) {
    throw new Error(`seed ${seed}: ${error instanceof Error ? error.message : error}\n${chaos.done.join('\n')}`, {
      cause: error,
    });
  } finally {
    await hall.stop();
  }
  return chaos;
}

test('whatever happens, no machine is shared, no tenant loses data, and with the faults over everything comes to rest', async () => {
  const seen = { imaged: 0, wiped: 0, guest: 0, devirtualized: 0 };
  const failures: string[] = [];
  for (let seed = firstSeed; seed < firstSeed + seedCount; seed++) {
    try {
      const { hall } = await run(seed);
      for (const { rack } of hall.racks.values())
        for (const { event } of rack.history()) if (event in seen) seen[event as keyof typeof seen]++;
    } catch (error) {
      failures.push(error instanceof Error ? (error.stack ?? error.message) : String(error));
    }
  }
  assert.deepEqual(failures, []);
  for (const [event, count] of Object.entries(seen))
    assert.ok(count > seedCount || seedCount < 16, `only ${count} times ${event}`);
});

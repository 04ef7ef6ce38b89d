/** What the guards know of the time before their process began. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NodeAllocation, PhysicalNode } from '../../controller/api/types.generated.ts';
import { defaultBlastSettings } from '../../controller/domain/blast.ts';
import { defaultGuardSettings } from '../../controller/domain/deletion-guard.ts';
import type { Fleet } from '../../controller/reconcilers/fleet.ts';
import { createGuards } from '../../controller/reconcilers/guards.ts';
import { toMetaTime } from '../../controller/runtime/clock.ts';
import { VirtualClock } from '../support/virtual-clock.ts';

const minute = 60_000;

/** @param logs epochs that the agents' logs know, by node */
function budgetOf(
  nodes: readonly object[],
  allocations: readonly object[],
  clock: VirtualClock,
  logs: Readonly<Record<string, number>> = {},
): number {
  const named = new Map(nodes.map((node) => [(node as PhysicalNode).metadata.name, node as PhysicalNode]));
  const fleet = {
    nodes: { size: 40, values: () => named.values(), getByKey: (name: string) => named.get(name) },
    allocations: { values: () => (allocations as NodeAllocation[]).values() },
    lastFactsOf: (name: string) => ({ record: { epoch: logs[name] ?? 0 } }),
  } as unknown as Fleet;
  const settings = { deletions: defaultGuardSettings, blast: { ...defaultBlastSettings, minNodes: 5 } };
  return createGuards(fleet, clock, settings).blastBudget();
}

test('nodes that an operator before this one handled as failed still count, for as long as their window lasts', async () => {
  const clock = new VirtualClock();
  await clock.advance(60 * minute);
  const ago = (minutes: number): string => toMetaTime(clock.now() - minutes * minute);
  const nodes = [
    { metadata: { name: 'n0' }, status: { end: { reason: 'FailedBeforeUse', at: ago(2), epoch: 2, erase: 'Quick' } } },
    {
      metadata: { name: 'n1' },
      status: { state: 'Quarantined', stateSince: ago(3), lastError: { code: 'FailedBeforeUse' } },
    },
    {
      metadata: { name: 'n2' },
      status: { state: 'Quarantined', stateSince: ago(20), lastError: { code: 'FailedBeforeUse' } },
    },
    { metadata: { name: 'n3' }, status: { state: 'Quarantined', stateSince: ago(4) } },
    { metadata: { name: 'n4' }, status: { state: 'BareMetal', stateSince: ago(500) } },
    { metadata: { name: 'n20' }, status: { end: { reason: 'EndByPerson', at: ago(5), epoch: 4, erase: 'Full' } } },
    { metadata: { name: 'n21' }, status: { end: { reason: 'ScaledDown', at: ago(5), epoch: 4, erase: 'Full' } } },
  ];
  const allocations = [
    {
      metadata: { name: 'a' },
      status: { replaced: 'n[3-4]', ending: [{ reason: 'Released', nodes: 'n0', decidedAt: ago(2) }] },
    },
    {
      metadata: { name: 'b', deletionTimestamp: ago(1) },
      status: { ending: [{ reason: 'Released', nodes: 'n[5-9]', decidedAt: ago(1) }] },
    },
  ];
  assert.equal(budgetOf([], [], clock), 5);
  const counted = 'n0, n1, n3, n4 (which is still to be fenced) and n20 (which a person ended) count';
  assert.equal(budgetOf(nodes, allocations, clock), 0, counted);
});

test('after a loss of records every node whose agent knows more than they say may have been handled a moment ago', async () => {
  const clock = new VirtualClock();
  const nodes = [
    { metadata: { name: 'n0' }, status: { state: 'BareMetal', epoch: 4 } },
    { metadata: { name: 'n1' }, status: { state: 'BareMetal', epoch: 4 } },
    { metadata: { name: 'n2' } },
  ];
  assert.equal(budgetOf(nodes, [], clock, { n0: 5, n1: 4, n2: 1 }), 3, 'n0 and n2 count');
});

test('a deletion that was held stays held when the record of its only node is taken away, and lists none when it ends', async () => {
  const clock = new VirtualClock();
  await clock.advance(60 * minute);
  const deleted = (name: string, status: object): object => ({
    metadata: { name, namespace: 'cfd', uid: name, deletionTimestamp: toMetaTime(clock.now() - minute) },
    spec: { deletionPolicy: 'Release' },
    status: { conditions: [{ type: 'Stalled', reason: 'DeletionHeld' }], ...status },
  });
  const allocations = [deleted('a', { nodes: 'n0' }), deleted('b', {})] as NodeAllocation[];
  const fleet = {
    nodes: { size: 0, values: () => [], countByIndex: () => 0 },
    allocations: { values: () => allocations.values() },
  } as unknown as Fleet;
  const guards = createGuards(fleet, clock, { deletions: defaultGuardSettings, blast: defaultBlastSettings });
  const [held, empty] = allocations.map((allocation) => guards.deletionHeld(allocation));
  assert.match(held ?? '', /set the annotation/);
  assert.equal(empty, undefined);
});

test('a deletion that was held stays held when its status is taken away and one that it was deleted together with is gone', async () => {
  const clock = new VirtualClock();
  await clock.advance(60 * minute);
  const deletionTimestamp = toMetaTime(clock.now() - minute);
  const deleted = (name: string, conditions?: readonly object[]): NodeAllocation =>
    ({
      metadata: { name, namespace: 'cfd', uid: name, deletionTimestamp },
      spec: { deletionPolicy: 'Release' },
      ...(conditions === undefined ? {} : { status: { conditions } }),
    }) as unknown as NodeAllocation;
  let allocations = ['a', 'b', 'c', 'd'].map((name) => deleted(name));
  const fleet = {
    nodes: { size: 0, values: () => [], countByIndex: () => 1 },
    allocations: { values: () => allocations.values() },
  } as unknown as Fleet;
  const create = (): ReturnType<typeof createGuards> =>
    createGuards(fleet, clock, { deletions: defaultGuardSettings, blast: defaultBlastSettings });
  const guards = create();
  const holds = (name: string): boolean => guards.deletionHeld(deleted(name)) !== undefined;
  assert.equal(holds('a'), true);
  await clock.advance(20 * minute);
  allocations = ['a', 'b', 'c'].map((name) => deleted(name));
  assert.equal(holds('a'), true, 'd still counts');
  allocations = [deleted('a')];
  assert.equal(holds('a'), true, 'and so do b and c');
  assert.match(
    create().deletionHeld(deleted('a')) ?? '',
    /with its status lost may have been, one of many/,
    'also by the next operator',
  );
  const single = deleted('a', [{ type: 'Ready', status: 'True', reason: 'Running' }]);
  allocations = [single];
  const next = create();
  assert.equal(next.deletionHeld(single), undefined, 'a single deletion is not held');
  allocations = [deleted('a')];
  assert.equal(
    next.deletionHeld(deleted('a')),
    undefined,
    'nor where its status is lost while the operator knows of it',
  );
});

test('of many deletions, one whose only node runs a guest without a record of it is held with the others', async () => {
  const clock = new VirtualClock();
  await clock.advance(60 * minute);
  const allocations = ['a', 'b', 'c', 'd', 'never-begun'].map((name) => ({
    metadata: { name, namespace: 'cfd', uid: name, deletionTimestamp: toMetaTime(clock.now() - minute) },
    spec: { deletionPolicy: 'Release' },
    status: { nodes: `${name}0`, conditions: [] },
  })) as unknown as NodeAllocation[];
  const fleet = {
    nodes: {
      size: 5,
      values: () => [],
      getByKey: () => ({ status: {} }),
      countByIndex: (_: string, uid: string) => (/^[abc]/.test(uid) ? 1 : 0),
    },
    allocations: { values: () => allocations.values() },
    stateOf: (name: string) => (name === 'd0' ? 'Orphaned' : 'Available'),
  } as unknown as Fleet;
  const guards = createGuards(fleet, clock, { deletions: defaultGuardSettings, blast: defaultBlastSettings });
  const held = allocations.map((allocation) => guards.deletionHeld(allocation) !== undefined);
  assert.deepEqual(held, [true, true, true, true, false]);
});

test('of many deletions, those that are left when one was forced away and the operator was restarted wait all the same', async () => {
  const clock = new VirtualClock();
  await clock.advance(60 * minute);
  const ago = (minutes: number): string => toMetaTime(clock.now() - minutes * minute);
  const allocations = ['a', 'b', 'c'].map((name) => ({
    metadata: { name, namespace: 'cfd', uid: name, deletionTimestamp: ago(2) },
    spec: { deletionPolicy: 'Release' },
    status: { nodes: `${name}0`, conditions: [] },
  })) as unknown as NodeAllocation[];
  const claimed = (name: string, uid: string, status: object): object => ({
    metadata: { name },
    status: { claim: { allocation: { namespace: 'cfd', name: uid, uid } }, ...status },
  });
  const isHeld = (orphan: object): boolean => {
    const nodes = [...['a', 'b', 'c'].map((uid) => claimed(`${uid}0`, uid, { state: 'Resident' })), orphan];
    const fleet = {
      nodes: { size: 4, values: () => nodes, getByKey: () => undefined, countByIndex: () => 1 },
      allocations: {
        values: () => allocations.values(),
        getByKey: (key: string) => allocations.find(({ metadata }) => key === `cfd/${metadata.name}`),
      },
      stateOf: () => 'Resident',
    } as unknown as Fleet;
    const guards = createGuards(fleet, clock, { deletions: defaultGuardSettings, blast: defaultBlastSettings });
    return allocations.map((allocation) => guards.deletionHeld(allocation) !== undefined)[0] ?? false;
  };
  assert.equal(isHeld(claimed('d0', 'd', { state: 'Resident' })), true, 'nobody saw yet that its allocation is gone');
  assert.equal(isHeld(claimed('d0', 'd', { state: 'Orphaned', stateSince: ago(1) })), true);
  assert.equal(isHeld(claimed('d0', 'd', { state: 'Orphaned', stateSince: ago(30) })), false, 'long before');
});

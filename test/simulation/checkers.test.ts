/** Each checker fires on a bad history made by hand, and stays silent on the good one beside it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { freshRow } from '../../agent/row.ts';
import { nodeAllocations } from '../../controller/api/meta.ts';
import type { Instruction } from '../../controller/api/protocol.generated.ts';
import type { PhysicalNode } from '../../controller/api/types.generated.ts';
import { stream } from './chance.ts';
import { History } from './history-by-hand.ts';

const ended = { spec: {}, status: { ending: [{ reason: 'ScaledDown', nodes: 'n0' }], nodes: 'n1' } };

test('a good history breaks no rule', () => {
  const history = new History();
  history.runs();
  history.allocation('one', ended);
  history.accepts('fence', 3);
  history.ports('quarantine');
  history.wipe();
  history.happens('power', { to: 'Off' });
  history.node('n0', { state: 'Available' });
  history.runs('two', 4);
  assert.deepEqual(history.truth.violations, []);
});

/** An epoch that was given to one allocation is given to another; nothing ran under it. */
function givenTwice(agentForgets: boolean, backupRestored: boolean): number[] {
  const history = new History();
  history.wipe();
  history.node('n0', { epoch: 1 });
  history.accepts('isolate', 2);
  if (agentForgets) history.truth.agentForgot('r0', [{ ...freshRow('n0'), epoch: 1 }]);
  if (backupRestored) history.truth.restored([{ metadata: { name: 'n0' }, spec: {}, status: { epoch: 1 } }], []);
  history.node('n0', { epoch: 2, claim: { epoch: 2, revision: 'r1', allocation: { uid: 'two', name: 'two' } } });
  history.accepts('isolate', 2, { allocation: 'two' });
  return history.broken();
}

test('an epoch may be given out again only where neither the log nor the records can know of it', () => {
  assert.deepEqual(givenTwice(true, true), []);
  assert.deepEqual(givenTwice(true, false), [1]);
  assert.deepEqual(givenTwice(false, true), [1]);
});

/**
 * An allocation that wants a full erase is forced away when it had given up its node and before that ended; one of its name takes over the
 * claim, and the guest under it.
 */
function takesOverWhatWasGivenUp(history: History): void {
  history.runs();
  history.claims('one');
  const reclaim = { erase: 'Full', gracePeriod: '5m' };
  history.allocation('one', { spec: { reclaim } });
  history.allocation('one', { ...ended, spec: { reclaim } });
  history.forces('one');
  history.allocation('one', { status: { nodes: 'n0' }, metadata: { uid: 'again' } });
  history.claims('again');
}

test('what an allocation had given up is the data of the one that took it over, and erased as that one says', () => {
  const history = new History();
  takesOverWhatWasGivenUp(history);
  history.truth.atRest();
  // Rule 8 misses counts and conditions, of which this history says nothing.
  assert.deepEqual(history.broken(), [8]);
  history.truth.violations.length = 0;
  const metadata = { uid: 'again', deletionTimestamp: '1969-12-31T00:00:00Z' };
  history.allocation('one', { status: { ending: [{ reason: 'Released', nodes: 'n0' }] }, metadata });
  history.wipe();
  assert.deepEqual(history.truth.violations, []);
});

/** Four allocations are deleted in one moment, and a minute later the nodes of one of them end, with this metadata. */
function deletedTogether(history: History, metadata: object, isClaimed = true, afterMs = 60_000): void {
  if (isClaimed) history.claims('one');
  const names = ['one', 'two', 'three', 'four'];
  const deletionTimestamp = '2026-01-01T00:00:00Z';
  for (const name of names) history.allocation(name, { status: { nodes: 'n0' } });
  for (const name of names) history.allocation(name, { status: { nodes: 'n0' }, metadata: { deletionTimestamp } });
  history.nowMs += afterMs;
  history.allocation('one', { ...ended, metadata });
}

test('of allocations that were deleted together, one that a backup put back may be scaled down or deleted, and one go for which nodes were only chosen', () => {
  const [putBack, deletedAgain, chosen] = [new History(), new History(), new History()];
  deletedTogether(putBack, {});
  deletedTogether(deletedAgain, { deletionTimestamp: '2026-01-01T00:01:00Z' });
  deletedTogether(chosen, { deletionTimestamp: '2026-01-01T00:00:00Z' }, false);
  // Decided when the others were not seen yet, and written late.
  const late = new History();
  deletedTogether(late, { deletionTimestamp: '2026-01-01T00:00:00Z' }, true, 4_000);
  for (const { truth } of [putBack, deletedAgain, chosen, late])
    assert.ok(!truth.violations.some(({ rule }) => rule === 9));
});

test('an end whose answer was lost is known by the log: BMC and trusted image of the epoch before are not waited for', () => {
  const history = new History();
  history.pending = ['n0.1.Checking.check.1.0/off', 'n0.1.Wiping.wipe.1.0/wipe'];
  history.opens('drain', 2);
  history.accepts('power', 2);
  assert.deepEqual(history.truth.violations, []);
});

test('nobody can know of a guest that comes up while the BMC says that the machine is off', () => {
  const history = new History();
  history.runs();
  history.faults = { bmcLiesOff: { untilMs: 1 } };
  history.happens('boot', { got: 'Disk', shown: 'Disk' });
  history.happens('guest', { epoch: 2, throughVmm: false, ports: [], control: 'provisioning' });
  history.happens('port', { port: 'mgmt0', from: 'closed', to: 'provisioning', cause: 'asked' });
  assert.deepEqual(history.truth.violations, []);
});

function switchedOn(history: History, allocation: string): void {
  history.accepts('isolate', 2);
  history.acts('power.set', 'on', `allocation/${allocation}`);
}

function toldToLeave(history: History, domain: string): void {
  history.runs();
  history.acts('vmm.devirtualize', 'commit', domain);
}

test('a machine may be switched on, and its hypervisor told to leave, while every port is shown in the domain of its tenant', () => {
  const [starts, ends] = [new History(), new History()];
  switchedOn(starts, 'one');
  toldToLeave(ends, 'allocation/one');
  assert.deepEqual([...starts.truth.violations, ...ends.truth.violations], []);
});

const bad: readonly (readonly [rule: number, what: string, make: (history: History) => void])[] = [
  [
    1,
    'two owners of one machine',
    (history) => {
      history.runs();
      history.accepts('isolate', 3, { allocation: 'two' });
    },
  ],
  [
    2,
    "a guest with a port in another's domain",
    (history) => {
      history.runs();
      history.guest(2, 'allocation/two');
    },
  ],
  [
    2,
    'provisioning before a guest without a hypervisor',
    (history) => {
      history.runs();
      history.happens('boot', { got: 'Disk', shown: 'Disk' });
      history.happens('guest', { epoch: 2, throughVmm: false, ports: [], control: 'provisioning' });
    },
  ],
  [
    1,
    'a claim of a machine that two nodes say they are',
    (history) => {
      history.happens('fault', { kind: 'twin' });
      history.node('n0', { state: 'Available' });
      history.nowMs += 600_000;
      history.node('n0', {
        claim: { epoch: 2, revision: 'r1', allocation: { uid: 'one', namespace: 'cfd', name: 'one' } },
      });
    },
  ],
  [2, 'a machine switched on behind a port that its switch shows elsewhere', (history) => switchedOn(history, 'two')],
  [
    2,
    "a guest's port that nobody put back",
    (history) => {
      history.runs();
      history.happens('port', { port: 'eth0', to: 'default', cause: 'defaults' });
      history.truth.atRest();
    },
  ],
  [4, 'a hypervisor told to leave behind a port that strayed', (history) => toldToLeave(history, 'default')],
  [
    3,
    'a nonce that is used again',
    (history) => {
      history.accepts('attest', 2, { nonce: 'n' });
      history.accepts('attest', 3, { nonce: 'n' });
    },
  ],
  [
    3,
    'an erase that is weaker than its owner asked for',
    (history) => {
      history.allocation('one', { spec: { reclaim: { erase: 'Full', gracePeriod: '5m' } } });
      history.runs();
      history.allocation('one', { ...ended, spec: { reclaim: { erase: 'Full', gracePeriod: '5m' } } });
      history.wipe();
    },
  ],
  [
    3,
    'Available without a wipe',
    (history) => {
      history.runs();
      history.node('n0', { state: 'Available' });
    },
  ],
  [
    4,
    'a hypervisor that leaves early',
    (history) => {
      history.runs();
      history.happens('devirtualized', { epoch: 2, localBytes: 1, totalBytes: 2, exported: 'Open', order: 'Network' });
    },
  ],
  [
    5,
    'an old term',
    (history) => {
      history.accepts('fence', 3, { term: 2 });
      history.accepts('fence', 4, { term: 1 });
    },
  ],
  [
    5,
    'an old epoch',
    (history) => {
      history.accepts('fence', 3);
      history.accepts('fence', 2);
    },
  ],
  [
    5,
    'a tenancy that begins while the check before it may still switch off',
    (history) => {
      history.pending = ['n0.1.Checking.check.1.0/off'];
      history.opens('isolate', 2);
    },
  ],
  [
    5,
    'a tenancy that begins, or ends, while a job of the switch or the wipe before it may still take effect',
    (history) => {
      history.pending = ['n0.1.Wiping.wipe.1.0/wipe'];
      history.opens('isolate', 2);
      assert.deepEqual(history.broken(), [5]);
      history.truth.violations.length = 0;
      history.pending = ['n0.2.Isolating.isolate.1.0/data'];
      history.opens('drain', 3);
    },
  ],
  [
    6,
    "a wipe of a tenant's disk",
    (history) => {
      history.runs();
      history.wipe();
    },
  ],
  [
    6,
    'a wipe after the end that its owner before had decided, and not the one who took it over',
    (history) => {
      takesOverWhatWasGivenUp(history);
      history.wipe();
    },
  ],
  [
    6,
    'an end that nobody asked for',
    (history) => {
      history.runs();
      history.allocation('one', { status: { ending: [{ reason: 'Released', nodes: 'n0' }] } });
    },
  ],
  [
    7,
    'a guest that nobody lists',
    (history) => {
      history.runs();
      history.node('n0', { state: 'BareMetal' });
      history.truth.atRest();
    },
  ],
  [
    7,
    'a node that is orphaned while its allocation is there',
    (history) => {
      const claim = { epoch: 2, revision: 'r1', allocation: { uid: 'one', namespace: 'cfd', name: 'one' } };
      history.node('n0', { state: 'Orphaned', claim, message: 'its allocation cfd/one is gone' });
    },
  ],
  [
    8,
    'a node that shows a failure where nothing fails',
    (history) => {
      history.truth.faultless = true;
      history.node('n0', { state: 'Booting', lastError: { message: 'it did not start' } });
    },
  ],
  [
    8,
    'a node that never comes back',
    (history) => {
      history.node('n0', { state: 'Wiping', end: {} });
      history.truth.atRest();
    },
  ],
  [
    9,
    'one of many deletions that takes effect unasked',
    (history) => deletedTogether(history, { deletionTimestamp: '2026-01-01T00:00:00Z' }),
  ],
  [
    9,
    'one of many deletions that takes effect unasked where the claim on its node was lost, and its guest runs',
    (history) => {
      history.runs();
      deletedTogether(history, { deletionTimestamp: '2026-01-01T00:00:00Z' }, false);
    },
  ],
  [
    9,
    'three nodes replaced at once',
    (history) => {
      for (const name of ['n0', 'n1', 'n2']) history.node(name, { state: 'BareMetal' });
      history.allocation('one', { status: { replaced: 'n[0-2]' } });
    },
  ],
  [
    10,
    "another tenant's key",
    (history) => {
      history.accepts('isolate', 2);
      const plan = { epoch: 2, sshKeys: ['key of two'] };
      history.truth.acted('r0', 'n0', { command: 'vmm.plan', arguments: [plan], token: undefined });
    },
  ],
  [
    10,
    'a guest that got what another tenant has for the hypervisor, behind a BMC that lies',
    (history) => asksFor(history, { lies: 'Off', allocation: 'two' }),
  ],
  [
    10,
    'a guest that got what another machine of its tenant has for the hypervisor, behind a BMC that lies',
    (history) => asksFor(history, { lies: 'order', hostname: 'n1' }),
  ],
  [10, 'a guest that got what its own next boot has for the hypervisor', (history) => asksFor(history, {})],
  [
    10,
    'secrets left behind',
    (history) => {
      history.runs();
      const plan = { sshKeys: ['key of one'] } as never;
      history.truth.logWritten('r0', [{ ...freshRow('n0'), kind: 'Reclaim', plan }]);
    },
  ],
];

for (const [rule, what, make] of bad) {
  test(`rule ${rule} is found broken by ${what}`, () => {
    const history = new History();
    make(history);
    assert.ok(history.broken().includes(rule), `only found: ${JSON.stringify(history.truth.violations)}`);
  });
}

test('streams of chance are repeatable and apart from each other', () => {
  const draws = (seed: number, name: string): number[] => {
    const random = stream(seed, name);
    return [random.next(), random.next()];
  };
  assert.deepEqual(draws(1, 'a'), draws(1, 'a'));
  assert.notDeepEqual(draws(1, 'a'), draws(1, 'b'));
  assert.notDeepEqual(draws(1, 'a'), draws(2, 'a'));
});

/** Up to a guest whose owner, of the same name, is another one by now and wants every update. */
function tookOver(history: History): () => void {
  history.runs();
  const before = history.truth.allocations.get('one')?.object;
  assert.ok(before);
  history.truth.apiWrite(nodeAllocations, 'DELETED', before, before);
  history.allocation('one', { metadata: { uid: 'newer' }, spec: { update: { policy: 'Rolling', maxUnavailable: 1 } } });
  const claim = { allocation: { namespace: 'cfd', name: 'one', uid: 'newer' }, epoch: 2, revision: 'r1' };
  history.node('n0', { epoch: 2, claim });
  history.node('n0', { epoch: 3, claim: { ...claim, epoch: 3, revision: 'r2' } });
  const restored = { epoch: 2, claim: { ...claim, allocation: { ...claim.allocation, uid: 'one' } } };
  const node = { metadata: { name: 'n0' }, spec: {}, status: restored } as unknown as PhysicalNode;
  return () => history.truth.restored([node], [before]);
}

/** The guest asks the boot server while the next epoch, of this allocation, is about to boot. */
function asksFor(history: History, { lies = 'no', allocation = 'one', hostname = 'n0' }): void {
  history.runs();
  if (lies === 'Off') history.happens('fault', { kind: 'bmcLiesOff' });
  if (lies === 'order') history.happens('order', { to: 'Disk', shown: 'Network' });
  history.accepts('isolate', 3, { allocation });
  history.happens('secrets', { to: 'Guest', epoch: 3, hostname });
}

test('a boot order that the tenant turned once the hypervisor was told to leave can have been seen by nobody; one before it can', () => {
  for (const isBefore of [true, false]) {
    const history = new History();
    history.runs();
    const turn = (): void => history.happens('order', { to: 'Network', shown: 'Network', by: 'tenant' });
    if (isBefore) turn();
    history.acts('vmm.devirtualize', 'commit', 'allocation/one');
    if (!isBefore) turn();
    history.happens('devirtualized', { epoch: 2, order: 'Network' });
    assert.equal(
      history.truth.violations.some(({ message }) => message.includes('the boot order is Network')),
      isBefore,
    );
  }
});

test('behind a BMC that said Off of it, or shows another boot order, a guest may find what its own next boot is given', () => {
  for (const lies of ['Off', 'order']) {
    const history = new History();
    asksFor(history, { lies });
    assert.deepEqual(history.broken(), []);
  }
});

function reimages(history: History): void {
  const environment = { revision: 'r2', image: { sha256: 'digest' } };
  const args = { allocation: 'newer', environment, sshKeys: [] };
  const instruction = { operationId: 'n0.3.x', node: 'n0', epoch: 3, verb: 'reimage', args } as unknown as Instruction;
  history.truth.accepted('r0', instruction, 1);
}

test('an update that was under way when a backup brought an owner from before goes on; none is begun for one afterwards', () => {
  for (const isUnderWay of [true, false]) {
    const history = new History();
    const restore = tookOver(history);
    history.nowMs = 1_000;
    if (isUnderWay) reimages(history);
    history.nowMs = 2_000;
    restore();
    history.nowMs = 3_000;
    if (!isUnderWay) reimages(history);
    history.happens('imaged', { epoch: 3, revision: 'r2', disk: 'sda', digest: 'digest' });
    assert.deepEqual(history.broken(), isUnderWay ? [] : [6]);
  }
});

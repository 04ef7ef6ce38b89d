/**
 * Where the records of operator and agent contradict each other, or a decision does not speak of the guest that runs: the node is held.
 * Behind most of these stands a second defence (the agent's own, or what the node's life asks for); here each is seen by itself.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NodeObservation } from '../../controller/api/protocol.generated.ts';
import type { PhysicalNode, PhysicalNodeStatus } from '../../controller/api/types.generated.ts';
import { decideNode } from '../../controller/domain/node-life.ts';
import type { NodeDecision, NodeInput, Tenancy } from '../../controller/domain/node-records.ts';

const nowIso = '2026-01-01T00:00:00Z';
const epoch = 3;
const owner = {
  allocationUid: 'uid',
  domain: 'allocation/uid',
  egress: 'None',
  namespace: 'cfd',
  name: 'job',
  role: 'Placed',
  devirtualize: 'Never',
  environment: { revision: 'b' },
  hostname: 'host',
  sshKeys: [],
  erase: 'Quick',
  updating: false,
  suspended: false,
} as unknown as Tenancy;
const claim = {
  allocation: { namespace: 'cfd', name: 'job', uid: 'uid' },
  epoch,
  revision: 'b',
  domain: 'allocation/uid',
  at: nowIso,
};
const claimed: PhysicalNodeStatus = { state: 'Resident', epoch, claim, storeId: 'log', systemUuid: 'machine' };
const unclaimed: PhysicalNodeStatus = { state: 'Available', epoch, storeId: 'log', systemUuid: 'machine' };

type Said = Partial<Omit<NodeObservation, 'record' | 'copy'>> & {
  readonly record?: Partial<NodeObservation['record']>;
  readonly copy?: Partial<NodeObservation['copy']>;
};

/** A guest that runs under its hypervisor, as its agent knows it. */
function agentSays({ record, copy, ...rest }: Said): NodeObservation {
  const guest = { epoch, guestStarted: true, commitSent: false, ended: false, allocation: 'uid', revision: 'b' };
  return {
    systemUuid: 'machine',
    ports: [{ name: 'eth0', role: 'Data', kind: 'Ethernet', state: 'Ready', domain: 'allocation/uid', egress: 'None' }],
    guest: { state: 'Running', starts: 1 },
    vmm: 'Resident',
    power: 'On',
    ...rest,
    record: { ...guest, ...record },
    copy: { map: 'Valid', totalBytes: 1, localBytes: 1, flushed: true, inFlight: 0, ...copy },
  } as NodeObservation;
}

/** The machine shows nothing of a guest. */
const isOff = { vmm: 'Absent', power: 'Off', guest: { state: 'Stopped', starts: 0 } } as unknown as Said;
const nothingCopied = { map: 'None', totalBytes: 0, localBytes: 0, flushed: false } as const;

function decide(
  status: PhysicalNodeStatus,
  said: Said,
  change: Partial<NodeInput> = {},
  spec: PhysicalNode['spec'] = {},
): NodeDecision {
  return decideNode({
    node: { metadata: { name: 'n0' }, spec, status } as PhysicalNode,
    facts: agentSays(said),
    storeId: 'log',
    agentName: 'r0',
    location: { site: 's', rack: 'r' },
    tenancy: owner,
    tenancyPending: undefined,
    commissioned: false,
    duplicateOf: undefined,
    nowIso,
    drainSeconds: 30,
    ...change,
  });
}

type Decision = NonNullable<NonNullable<PhysicalNode['spec']>['decision']>;

const decided = (action: Decision['action'], of = epoch): PhysicalNode['spec'] => ({
  decision: { action, epoch: of, reason: 'looked at it' },
});

const reasonOf = (decision: NodeDecision): string => (decision.kind === 'held' ? decision.reason : decision.kind);

test('a node whose records agree is not held', () => {
  assert.notEqual(decide(claimed, {}).kind, 'held');
  assert.notEqual(decide({ ...claimed, claim: { ...claim, started: true } }, {}).kind, 'held');
});

test('a claimed node whose agent comes with another log is held, whatever that log says', () => {
  assert.equal(reasonOf(decide(claimed, {}, { storeId: 'another' })), 'AgentLogLost');
});

test('a claimed node behind whose name another machine answers is held', () => {
  assert.equal(reasonOf(decide(claimed, { systemUuid: 'another' })), 'MachineChanged');
});

test('a hypervisor of which the log knows no start holds the node, and is recorded', () => {
  for (const status of [claimed, unclaimed]) {
    const seen = decide(status, { record: { guestStarted: false } });
    assert.ok(seen.kind === 'record' && seen.state === 'Quarantined', seen.kind);
    assert.equal(seen.patch.lastError?.code, 'GuestUnrecorded');
  }
});

test('a guest on a node without a claim holds it as orphaned', () => {
  assert.equal(reasonOf(decide(unclaimed, {})), 'GuestWithoutClaim');
});

test('an agent that forgot a guest that was seen to run is not believed', () => {
  const started = { ...claimed, claim: { ...claim, started: true } };
  assert.equal(reasonOf(decide(started, { ...isOff, record: { guestStarted: false } })), 'RecordsDisagree');
  assert.equal(reasonOf(decide(started, { ...isOff, record: { epoch: 1 } })), 'RecordsDisagree');
});

test('a commit on record of which the agent does not know holds the node', () => {
  const sent = { ...claimed, commitSent: { epoch, at: nowIso } };
  assert.equal(reasonOf(decide(sent, { ...isOff, record: { epoch: 1 } })), 'RecordsDisagree');
  for (const record of [{ guestStarted: false }, {}]) {
    assert.equal(reasonOf(decide(sent, { ...isOff, record, copy: nothingCopied })), 'CommitUncertain');
  }
});

test('a claimed node that its allocation does not list is orphaned, and nothing of it ends', () => {
  assert.equal(reasonOf(decide(claimed, {}, { tenancy: { ...owner, role: 'Unlisted' } })), 'NotListed');
});

test("a person's Reclaim ends no claim, End does", () => {
  const status = { ...claimed, state: 'Quarantined' } as const;
  const lost = { storeId: 'another' };
  assert.equal(reasonOf(decide(status, {}, lost, decided('Reclaim'))), 'AgentLogLost');
  const ended = decide(status, {}, lost, decided('End'));
  assert.ok(ended.kind === 'record' && ended.patch.end?.epoch === epoch + 1);
});

test("a person's Adopt gives away the guest of the epoch that it names and no other's", () => {
  assert.equal(reasonOf(decide(unclaimed, {}, {}, decided('Adopt', epoch - 1))), 'GuestWithoutClaim');
  const adopted = decide(unclaimed, {}, {}, decided('Adopt'));
  assert.ok(adopted.kind === 'record' && adopted.patch.claim?.allocation.uid === 'uid');
});

test("a person's Adopt begins no update again of which anything began", () => {
  const lastError = { code: 'Deadline', message: 'it did not show its effect', at: nowIso };
  const status = { ...claimed, state: 'Booting', lastError } as const;
  const begins = (said: Said): boolean => {
    const decision = decide(status, said, {}, decided('Adopt'));
    return decision.kind === 'record' && decision.why === 'BeginsAgain';
  };
  assert.equal(begins({ ...isOff, copy: nothingCopied }), true);
  assert.equal(begins({ copy: nothingCopied }), false);
  assert.equal(begins(isOff), false);
  assert.equal(begins({ ...isOff, copy: nothingCopied, record: { commitSent: true } }), false);
});

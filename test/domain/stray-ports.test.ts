/** A port that strayed from under a guest is put back also where nothing else may be asked of its node. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NodeObservation, Port } from '../../controller/api/protocol.generated.ts';
import { decideNode } from '../../controller/domain/node-life.ts';
import type { NodeInput, Tenancy } from '../../controller/domain/node-records.ts';

const nowIso = '2026-01-01T00:00:00Z';
const isolation = { allocationUid: 'uid', domain: 'allocation/uid', egress: 'None' } as const;
const owner = {
  ...isolation,
  namespace: 'cfd',
  name: 'job',
  role: 'Placed',
  environment: { revision: 'b' },
  updating: true,
  suspended: true,
} as Tenancy;

const port = (domain: string, state: Port['state'] = 'Ready'): Port => ({
  name: 'eth0',
  role: 'Data',
  kind: 'Ethernet',
  state,
  domain,
  egress: 'None',
});

/** The update to epoch 3 is claimed, and the agent is at epoch 2. */
function input(domain: string, change: Partial<NodeInput>, seenEpoch?: number): NodeInput {
  const facts = {
    record: { epoch: 2, guestStarted: true, allocation: 'uid', ...(seenEpoch === undefined ? {} : { seenEpoch }) },
    ports: [port(domain)],
    guest: { state: 'Running', starts: 1 },
    vmm: 'Absent',
    power: 'On',
    copy: {},
  } as NodeObservation;
  const claim = {
    allocation: { namespace: 'cfd', name: 'job', uid: 'uid' },
    epoch: 3,
    revision: 'b',
    domain: 'allocation/uid',
    at: nowIso,
  };
  return {
    node: { metadata: { name: 'n0' }, spec: {}, status: { state: 'Isolating', epoch: 3, claim } },
    facts,
    storeId: 'log',
    agentName: 'r0',
    location: { site: 's', rack: 'r' },
    tenancy: undefined,
    tenancyPending: undefined,
    commissioned: false,
    duplicateOf: undefined,
    nowIso,
    drainSeconds: 30,
    ...change,
  };
}

const cases: readonly (readonly [string, Partial<NodeInput>])[] = [
  ['its allocation is suspended', { tenancy: owner }],
  ['what its allocation runs is not known', { tenancyPending: { isolation } }],
];

for (const [why, change] of cases) {
  test(`under the epoch of the guest that runs, where its update has not begun and ${why}`, () => {
    const decision = decideNode(input('default', change));
    assert.ok(decision.kind === 'step', decision.kind);
    const args = { domain: 'allocation/uid', egress: 'None', allocation: 'uid' };
    assert.deepEqual([decision.step, decision.epoch], [{ verb: 'isolate', args }, 2]);
  });

  test(`nothing is asked where it has not strayed, or the agent was asked for the update already, and ${why}`, () => {
    assert.equal(decideNode(input('allocation/uid', change)).kind, 'rest');
    assert.equal(decideNode(input('default', change, 3)).kind, 'rest');
  });
}

test('a port whose way back failed is put back once more; what moves or cannot be read is waited for', () => {
  const asked = (state: Port['state']): string => {
    const { facts, ...rest } = input('allocation/uid', { tenancy: owner });
    assert.ok(facts);
    return decideNode({ ...rest, facts: { ...facts, ports: [port('allocation/uid', state)] } }).kind;
  };
  assert.deepEqual((['Error', 'Pending', 'Unknown', 'Ready'] as const).map(asked), ['step', 'rest', 'rest', 'rest']);
});

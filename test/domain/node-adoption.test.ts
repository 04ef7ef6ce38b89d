import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NodeObservation } from '../../controller/api/protocol.generated.ts';
import type { PhysicalNodeStatus } from '../../controller/api/types.generated.ts';
import { adopt } from '../../controller/domain/node-adoption.ts';
import type { NodeInput, Tenancy } from '../../controller/domain/node-records.ts';

const named = { namespace: 'cfd', name: 'job' };
const owner = {
  ...named,
  allocationUid: 'new',
  role: 'Placed',
  domain: 'allocation/new',
  egress: 'None',
  environment: { revision: 'b' },
  suspended: false,
} as Tenancy;
const input = { nowIso: '2026-01-01T00:00:00Z' } as NodeInput;
const left: PhysicalNodeStatus = {
  state: 'Orphaned',
  epoch: 3,
  claim: { allocation: { ...named, uid: 'old' }, epoch: 3, revision: 'b', domain: 'allocation/old', at: input.nowIso },
};

const agentAt = (epoch: number, allocation?: string): NodeObservation =>
  ({ record: { epoch, ...(allocation === undefined ? {} : { allocation }) } }) as NodeObservation;

test('a claim changes hands at once where the agent is at its epoch, or knows of no tenancy', () => {
  for (const facts of [agentAt(3, 'old'), agentAt(1), agentAt(2, 'new')]) {
    const decision = adopt(input, left, facts, owner);
    assert.equal(decision.kind === 'record' && decision.patch.claim?.allocation.uid, 'new');
  }
});

test('an update that the agent has not begun is begun for the owner that it knows, in the domain of the new one', () => {
  const decision = adopt(input, left, agentAt(2, 'old'), owner);
  assert.ok(decision.kind === 'step' && decision.epoch === 3);
  const args = { domain: 'allocation/new', egress: 'None', allocation: 'old' };
  assert.deepEqual(decision.step, { verb: 'isolate', args });
});

test('an update that cannot be begun holds the node and says why; one of a suspended allocation waits', () => {
  const lastError = { code: 'Deadline', message: 'isolate did not show its effect within 300 s', at: input.nowIso };
  const failed = adopt(input, { ...left, lastError }, agentAt(2, 'old'), owner);
  assert.ok(failed.kind === 'held' && failed.state === 'Orphaned');
  assert.match(failed.message, /revision b .* cfd\/job .*Deadline: isolate did not show/);
  assert.equal(adopt(input, left, agentAt(2, 'old'), { ...owner, suspended: true }).kind, 'rest');
});

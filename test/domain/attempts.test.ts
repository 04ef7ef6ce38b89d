import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NodeObservation } from '../../controller/api/protocol.generated.ts';
import { type AttemptAction, type Attempts, nextAction, type StepBounds } from '../../controller/domain/attempts.ts';
import type { Step } from '../../controller/domain/states.ts';

const attest: Step = { verb: 'attest', args: { nonce: 'nonce-0123456789' } };
const off: Step = { verb: 'power', args: { desired: 'Off' } };
const attesting: StepBounds = { state: 'Attesting', epoch: 3, term: 1, deadlineSeconds: 1800, retries: 3 };
const poweringOff: StepBounds = { state: 'PoweringOff', epoch: 3, term: 1, deadlineSeconds: 600, retries: 5 };
const facts = {} as NodeObservation;

test('two steps that undo each other end in a failure, although neither is ever seen to fail', () => {
  let attempts: Attempts | undefined;
  let nowMs = 0;
  const take = (bounds: StepBounds, step: Step): AttemptAction => {
    const next = nextAction(attempts, 'n0', bounds, step, facts, nowMs, 0.5);
    attempts = next.attempts;
    nowMs += 60_000;
    return next.action;
  };
  const kinds: string[] = [];
  for (let turn = 0; turn < 6; turn++) {
    kinds.push(take(attesting, attest).kind);
    assert.equal(take(poweringOff, off).kind, 'send');
  }
  assert.deepEqual(kinds.slice(0, 5), ['send', 'send', 'send', 'send', 'failed']);
});

test('what failed, and led back to the step before it, is what is shown in the end', () => {
  let attempts: Attempts | undefined;
  const reason = { code: 'AttestationFailed', message: 'attestation: the firmware is not as it was', retryable: true };
  let action: AttemptAction | undefined;
  for (let turn = 0; turn < 6 && action?.kind !== 'failed'; turn++) {
    ({ attempts, action } = nextAction(attempts, 'n0', attesting, attest, facts, turn * 1e6, 0.5));
    const id = action.kind === 'send' ? action.operationId : '';
    // The machine was switched on for it: it is switched off before it is tried again.
    const failed = { operation: { id, status: 'Failed', failure: reason } } as unknown as NodeObservation;
    if (action.kind === 'send')
      ({ attempts } = nextAction(attempts, 'n0', poweringOff, off, failed, turn * 1e6 + 1_000, 0.5));
  }
  assert.deepEqual(action, { kind: 'failed', failure: reason });
});

test("waiting for an image is not the node's failure: the step that comes back goes on", () => {
  const booting: StepBounds = { state: 'Booting', epoch: 3, term: 1, deadlineSeconds: 1800, retries: 2 };
  const reimage = { verb: 'reimage', args: {} } as unknown as Step;
  let attempts: Attempts | undefined;
  for (let turn = 0; turn < 10; turn++) {
    const sent = nextAction(attempts, 'n0', booting, reimage, facts, turn * 1e6, 0.5);
    attempts = sent.attempts;
    assert.equal(sent.action.kind, 'send');
    const id = sent.action.kind === 'send' ? sent.action.operationId : '';
    const failure = { code: 'ImageUnavailable', message: 'gone', retryable: true };
    const failed = { operation: { id, status: 'Failed', failure } } as unknown as NodeObservation;
    const next = nextAction(attempts, 'n0', booting, reimage, failed, turn * 1e6 + 1_000, 0.5);
    attempts = next.attempts;
    assert.equal(next.action.kind, 'stalled');
  }
  attempts = nextAction(attempts, 'n0', poweringOff, off, facts, 2e7, 0.5).attempts;
  assert.equal(nextAction(attempts, 'n0', booting, reimage, facts, 3e7, 0.5).action.kind, 'send');
});

test('an accepted operation that the agent does not show is asked for again, long before the deadline', () => {
  const wiping: StepBounds = { state: 'Wiping', epoch: 3, term: 1, deadlineSeconds: 86_400, retries: 3 };
  const wipe: Step = { verb: 'wipe', args: { erase: 'Full' } };
  const first = nextAction(undefined, 'n0', wiping, wipe, facts, 0, 0.5);
  assert.ok(first.action.kind === 'send');
  const id = first.action.operationId;
  const accepted: Attempts = { ...first.attempts, sent: 'Accepted' };
  const running = { operation: { id, status: 'Running' } } as unknown as NodeObservation;
  assert.equal(nextAction(accepted, 'n0', wiping, wipe, running, 600_000, 0.5).action.kind, 'wait');
  // The agent came back from a log that had lost it, or has it among those that were begun, and begins it no more.
  assert.equal(nextAction(accepted, 'n0', wiping, wipe, facts, 30_000, 0.5).action.kind, 'wait');
  const again = nextAction(accepted, 'n0', wiping, wipe, facts, 600_000, 0.5);
  assert.ok(again.action.kind === 'send');
  assert.notEqual(again.action.operationId, id);
  // One that nobody answered is the same once more.
  const unanswered = nextAction(again.attempts, 'n0', wiping, wipe, facts, 700_000, 0.5);
  assert.deepEqual(unanswered.action, again.action);
});

test('what an agent that started anew found in its log is asked for again under the same id, by the next leader too', () => {
  const wiping: StepBounds = { state: 'Wiping', epoch: 3, term: 1, deadlineSeconds: 86_400, retries: 3 };
  const wipe: Step = { verb: 'wipe', args: { erase: 'Full' } };
  const first = nextAction(undefined, 'n0', wiping, wipe, facts, 0, 0.5);
  assert.ok(first.action.kind === 'send');
  const id = first.action.operationId;
  const awaits = { operation: { id, status: 'Running', awaitsWord: true } } as unknown as NodeObservation;
  const accepted: Attempts = { ...first.attempts, sent: 'Accepted' };
  const again = nextAction(accepted, 'n0', wiping, wipe, awaits, 600_000, 0.5);
  assert.deepEqual(again.action, { kind: 'send', operationId: id });
  assert.equal(nextAction(again.attempts, 'n0', wiping, wipe, awaits, 601_000, 0.5).action.kind, 'wait');
  const byNext = nextAction(undefined, 'n0', { ...wiping, term: 2 }, wipe, awaits, 0, 0.5);
  assert.deepEqual(byNext.action, { kind: 'send', operationId: id });
});

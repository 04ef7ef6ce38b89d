/**
 * The attempts at one step of one node: when to send, when to wait, when it has failed. Pure; time and jitter come in.
 *
 * Invariants:
 * 1. An operation id names one attempt at one step of one state of one epoch of one node: sending it twice asks for nothing new.
 * 2. Attempts are bounded by the row's retries, except where the failure is not the node's (failures.ts).
 * 3. A restart of the operator takes the attempt number from the agent's newest operation, never from zero when that is known.
 */
import type { Instruction, NodeObservation, Operation } from '../api/protocol.generated.ts';
import { type FailureCode, failurePolicies } from './failures.ts';
import type { NodeState, Step } from './states.ts';

/** The operator's memory of the step that a node is at. Lost at a restart without harm. */
export interface Attempts {
  readonly key: string;
  /** Term under which the attempts were begun: no operation id of an earlier leader is ever used for something new. */
  readonly term: number;
  readonly attempt: number;
  readonly failures: number;
  /** Of the failures, those that are not the node's. */
  readonly excused: number;
  /** Monotonic milliseconds. */
  readonly attemptStartedAt: number;
  readonly notBefore: number;
  readonly sent: 'No' | 'Sent' | 'Accepted';
  readonly lastFailure?: StepFailure;
  /** Steps of the same epoch that the node left: coming back to one goes on counting where it stood. */
  readonly left: ReadonlyMap<string, Left>;
}

interface Left {
  readonly attempt: number;
  readonly failures: number;
  readonly excused: number;
  readonly lastFailure?: StepFailure;
}

export interface StepFailure {
  readonly code: FailureCode;
  readonly message: string;
}

export interface StepBounds {
  readonly state: NodeState;
  readonly epoch: number;
  readonly term: number;
  readonly deadlineSeconds: number;
  readonly retries: number;
}

export type AttemptAction =
  | { kind: 'send'; operationId: string }
  | { kind: 'wait'; ms: number }
  | { kind: 'stalled'; failure: StepFailure; ms: number }
  | { kind: 'failed'; failure: StepFailure };

/** First wait after a failure; doubled each time, up to the cap. A BMC that is asked more often gets slower, not better. */
const backoffFirstMs = 2_000;
const backoffCapMs = 300_000;
/** How long an operation may be Done before its effect shows in the observation. */
const settleMs = 10_000;
/** How long to wait before an unanswered instruction is sent again under the same id. */
const resendMs = 5_000;
/**
 * How long an accepted operation may stay unseen, and nobody else would ask again. A log that went back has forgotten it; or the id is
 * one that was used before the node was held for a while, and an agent that knows it accepts it and does nothing.
 */
const forgottenMs = 60_000;

const epochKey = (nodeName: string, epoch: number): string => `${nodeName}.${epoch}.`;

const stepKey = (nodeName: string, bounds: StepBounds, step: Step): string =>
  `${epochKey(nodeName, bounds.epoch)}${bounds.state}.${step.verb}`;

export const operationIdOf = ({ key, term, attempt }: Attempts): string => `${key}.${term}.${attempt}`;

const nothingLeft: Attempts['left'] = new Map();

/** `left` is what is remembered of the other steps of this epoch. */
function freshAttempts(
  key: string,
  term: number,
  nowMs: number,
  operation: Operation | undefined,
  left: Attempts['left'] = nothingLeft,
): Attempts {
  const begun = { key, attemptStartedAt: nowMs, notBefore: nowMs, sent: 'No', excused: 0, left } as const;
  const before = left.get(key);
  // What came about was undone, or the step behind it failed: that counts, or two steps could alternate for ever.
  if (before) return { ...begun, ...before, term, failures: before.failures + 1 };
  const [, oldTerm, oldAttempt] = /^\.(\d{1,15})\.(\d{1,9})$/.exec(operation?.id.slice(key.length) ?? '') ?? [];
  if (operation?.id.startsWith(key) && oldTerm !== undefined) {
    return { ...begun, term: Number(oldTerm), attempt: Number(oldAttempt), failures: Number(oldAttempt) };
  }
  return { ...begun, term, attempt: 0, failures: 0 };
}

/** The step came to its end: should it ever be needed again in this epoch, it starts over under a new id. */
export function stepEnded(attempts: Attempts): Attempts {
  if (attempts.key === '') return attempts;
  const left = new Map(attempts.left).set(attempts.key, { attempt: attempts.attempt + 1, failures: -1, excused: 0 });
  return { ...attempts, key: '', left };
}

function attemptsFor(
  known: Attempts | undefined,
  nodeName: string,
  bounds: StepBounds,
  step: Step,
  operation: Operation | undefined,
  nowMs: number,
): Attempts {
  const key = stepKey(nodeName, bounds, step);
  if (known?.key === key) return known;
  const left = new Map([...(known?.left ?? [])].filter(([name]) => name.startsWith(epochKey(nodeName, bounds.epoch))));
  if (known?.key.startsWith(epochKey(nodeName, bounds.epoch))) {
    // A failure may itself lead back to an earlier step, as that of an attestation does: it is why this one was left.
    const isItsOwn = operation?.id === operationIdOf(known) && operation.status === 'Failed';
    const lastFailure = (isItsOwn ? operation.failure : undefined) ?? known.lastFailure;
    left.set(known.key, {
      attempt: known.attempt + 1,
      failures: known.failures,
      excused: known.excused,
      ...(lastFailure === undefined ? {} : { lastFailure }),
    });
  }
  return freshAttempts(key, bounds.term, nowMs, operation, left);
}

const isSpent = ({ failures, excused }: Attempts, { retries }: StepBounds): boolean => failures - excused > retries;

/** `jitter` is a number in [0, 1). */
export function nextAction(
  known: Attempts | undefined,
  nodeName: string,
  bounds: StepBounds,
  step: Step,
  facts: NodeObservation,
  nowMs: number,
  jitter: number,
): { attempts: Attempts; action: AttemptAction } {
  const attempts = attemptsFor(known, nodeName, bounds, step, facts.operation, nowMs);
  if (known?.key !== attempts.key && attempts.left.has(attempts.key) && isSpent(attempts, bounds)) {
    const undone: StepFailure = { code: 'Deadline', message: `${step.verb} did not last, ${attempts.failures} times` };
    return { attempts, action: { kind: 'failed', failure: attempts.lastFailure ?? undone } };
  }
  const id = operationIdOf(attempts);
  const operation = facts.operation?.id === id ? facts.operation : undefined;
  if (operation?.status === 'Failed' || operation?.status === 'Cancelled') {
    const failure: StepFailure = operation.failure ?? { code: 'Cancelled', message: 'the operation was cancelled' };
    return afterFailure(attempts, bounds, failure, operation.failure?.retryable ?? true, nowMs, jitter);
  }
  const ageMs = nowMs - attempts.attemptStartedAt;
  const deadlineMs = bounds.deadlineSeconds * 1000;
  if (operation?.status === 'Done' && attempts.sent !== 'No' && ageMs > settleMs) {
    const failure: StepFailure = { code: 'Internal', message: `${step.verb} is done, yet its effect does not show` };
    return afterFailure(attempts, bounds, failure, true, nowMs, jitter);
  }
  if (deadlineMs > 0 && ageMs > deadlineMs && attempts.sent !== 'No') {
    const failure: StepFailure = {
      code: 'Deadline',
      message: `${step.verb} did not show its effect within ${bounds.deadlineSeconds} s`,
    };
    return afterFailure(attempts, bounds, failure, true, nowMs, jitter);
  }
  if (nowMs < attempts.notBefore) return { attempts, action: { kind: 'wait', ms: attempts.notBefore - nowMs } };
  const forgotten = operation === undefined && nowMs - attempts.notBefore >= forgottenMs;
  // Its agent started anew: it goes on with what it finds in its log once that is asked for again, under the same id.
  const awaitsWord = operation?.status === 'Running' && operation.awaitsWord === true;
  if (!awaitsWord && (operation !== undefined || (attempts.sent === 'Accepted' && !forgotten))) {
    const started: Attempts =
      attempts.sent === 'No' ? { ...attempts, sent: 'Accepted', attemptStartedAt: nowMs } : attempts;
    const left = deadlineMs > 0 ? Math.max(1_000, deadlineMs - ageMs) : 60_000;
    return { attempts: started, action: { kind: 'wait', ms: Math.min(left, settleMs + 1_000) } };
  }
  const sending: Attempts = {
    ...attempts,
    attempt: attempts.sent === 'Accepted' && !awaitsWord ? attempts.attempt + 1 : attempts.attempt,
    sent: 'Sent',
    attemptStartedAt: attempts.sent === 'No' ? nowMs : attempts.attemptStartedAt,
    notBefore: nowMs + resendMs,
  };
  return { attempts: sending, action: { kind: 'send', operationId: operationIdOf(sending) } };
}

function afterFailure(
  attempts: Attempts,
  bounds: StepBounds,
  failure: StepFailure,
  retryable: boolean,
  nowMs: number,
  jitter: number,
): { attempts: Attempts; action: AttemptAction } {
  const policy = failurePolicies[failure.code];
  const failures = attempts.failures + 1;
  const backoffMs = Math.min(backoffCapMs, backoffFirstMs * 2 ** Math.min(failures - 1, 10)) * (0.5 + jitter / 2);
  const again: Attempts = {
    ...attempts,
    attempt: attempts.attempt + 1,
    failures,
    attemptStartedAt: nowMs,
    notBefore: nowMs + backoffMs,
    sent: 'No',
    lastFailure: failure,
  };
  const excused: Attempts = { ...again, excused: again.excused + 1 };
  if (policy === 'StallImage') {
    const slow = { ...excused, notBefore: nowMs + backoffCapMs };
    return { attempts: slow, action: { kind: 'stalled', failure, ms: backoffCapMs } };
  }
  if (policy === 'WaitForImage') return { attempts: excused, action: { kind: 'stalled', failure, ms: backoffMs } };
  if (policy === 'FailNode' || !retryable || isSpent(again, bounds)) {
    return { attempts: again, action: { kind: 'failed', failure } };
  }
  return { attempts: again, action: { kind: 'wait', ms: backoffMs } };
}

/** The whole instruction for a step. */
export function toInstruction(nodeName: string, epoch: number, operationId: string, step: Step): Instruction {
  return { operationId, node: nodeName, epoch, ...step } as Instruction;
}

/** What went wrong with a guest that already ran, as far as the agent saw it. */
export function failureInUse(facts: NodeObservation): StepFailure | undefined {
  if (facts.guest.failure) return facts.guest.failure;
  const { operation } = facts;
  if (operation?.verb === 'reimage' && operation.status === 'Failed' && operation.epoch === facts.record.epoch) {
    return operation.failure ?? { code: 'Internal', message: 'the copy failed' };
  }
  return undefined;
}

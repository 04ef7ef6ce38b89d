/** The turns of an allocation's conditions that become events. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Condition } from '../../controller/api/meta.ts';
import { turnsBetween } from '../../controller/domain/allocation-events.ts';

const condition = (
  type: string,
  status: 'True' | 'False',
  reason: string,
  message = `${type} ${reason}`,
): Condition => ({
  type,
  status,
  reason,
  message,
  observedGeneration: 1,
  lastTransitionTime: '2026-01-01T00:00:00Z',
});

test('what is refused is a warning at once, with the words of the condition', () => {
  const message = 'spec.environmentRef: there is no ComputeEnvironment rocky in namespace cfd';
  const refused = [condition('Stalled', 'True', 'EnvironmentNotFound', message)];
  assert.deepEqual(turnsBetween(undefined, refused), [{ type: 'Warning', reason: 'EnvironmentNotFound', message }]);
  const other = [condition('Stalled', 'True', 'EnvironmentNotAllowed')];
  assert.equal(turnsBetween(refused, other)[0]?.reason, 'EnvironmentNotAllowed');
  assert.deepEqual(turnsBetween(other, [condition('Stalled', 'False', 'Working')]), []);
});

test('milestones are told when they come, and again when they come again', () => {
  const not = [condition('Ready', 'False', 'NotRunning'), condition('Devirtualized', 'False', 'Resident')];
  const ready = [condition('Ready', 'True', 'Running'), condition('Devirtualized', 'False', 'Resident')];
  assert.deepEqual(turnsBetween(not, ready), [{ type: 'Normal', reason: 'Ready', message: 'Ready Running' }]);
  assert.deepEqual(turnsBetween(ready, not), []);
  assert.equal(turnsBetween(undefined, ready).length, 1);
});

test('a placement that finds no nodes warns once, however its numbers change', () => {
  const waits = [condition('Scheduled', 'False', 'NodesArriving')];
  const none = [condition('Scheduled', 'False', 'Unschedulable', '9 nodes asked for, 2 free and matching')];
  const fewer = [condition('Scheduled', 'False', 'Unschedulable', '9 nodes asked for, 1 free and matching')];
  assert.equal(turnsBetween(waits, none)[0]?.message, '9 nodes asked for, 2 free and matching');
  assert.deepEqual(turnsBetween(none, fewer), []);
});

test('what lasts is silent', () => {
  const rest = [condition('Ready', 'True', 'Running'), condition('Stalled', 'True', 'NodesFailed')];
  assert.deepEqual(turnsBetween(rest, rest), []);
});

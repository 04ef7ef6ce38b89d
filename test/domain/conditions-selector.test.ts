import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Condition } from '../../controller/api/meta.ts';
import { findCondition, maxMessageLength, removeCondition, setCondition } from '../../controller/domain/conditions.ts';
import { matchesSelector } from '../../controller/domain/selector.ts';

const t1 = '2026-01-01T00:00:00Z';
const t2 = '2026-01-01T00:01:00Z';
const facts = { type: 'Ready', status: 'False', reason: 'Booting', message: '3 of 4 run' } as const;

test('a condition that says nothing new leaves the very same list', () => {
  const list = setCondition([], facts, t1, 1);
  assert.equal(setCondition(list, facts, t2, 1), list);
  assert.equal(removeCondition(list, 'Stalled'), list);
});

test('the transition time moves with the status alone, and the place stays', () => {
  const other: Condition = { type: 'Accepted', status: 'True', lastTransitionTime: t1, reason: 'Valid', message: '' };
  const list = setCondition([...setCondition([], facts, t1, 1), other], { ...facts, message: '4 of 4 run' }, t2, 2);
  assert.deepEqual(list[0], { ...facts, message: '4 of 4 run', observedGeneration: 2, lastTransitionTime: t1 });
  assert.equal(list[1], other);
  const ready = setCondition(list, { ...facts, status: 'True' }, t2, 2);
  assert.equal(findCondition(ready, 'Ready')?.lastTransitionTime, t2);
  assert.equal(findCondition(list, 'Ready')?.lastTransitionTime, t1);
  assert.deepEqual(removeCondition(ready, 'Ready'), [other]);
});

test('a long message is cut, never inside a character, and cutting it again changes nothing', () => {
  const long = { ...facts, message: `x${'😀'.repeat(maxMessageLength)}` };
  const list = setCondition([], long, t1, 1);
  const message = findCondition(list, 'Ready')?.message ?? '';
  assert.ok(message.length <= maxMessageLength && message.isWellFormed() && message.endsWith('…'));
  assert.equal(setCondition(list, long, t2, 1), list);
});

test('selectors mean what they mean in Kubernetes', () => {
  const labels = { gpu: 'a100', site: 'tokyo' };
  const expression = (key: string, operator: 'In' | 'NotIn' | 'Exists' | 'DoesNotExist', values?: string[]) =>
    matchesSelector({ matchExpressions: [{ key, operator, ...(values && { values }) }] }, labels);
  assert.ok(matchesSelector(undefined, labels));
  assert.ok(matchesSelector({}, {}));
  assert.ok(matchesSelector({ matchLabels: { gpu: 'a100' } }, labels));
  assert.ok(!matchesSelector({ matchLabels: { gpu: 'a100', rack: '1' } }, labels));
  assert.ok(expression('gpu', 'In', ['a100', 'h100']));
  assert.ok(!expression('rack', 'In', ['1']));
  assert.ok(expression('rack', 'NotIn', ['1']));
  assert.ok(!expression('gpu', 'NotIn', ['a100']));
  assert.ok(expression('site', 'Exists'));
  assert.ok(!expression('toString', 'Exists'));
  assert.ok(expression('constructor', 'DoesNotExist'));
  assert.ok(
    !matchesSelector(
      { matchLabels: { gpu: 'a100' }, matchExpressions: [{ key: 'site', operator: 'DoesNotExist' }] },
      labels,
    ),
  );
});

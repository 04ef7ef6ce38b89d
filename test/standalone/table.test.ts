import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compileJsonPath } from '../../controller/standalone/jsonpath.ts';
import { humanDuration } from '../../controller/standalone/table.ts';

test('ages as kubectl shows them', () => {
  const second = 1000;
  const [minute, hour, day] = [60 * second, 3600 * second, 86_400 * second];
  const cases: [number, string][] = [
    [0, '0s'],
    [-1.5 * second, '0s'],
    [-5 * second, '<invalid>'],
    [119 * second, '119s'],
    [2 * minute, '2m'],
    [3 * minute + 5 * second, '3m5s'],
    [11 * minute + 5 * second, '11m'],
    [3 * hour + 2 * minute, '3h2m'],
    [30 * hour, '30h'],
    [2 * day + 3 * hour, '2d3h'],
    [10 * day + 3 * hour, '10d'],
    [800 * day, '2y70d'],
    [3650 * day, '10y'],
  ];
  for (const [ms, text] of cases) assert.equal(humanDuration(ms), text);
});

test('JSONPath of printer columns', () => {
  const object = {
    a: {
      'x.y': 1,
      list: [
        { n: 'p', v: 1 },
        { n: 'q', v: 2 },
      ],
    },
    status: { conditions: [{ type: 'Ready', status: 'True' }] },
  };
  const at = (path: string): unknown => compileJsonPath(path)(object);
  assert.deepEqual(at('.a.list[1].v'), [2]);
  assert.deepEqual(at('.a.list[*].n'), ['p', 'q']);
  assert.deepEqual(at(".a['x.y']"), [1]);
  assert.deepEqual(at('.a.x\\.y'), [1]);
  assert.deepEqual(at('.a.list[-1].n'), ['q']);
  assert.deepEqual(at('.status.conditions[?(@.type=="Ready")].status'), ['True']);
  assert.deepEqual(at('.status.conditions[?(@.type=="Other")].status'), []);
  assert.deepEqual(at('.nothing.here'), []);
  assert.throws(() => compileJsonPath('.a..b'), /cannot understand/);
});

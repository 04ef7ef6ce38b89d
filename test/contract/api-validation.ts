/**
 * Validation, defaulting and pruning of custom resources, in the words of Kubernetes.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Json } from '../support/api-target.ts';
import { type Api, configMaps, expectStatus, freshName, widget, widgets } from './api-support.ts';

export function validationTests({ call, create, patch }: Api): void {
  const refuse = async (spec: Json): Promise<Json> =>
    expectStatus(await call('POST', widgets, { body: widget(freshName('bad'), spec) }), 422);

  const cases: [string, Json, string][] = [
    [
      'a bound',
      { replicas: 0 },
      'spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1',
    ],
    [
      'an upper bound',
      { replicas: 101 },
      'spec.replicas: Invalid value: 101: spec.replicas in body should be less than or equal to 100',
    ],
    [
      'a type',
      { replicas: 'x' },
      'spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string"',
    ],
    ['a missing field', { mode: 'Fast' }, 'spec.replicas: Required value'],
    ['an enum', { replicas: 1, mode: 'Odd' }, 'spec.mode: Unsupported value: "Odd": supported values: "Fast", "Slow"'],
    [
      'a pattern',
      { replicas: 1, digest: 'xyz' },
      'spec.digest: Invalid value: "xyz": spec.digest in body should match \'^[0-9a-f]{8}$\'',
    ],
    ['a long text', { replicas: 1, title: 'abcdefghijk' }, 'spec.title: Too long: may not be more than 10 bytes'],
    [
      'a short text',
      { replicas: 1, title: 'a' },
      'spec.title: Invalid value: "a": spec.title in body should be at least 2 chars long',
    ],
    ['a long list', { replicas: 1, tags: ['a', 'b', 'c', 'd'] }, 'spec.tags: Too many: 4: must have at most 3 items'],
    ['a repeated item', { replicas: 1, tags: ['a', 'a'] }, 'spec.tags[1]: Duplicate value: "a"'],
    [
      'a repeated key',
      { replicas: 1, ports: [{ name: 'a' }, { name: 'a' }] },
      'spec.ports[1]: Duplicate value: {"name":"a"}',
    ],
    ['a field in a list', { replicas: 1, ports: [{ number: 1 }] }, 'spec.ports[0].name: Required value'],
    ['a null', { replicas: null }, 'spec.replicas: Required value'],
    [
      'CEL with a field path',
      { replicas: 1, minReplicas: 2 },
      'spec.minReplicas: Invalid value: minReplicas must not be greater than replicas',
    ],
    [
      'CEL with a message of its own',
      { replicas: 1, timeout: '5s' },
      'spec.timeout: Invalid value: "5s": timeout must be at least 1m, not 5s',
    ],
  ];
  for (const [what, spec, message] of cases) {
    test(`${what} is refused in the words of Kubernetes`, async () => {
      const answer = await refuse(spec);
      assert.equal(answer.reason, 'Invalid');
      assert.ok(
        answer.message.startsWith(`Widget.test.bitvisor.io "${answer.details.name}" is invalid: `),
        answer.message,
      );
      const causes = answer.details.causes.map((cause: Json) => `${cause.field}: ${cause.message}`);
      assert.ok(causes.includes(message), `${message}\nis not among\n${causes.join('\n')}`);
    });
  }

  test('a value with a wrong format is refused', async () => {
    assert.match(
      (await refuse({ replicas: 1, when: 'yesterday' })).message,
      /spec\.when in body must be of type date-time: "yesterday"/,
    );
  });

  test('null in a field that may not be null is as if it were not there', async () => {
    const spec = { replicas: 1, title: null, tags: null, mode: null };
    assert.deepEqual((await create(widgets, widget(freshName('nn'), spec))).spec, { replicas: 1, mode: 'Slow' });
  });

  test('CEL is asked although another field is out of bounds', async () => {
    const fields = (await refuse({ replicas: 0, minReplicas: 9 })).details.causes.map((cause: Json) => cause.field);
    assert.deepEqual(fields, ['spec.replicas', 'spec.minReplicas']);
  });

  test('nullable keeps null, int-or-string takes both', async () => {
    const spec = {
      replicas: 1,
      note: null,
      ports: [
        { name: 'a', number: 1 },
        { name: 'b', number: 'http' },
      ],
    };
    const made = await create(widgets, widget(freshName('null'), spec));
    assert.equal(made.spec.note, null);
    assert.deepEqual(
      made.spec.ports.map((port: Json) => port.number),
      [1, 'http'],
    );
  });

  test('a transition rule compares with the old value', async () => {
    const { name } = (await create(widgets, widget(freshName('fixed'), { replicas: 1, fixed: 'a' }))).metadata;
    const answer = expectStatus(await patch(`${widgets}/${name}`, { spec: { fixed: 'b' } }), 422);
    assert.match(answer.message, /spec\.fixed: Invalid value: "b": fixed cannot be changed/);
    expectStatus(await patch(`${widgets}/${name}`, { spec: { fixed: 'a', replicas: 2 } }), 200);
  });

  test('status is validated, too', async () => {
    const { name } = (await create(widgets, widget(freshName('st')))).metadata;
    const answer = expectStatus(
      await patch(`${widgets}/${name}/status`, { status: { conditions: [{ type: 'Ready' }] } }),
      422,
    );
    assert.match(answer.message, /status\.conditions\[0\]\.status: Required value/);
  });

  test('fieldValidation decides what an unknown field gets', async () => {
    const body = widget(freshName('strict'), { replicas: 1, replcas: 2 });
    const strict = expectStatus(await call('POST', `${widgets}?fieldValidation=Strict`, { body }), 400);
    assert.match(strict.message, /strict decoding error: unknown field "spec\.replcas"/);
    const warned = await call('POST', `${widgets}?fieldValidation=Warn`, { body });
    expectStatus(warned, 201);
    assert.match(String(warned.headers.warning), /unknown field \\"spec\.replcas\\"/);
    const patched = await patch(`${widgets}/${body.metadata.name}?fieldValidation=Strict`, { spec: { replcas: 1 } });
    assert.match(expectStatus(patched, 422).message, /unknown field "spec\.replcas"/);
  });

  test('wrong types in metadata and broken bodies are bad requests', async () => {
    const body = widget(freshName('t'), { replicas: 1 }, { labels: { a: 1 } });
    expectStatus(await call('POST', widgets, { body }), 400);
    expectStatus(await call('POST', widgets, { body: '{"kind":' }), 400);
    expectStatus(await call('POST', widgets, { body: { ...widget('x'), apiVersion: 'test.bitvisor.io/v9' } }), 400);
    expectStatus(await call('POST', widgets, { body: { metadata: { name: 'x' }, spec: { replicas: 1 } } }), 400);
    const map = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'x' }, data: { a: 1 } };
    expectStatus(await call('POST', configMaps, { body: map }), 400);
  });
}

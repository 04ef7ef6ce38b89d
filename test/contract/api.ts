/**
 * What clients rely on in a Kubernetes API server, spoken over raw HTTPS: one suite for the embedded server and for a real
 * kube-apiserver, so that the first cannot drift from the second.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Answer, ApiTarget, Json } from '../support/api-target.ts';

const widgets = '/apis/test.bitvisor.io/v1/namespaces/api-contract/widgets';
const gadgets = '/apis/test.bitvisor.io/v1/gadgets';
const configMaps = '/api/v1/namespaces/api-contract/configmaps';
const merge = 'application/merge-patch+json';

let counter = 0;
const freshName = (prefix: string): string => `${prefix}-${process.pid}-${++counter}`;

export function widget(name: string, spec: Json = { replicas: 1 }, metadata: Json = {}): Json {
  return { apiVersion: 'test.bitvisor.io/v1', kind: 'Widget', metadata: { name, ...metadata }, spec };
}

function expectStatus(answer: Answer, status: number): Json {
  assert.equal(answer.status, status, JSON.stringify(answer.body));
  return answer.body;
}

/** Registers the suite; `start` gives a server that serves the CRDs of widget-crds.ts. */
export function apiContract(name: string, start: () => Promise<ApiTarget>): void {
  describe(`API semantics: ${name}`, () => {
    let target: ApiTarget;
    const call: ApiTarget['call'] = (method, path, options) => target.call(method, path, options);
    const create = async (path: string, body: Json): Promise<Json> =>
      expectStatus(await call('POST', path, { body }), 201);
    const patch = (path: string, body: Json, type = merge): Promise<Answer> => call('PATCH', path, { body, type });
    const api: Api = { call, create, patch, watch: (path) => target.watch(path) };

    before(async () => {
      target = await start();
      const namespace = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'api-contract' } };
      const { status } = await call('POST', '/api/v1/namespaces', { body: namespace });
      assert.ok(status === 201 || status === 409);
    });
    after(() => target.close());

    metadataTests(api);
    conflictTests(api);
    validationTests(api);
    patchTests(api);
    deletionTests(api);
    listTests(api);
    watchTests(api);
    builtInTests(api);
    formTests(api);
  });
}

interface Api {
  call: ApiTarget['call'];
  create(path: string, body: Json): Promise<Json>;
  patch(path: string, body: Json, type?: string): Promise<Answer>;
  watch: ApiTarget['watch'];
}

function metadataTests({ call, create, patch }: Api): void {
  test('creation sets identity, defaults and generation; status and unknown fields are dropped', async () => {
    const name = freshName('meta');
    const made = await create(widgets, {
      ...widget(name, { replicas: 2, ports: [{ name: 'a' }], bogus: 1, free: { any: { thing: 1 } } }),
      status: { phase: 'Mine' },
    });
    assert.equal(made.metadata.generation, 1);
    assert.match(made.metadata.uid, /^[0-9a-f-]{36}$/);
    assert.match(made.metadata.creationTimestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
    assert.equal(made.metadata.namespace, 'api-contract');
    assert.deepEqual(made.spec, {
      replicas: 2,
      mode: 'Slow',
      ports: [{ name: 'a', protocol: 'TCP' }],
      free: { any: { thing: 1 } },
    });
    assert.equal(made.status, undefined);
  });

  test('generation follows spec alone; status is written through its subresource alone', async () => {
    const path = `${widgets}/${(await create(widgets, widget(freshName('gen')))).metadata.name}`;
    const labelled = expectStatus(
      await patch(path, { metadata: { labels: { a: 'b' } }, status: { phase: 'No' } }),
      200,
    );
    assert.equal(labelled.metadata.generation, 1);
    assert.equal(labelled.status, undefined);
    const changed = expectStatus(await patch(path, { spec: { replicas: 3 } }), 200);
    assert.equal(changed.metadata.generation, 2);
    const body = { spec: { replicas: 9 }, status: { phase: 'Yes' }, metadata: { labels: { a: 'c' } } };
    const reported = expectStatus(await patch(`${path}/status`, body), 200);
    assert.equal(reported.metadata.generation, 2);
    assert.equal(reported.spec.replicas, 3);
    assert.equal(reported.status.phase, 'Yes');
  });

  test('a write that changes nothing keeps the resourceVersion', async () => {
    const made = await create(widgets, widget(freshName('noop')));
    const again = expectStatus(await patch(`${widgets}/${made.metadata.name}`, { spec: { replicas: 1 } }), 200);
    assert.equal(again.metadata.resourceVersion, made.metadata.resourceVersion);
  });

  test('generateName makes a name', async () => {
    const body = { ...widget('x'), metadata: { generateName: 'gen-' } };
    assert.match((await create(widgets, body)).metadata.name, /^gen-[a-z0-9]{5}$/);
  });

  test('dryRun=All answers as if and stores nothing', async () => {
    const name = freshName('dry');
    expectStatus(await call('POST', `${widgets}?dryRun=All`, { body: widget(name) }), 201);
    expectStatus(await call('GET', `${widgets}/${name}`), 404);
    const made = await create(widgets, widget(name));
    const answer = expectStatus(await patch(`${widgets}/${name}?dryRun=All`, { spec: { replicas: 7 } }), 200);
    assert.equal(answer.spec.replicas, 7);
    const stored = expectStatus(await call('GET', `${widgets}/${name}`), 200);
    assert.equal(stored.metadata.resourceVersion, made.metadata.resourceVersion);
  });

  test('names and labels are checked', async () => {
    const badName = await call('POST', widgets, { body: widget('Not_A_Name') });
    assert.match(
      expectStatus(badName, 422).message,
      /metadata\.name: Invalid value: "Not_A_Name": a lowercase RFC 1123 subdomain/,
    );
    const badLabel = await call('POST', widgets, {
      body: widget(freshName('l'), { replicas: 1 }, { labels: { a: 'b c' } }),
    });
    assert.match(expectStatus(badLabel, 422).message, /metadata\.labels: Invalid value: "b c": a valid label must be/);
    const noName = await call('POST', widgets, { body: { ...widget('x'), metadata: {} } });
    assert.match(expectStatus(noName, 422).message, /name or generateName is required/);
  });

  test('a namespace must be there, and must be the one of the path', async () => {
    const missing = await call('POST', widgets.replace('api-contract', 'nowhere'), { body: widget('x') });
    assert.equal(expectStatus(missing, 404).message, 'namespaces "nowhere" not found');
    const other = await call('POST', widgets, { body: widget('x', { replicas: 1 }, { namespace: 'default' }) });
    expectStatus(other, 400);
  });

  test('scale reads and writes replicas', async () => {
    const { name } = (await create(widgets, widget(freshName('scale')))).metadata;
    await patch(`${widgets}/${name}/status`, { status: { replicas: 1, selector: 'a=b' } });
    const scale = expectStatus(await call('GET', `${widgets}/${name}/scale`), 200);
    assert.equal(scale.kind, 'Scale');
    assert.deepEqual([scale.spec, scale.status], [{ replicas: 1 }, { replicas: 1, selector: 'a=b' }]);
    expectStatus(await call('PUT', `${widgets}/${name}/scale`, { body: { ...scale, spec: { replicas: 4 } } }), 200);
    const scaled = expectStatus(await patch(`${widgets}/${name}/scale`, { spec: { replicas: 5 } }), 200);
    assert.equal(scaled.spec.replicas, 5);
    const stored = expectStatus(await call('GET', `${widgets}/${name}`), 200);
    assert.deepEqual([stored.spec.replicas, stored.metadata.generation], [5, 3]);
    expectStatus(await call('PUT', `${widgets}/${name}/scale`, { body: { ...scale, spec: { replicas: 6 } } }), 409);
  });
}

function conflictTests({ call, create, patch }: Api): void {
  test('what is there or not there is said as clients expect it', async () => {
    const missing = expectStatus(await call('GET', `${widgets}/nothing`), 404);
    assert.equal(missing.message, 'widgets.test.bitvisor.io "nothing" not found');
    assert.equal(missing.reason, 'NotFound');
    assert.deepEqual(missing.details, { name: 'nothing', group: 'test.bitvisor.io', kind: 'widgets' });
    const made = await create(widgets, widget(freshName('twice')));
    const again = expectStatus(await call('POST', widgets, { body: widget(made.metadata.name) }), 409);
    assert.equal(again.message, `widgets.test.bitvisor.io "${made.metadata.name}" already exists`);
    assert.equal(again.reason, 'AlreadyExists');
  });

  test('an old resourceVersion is refused in PUT, patch and status patch', async () => {
    const made = await create(widgets, widget(freshName('cas')));
    const path = `${widgets}/${made.metadata.name}`;
    await patch(path, { spec: { replicas: 2 } });
    const put = expectStatus(await call('PUT', path, { body: { ...made, spec: { replicas: 3 } } }), 409);
    const message =
      `Operation cannot be fulfilled on widgets.test.bitvisor.io "${made.metadata.name}": the object has been modified; ` +
      'please apply your changes to the latest version and try again';
    assert.equal(put.message, message);
    const metadata = { resourceVersion: made.metadata.resourceVersion };
    assert.equal(expectStatus(await patch(path, { metadata, spec: { replicas: 3 } }), 409).message, message);
    assert.equal(
      expectStatus(await patch(`${path}/status`, { metadata, status: { phase: 'x' } }), 409).reason,
      'Conflict',
    );
  });

  test('a wrong uid is refused', async () => {
    const made = await create(widgets, widget(freshName('uid')));
    const path = `${widgets}/${made.metadata.name}`;
    const metadata = { uid: '00000000-0000-4000-8000-000000000000' };
    const { status } = await patch(path, { metadata, spec: { replicas: 2 } });
    assert.equal(status, 422);
    const put = { ...made, metadata: { ...made.metadata, ...metadata } };
    expectStatus(await call('PUT', path, { body: put }), 409);
    const body = { preconditions: metadata };
    assert.match(
      expectStatus(await call('DELETE', path, { body }), 409).message,
      /the UID in the precondition .* does not match the UID in record/,
    );
  });

  test('a PUT of a custom resource must name a version', async () => {
    const { name } = (await create(widgets, widget(freshName('put')))).metadata;
    const answer = expectStatus(await call('PUT', `${widgets}/${name}`, { body: widget(name) }), 422);
    assert.match(answer.message, /metadata\.resourceVersion: Invalid value: .*must be specified for an update/);
  });
}

function validationTests({ call, create, patch }: Api): void {
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

function patchTests({ call, create, patch }: Api): void {
  test('JSON patch, with its tests', async () => {
    const { name } = (await create(widgets, widget(freshName('jp'), { replicas: 1, tags: ['a'] }))).metadata;
    const path = `${widgets}/${name}`;
    const type = 'application/json-patch+json';
    const operations = [
      { op: 'test', path: '/spec/replicas', value: 1 },
      { op: 'replace', path: '/spec/replicas', value: 2 },
      { op: 'add', path: '/spec/tags/-', value: 'b' },
    ];
    const answer = expectStatus(await patch(path, operations, type), 200);
    assert.deepEqual([answer.spec.replicas, answer.spec.tags], [2, ['a', 'b']]);
    expectStatus(await patch(path, operations, type), 422);
    expectStatus(await patch(path, [{ op: 'remove', path: '/spec/nothing' }], type), 422);
  });

  test('merge patch: null removes, lists are replaced', async () => {
    const { name } = (await create(widgets, widget(freshName('mp'), { replicas: 1, title: 'abc', tags: ['a', 'b'] })))
      .metadata;
    const answer = expectStatus(await patch(`${widgets}/${name}`, { spec: { title: null, tags: ['c'] } }), 200);
    assert.deepEqual([answer.spec.title, answer.spec.tags], [undefined, ['c']]);
  });

  test('strategic merge is for built-in kinds alone', async () => {
    const { name } = (await create(widgets, widget(freshName('smp')))).metadata;
    const type = 'application/strategic-merge-patch+json';
    expectStatus(await patch(`${widgets}/${name}`, {}, type), 415);
    const owner = async (): Promise<Json> => {
      const body = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: freshName('owner') } };
      const { metadata } = await create(configMaps, body);
      return { apiVersion: 'v1', kind: 'ConfigMap', name: metadata.name, uid: metadata.uid };
    };
    const [one, two] = [await owner(), await owner()];
    const map = {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: freshName('cm'), finalizers: ['a.io/x'] },
      data: { a: '1', b: '2' },
    };
    const path = `${configMaps}/${(await create(configMaps, map)).metadata.name}`;
    await patch(path, { metadata: { ownerReferences: [one] } }, type);
    const body = { metadata: { ownerReferences: [two], finalizers: ['a.io/y'] }, data: { a: null, c: '3' } };
    const answer = expectStatus(await patch(path, body, type), 200);
    assert.deepEqual(answer.data, { b: '2', c: '3' });
    assert.deepEqual(answer.metadata.finalizers.toSorted(), ['a.io/x', 'a.io/y']);
    assert.deepEqual(
      answer.metadata.ownerReferences.map((item: Json) => item.name).toSorted(),
      [one.name, two.name].toSorted(),
    );
    const removal = { metadata: { finalizers: null, ownerReferences: [{ $patch: 'delete', uid: one.uid }] } };
    const rest = expectStatus(await patch(path, removal, type), 200);
    assert.deepEqual([rest.metadata.finalizers, rest.metadata.ownerReferences.length], [undefined, 1]);
  });

  test('a patch of what is not there is NotFound; a name cannot be changed', async () => {
    expectStatus(await patch(`${widgets}/nothing`, { spec: {} }), 404);
    const { name } = (await create(widgets, widget(freshName('nm')))).metadata;
    expectStatus(await patch(`${widgets}/${name}`, { metadata: { name: 'other' } }), 400);
    expectStatus(await call('PATCH', `${widgets}/${name}`, { body: {}, type: 'application/x-unknown' }), 415);
  });
}

function deletionTests({ call, create, patch }: Api): void {
  test('finalizers hold an object until the last is gone', async () => {
    const made = await create(widgets, widget(freshName('fin'), { replicas: 1 }, { finalizers: ['t.io/a', 't.io/b'] }));
    const path = `${widgets}/${made.metadata.name}`;
    const marked = expectStatus(await call('DELETE', path), 200);
    assert.match(marked.metadata.deletionTimestamp, /Z$/);
    assert.equal(marked.metadata.deletionGracePeriodSeconds, 0);
    assert.equal(marked.metadata.generation, 2);
    const again = expectStatus(await call('DELETE', path), 200);
    assert.equal(again.metadata.resourceVersion, marked.metadata.resourceVersion);
    const added = expectStatus(await patch(path, { metadata: { finalizers: ['t.io/a', 't.io/b', 't.io/c'] } }), 422);
    assert.match(
      added.message,
      /metadata\.finalizers: Forbidden: no new finalizers can be added if the object is being deleted/,
    );
    expectStatus(await patch(path, { metadata: { finalizers: ['t.io/b'] } }), 200);
    expectStatus(await call('GET', path), 200);
    expectStatus(await patch(path, { metadata: { finalizers: null } }), 200);
    expectStatus(await call('GET', path), 404);
  });

  test('a deletion answers with a Status that names the object', async () => {
    const made = await create(widgets, widget(freshName('del')));
    const answer = expectStatus(await call('DELETE', `${widgets}/${made.metadata.name}`), 200);
    assert.equal(answer.status, 'Success');
    assert.deepEqual(answer.details, {
      name: made.metadata.name,
      group: 'test.bitvisor.io',
      kind: 'widgets',
      uid: made.metadata.uid,
    });
  });

  test('resourceVersion preconditions, dry runs and unknown policies', async () => {
    const made = await create(widgets, widget(freshName('pre')));
    const path = `${widgets}/${made.metadata.name}`;
    await patch(path, { spec: { replicas: 2 } });
    const body = { preconditions: { resourceVersion: made.metadata.resourceVersion } };
    expectStatus(await call('DELETE', path, { body }), 409);
    expectStatus(await call('DELETE', path, { body: { dryRun: ['All'] } }), 200);
    expectStatus(await call('GET', path), 200);
    const { status } = await call('DELETE', path, { body: { propagationPolicy: 'Sideways' } });
    assert.equal(status, 422);
  });

  test('foreground and orphan leave their mark on the object until a collector acts', async () => {
    const hold = { finalizers: ['t.io/hold'] };
    const one = await create(widgets, widget(freshName('fg'), { replicas: 1 }, hold));
    const body = { propagationPolicy: 'Foreground' };
    const marked = expectStatus(await call('DELETE', `${widgets}/${one.metadata.name}`, { body }), 200);
    assert.ok(marked.metadata.finalizers.includes('foregroundDeletion'));
    const two = await create(widgets, widget(freshName('or'), { replicas: 1 }, hold));
    const orphan = await call('DELETE', `${widgets}/${two.metadata.name}?propagationPolicy=Orphan`);
    assert.ok(expectStatus(orphan, 200).metadata.finalizers.includes('orphan'));
  });

  test('a collection is deleted by selector', async () => {
    const label = freshName('set');
    for (let i = 0; i < 3; i++)
      await create(widgets, widget(`${label}-${i}`, { replicas: 1 }, { labels: { set: i < 2 ? label : 'x' } }));
    expectStatus(await call('DELETE', `${widgets}?labelSelector=set%3D${label}`), 200);
    expectStatus(await call('GET', `${widgets}/${label}-0`), 404);
    expectStatus(await call('GET', `${widgets}/${label}-2`), 200);
  });
}

function listTests({ call, create, patch }: Api): void {
  test('pages show one state, whatever happens in between', async () => {
    const prefix = freshName('page');
    const names = Array.from({ length: 7 }, (_, i) => `${prefix}-${i}`);
    for (const name of names) await create(gadgets, gadget(name, { labels: { page: prefix } }));
    const selector = `labelSelector=page%3D${prefix}`;
    const first = expectStatus(await call('GET', `${gadgets}?limit=3&${selector}`), 200);
    assert.equal(first.items.length, 3);
    assert.ok(first.metadata.continue);
    await call('DELETE', `${gadgets}/${names[5]}`);
    await patch(`${gadgets}/${names[4]}`, { spec: { color: 'changed' } });
    await create(gadgets, gadget(`${prefix}-6a`, { labels: { page: prefix } }));
    const token = encodeURIComponent(first.metadata.continue);
    const second = expectStatus(await call('GET', `${gadgets}?limit=500&${selector}&continue=${token}`), 200);
    assert.equal(second.metadata.continue ?? '', '');
    assert.equal(second.metadata.resourceVersion, first.metadata.resourceVersion);
    assert.deepEqual(
      [...first.items, ...second.items].map((item: Json) => item.metadata.name),
      names,
    );
    assert.equal(second.items.find((item: Json) => item.metadata.name === names[4]).spec.color, 'red');
  });

  test('a continue token that was not given is refused', async () => {
    expectStatus(await call('GET', `${gadgets}?limit=1&continue=rubbish`), 400);
  });

  test('label and field selectors', async () => {
    const prefix = freshName('sel');
    await create(gadgets, gadget(`${prefix}-a`, { labels: { sel: prefix, tier: 'one' } }));
    await create(gadgets, { ...gadget(`${prefix}-b`, { labels: { sel: prefix } }), spec: { color: 'blue' } });
    const names = async (query: string): Promise<string[]> => {
      const list = expectStatus(await call('GET', `${gadgets}?${query}`), 200);
      return list.items.map((item: Json) => item.metadata.name.slice(prefix.length + 1));
    };
    const all = `labelSelector=${encodeURIComponent(`sel=${prefix}`)}`;
    assert.deepEqual(await names(all), ['a', 'b']);
    assert.deepEqual(await names(`${all}${encodeURIComponent(',tier in (one,two)')}`), ['a']);
    assert.deepEqual(await names(`${all}${encodeURIComponent(',!tier')}`), ['b']);
    assert.deepEqual(await names(`${all}${encodeURIComponent(',tier!=one')}`), ['b']);
    assert.deepEqual(await names(`${all}&fieldSelector=spec.color%3Dblue`), ['b']);
    assert.deepEqual(await names(`${all}&fieldSelector=spec.color!%3Dblue`), ['a']);
    assert.deepEqual(await names(`fieldSelector=metadata.name%3D${prefix}-b`), ['b']);
    expectStatus(await call('GET', `${gadgets}?fieldSelector=spec.weight%3D1`), 400);
    expectStatus(await call('GET', `${gadgets}?labelSelector=a%3D%3D%3Db`), 400);
  });

  test('a list over all namespaces, and one at a version', async () => {
    const made = await create(widgets, widget(freshName('all')));
    const path = '/apis/test.bitvisor.io/v1/widgets?fieldSelector=metadata.name%3D';
    const list = expectStatus(await call('GET', path + made.metadata.name), 200);
    assert.equal(list.kind, 'WidgetList');
    assert.equal(list.items.length, 1);
    await call('DELETE', `${widgets}/${made.metadata.name}`);
    const version = list.metadata.resourceVersion;
    const query = `&limit=500&resourceVersion=${version}&resourceVersionMatch=Exact`;
    const before = expectStatus(await call('GET', path + made.metadata.name + query), 200);
    assert.equal(before.items.length, 1);
  });
}

function gadget(name: string, metadata: Json = {}): Json {
  return { apiVersion: 'test.bitvisor.io/v1', kind: 'Gadget', metadata: { name, ...metadata }, spec: { color: 'red' } };
}

function watchTests({ call, create, patch, watch }: Api): void {
  test('a watch tells every change from a version on, and resumes', async () => {
    const { resourceVersion } = expectStatus(await call('GET', `${widgets}?limit=1`), 200).metadata;
    const made = await create(widgets, widget(freshName('watch')));
    const { name } = made.metadata;
    const selector = `fieldSelector=metadata.name%3D${name}`;
    const changes = await watch(`${widgets}?watch=1&resourceVersion=${resourceVersion}&${selector}`);
    const added = await changes.next();
    assert.deepEqual([added.type, added.object.metadata.resourceVersion], ['ADDED', made.metadata.resourceVersion]);
    const changed = expectStatus(await patch(`${widgets}/${name}`, { spec: { replicas: 2 } }), 200);
    const modified = await changes.next();
    assert.deepEqual(
      [modified.type, modified.object.metadata.resourceVersion],
      ['MODIFIED', changed.metadata.resourceVersion],
    );
    await call('DELETE', `${widgets}/${name}`);
    const deleted = await changes.next();
    assert.equal(deleted.type, 'DELETED');
    assert.ok(Number(deleted.object.metadata.resourceVersion) > Number(changed.metadata.resourceVersion));
    changes.close();
    const resumed = await watch(`${widgets}?watch=1&resourceVersion=${made.metadata.resourceVersion}&${selector}`);
    assert.equal((await resumed.next()).type, 'MODIFIED');
    assert.equal((await resumed.next()).type, 'DELETED');
    resumed.close();
  });

  test('an object that enters or leaves the selection is added or deleted', async () => {
    const label = freshName('sel');
    const { resourceVersion } = expectStatus(await call('GET', `${widgets}?limit=1`), 200).metadata;
    const changes = await watch(`${widgets}?watch=1&resourceVersion=${resourceVersion}&labelSelector=in%3D${label}`);
    const { name } = (await create(widgets, widget(freshName('w')))).metadata;
    await patch(`${widgets}/${name}`, { metadata: { labels: { in: label } } });
    assert.equal((await changes.next()).type, 'ADDED');
    const left = expectStatus(
      await patch(`${widgets}/${name}`, { metadata: { labels: { in: null } }, spec: { replicas: 5 } }),
      200,
    );
    const event = await changes.next();
    assert.equal(event.type, 'DELETED');
    assert.equal(event.object.metadata.resourceVersion, left.metadata.resourceVersion);
    changes.close();
  });

  test('a watch without a version begins with what is there', async () => {
    const { name } = (await create(widgets, widget(freshName('start')))).metadata;
    const changes = await watch(`${widgets}?watch=1&fieldSelector=metadata.name%3D${name}`);
    assert.equal((await changes.next()).type, 'ADDED');
    await patch(`${widgets}/${name}`, { spec: { replicas: 3 } });
    assert.equal((await changes.next()).object.spec.replicas, 3);
    changes.close();
  });

  test('timeoutSeconds ends a watch, with a bookmark for who asked', async () => {
    const { resourceVersion } = expectStatus(await call('GET', `${widgets}?limit=1`), 200).metadata;
    const query = `watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion=${resourceVersion}`;
    const changes = await watch(`${widgets}?${query}&fieldSelector=metadata.name%3Dnobody`);
    await assert.rejects(async () => {
      for (;;) assert.equal((await changes.next()).type, 'BOOKMARK');
    }, /the watch ended/);
  });
}

function builtInTests({ call, create, patch }: Api): void {
  test('an immutable ConfigMap stays as it is', async () => {
    const map = {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: freshName('im') },
      immutable: true,
      data: { a: '1' },
    };
    const { name } = (await create(configMaps, map)).metadata;
    const answer = expectStatus(await patch(`${configMaps}/${name}`, { data: { a: '2' } }), 422);
    assert.match(answer.message, /data: Forbidden: field is immutable when `immutable` is set/);
    expectStatus(await patch(`${configMaps}/${name}`, { immutable: false }), 422);
    expectStatus(await patch(`${configMaps}/${name}`, { metadata: { labels: { a: 'b' } } }), 200);
  });

  test('a Secret keeps stringData as data, and its type', async () => {
    const path = configMaps.replace('configmaps', 'secrets');
    const secret = { apiVersion: 'v1', kind: 'Secret', metadata: { name: freshName('se') }, stringData: { a: 'b' } };
    const made = await create(path, secret);
    assert.deepEqual([made.data, made.stringData, made.type], [{ a: 'Yg==' }, undefined, 'Opaque']);
    expectStatus(await patch(`${path}/${made.metadata.name}`, { type: 'other' }), 422);
    expectStatus(await call('POST', path, { body: { ...secret, metadata: { name: 'x' }, data: { b: '*' } } }), 400);
  });

  test('ConfigMaps have no generation and take a PUT without a version', async () => {
    const map = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: freshName('put') }, data: { a: '1' } };
    const made = await create(configMaps, map);
    assert.equal(made.metadata.generation, undefined);
    const put = expectStatus(
      await call('PUT', `${configMaps}/${made.metadata.name}`, { body: { ...map, data: { b: '2' } } }),
      200,
    );
    assert.deepEqual(put.data, { b: '2' });
  });

  test('Leases and Events are stored; Events are found by what they are about', async () => {
    const lease = {
      apiVersion: 'coordination.k8s.io/v1',
      kind: 'Lease',
      metadata: { name: freshName('le') },
      spec: { holderIdentity: 'me', leaseDurationSeconds: 15, renewTime: '2026-01-01T00:00:00.000000Z' },
    };
    const made = await create('/apis/coordination.k8s.io/v1/namespaces/api-contract/leases', lease);
    assert.equal(made.spec.renewTime, '2026-01-01T00:00:00.000000Z');
    const name = freshName('ev');
    const event = {
      apiVersion: 'v1',
      kind: 'Event',
      metadata: { name },
      involvedObject: { kind: 'Widget', namespace: 'api-contract', name, uid: 'u1' },
      reason: 'Tested',
      message: 'It was.',
      type: 'Normal',
      firstTimestamp: '2026-01-01T00:00:00Z',
      lastTimestamp: '2026-01-01T00:00:00Z',
      count: 1,
    };
    await create('/api/v1/namespaces/api-contract/events', event);
    const selector = encodeURIComponent(`involvedObject.name=${name},involvedObject.kind=Widget,involvedObject.uid=u1`);
    const found = expectStatus(await call('GET', `/api/v1/events?fieldSelector=${selector}`), 200);
    assert.deepEqual(
      found.items.map((item: Json) => item.reason),
      ['Tested'],
    );
  });

  test('a namespace gets its label and its phase', async () => {
    const name = freshName('ns');
    const made = await create('/api/v1/namespaces', { apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
    assert.equal(made.metadata.labels['kubernetes.io/metadata.name'], name);
    assert.deepEqual([made.spec, made.status.phase], [{ finalizers: ['kubernetes'] }, 'Active']);
    const marked = expectStatus(await call('DELETE', `/api/v1/namespaces/${name}`), 200);
    assert.equal(marked.status.phase, 'Terminating');
  });
}

function formTests({ call, create }: Api): void {
  test('tables show the columns of the CRD', async () => {
    const made = await create(widgets, widget(freshName('tab'), { replicas: 4 }));
    const accept = 'application/json;as=Table;v=v1;g=meta.k8s.io,application/json';
    const table = expectStatus(await call('GET', `${widgets}/${made.metadata.name}`, { accept }), 200);
    assert.equal(table.kind, 'Table');
    assert.deepEqual(
      table.columnDefinitions.map((column: Json) => column.name),
      ['Name', 'Desired', 'Ready', 'Since', 'Age'],
    );
    const { cells, object } = table.rows[0];
    assert.deepEqual(cells.slice(0, 4), [made.metadata.name, 4, null, null]);
    assert.match(cells[4], /^\d+s$/);
    assert.equal(object.kind, 'PartialObjectMetadata');
    const list = expectStatus(await call('GET', `${widgets}?limit=2`, { accept }), 200);
    assert.equal(list.rows.length, 2);
    assert.ok(list.metadata.continue);
  });

  test('metadata alone can be asked for', async () => {
    const made = await create(widgets, widget(freshName('pm')));
    const accept = 'application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io';
    const partial = expectStatus(await call('GET', `${widgets}/${made.metadata.name}`, { accept }), 200);
    assert.deepEqual([partial.kind, partial.spec], ['PartialObjectMetadata', undefined]);
  });

  test('YAML goes in and out', async () => {
    const name = freshName('yaml');
    const body = `apiVersion: test.bitvisor.io/v1\nkind: Widget\nmetadata: {name: ${name}}\nspec: {replicas: 3}\n`;
    expectStatus(await call('POST', widgets, { body, type: 'application/yaml' }), 201);
    const answer = await call('GET', `${widgets}/${name}`, { accept: 'application/yaml' });
    assert.match(answer.body, /replicas: 3/);
  });

  test('what cannot be given is refused: forms, paths, methods', async () => {
    expectStatus(await call('GET', widgets, { accept: 'text/html' }), 406);
    expectStatus(await call('GET', '/apis/test.bitvisor.io/v1/nothings'), 404);
    expectStatus(await call('GET', '/apis/nobody.io/v1/things'), 404);
    expectStatus(await call('POST', `${configMaps}/x`, { body: {} }), 405);
    expectStatus(await call('GET', `${gadgets}/x/scale`), 404);
  });

  test('discovery and OpenAPI name the kinds', async () => {
    const resources = expectStatus(await call('GET', '/apis/test.bitvisor.io/v1'), 200).resources;
    const found = Object.fromEntries(resources.map((item: Json) => [item.name, item]));
    assert.deepEqual(found.widgets.shortNames, ['wd']);
    assert.deepEqual(Object.keys(found).toSorted(), ['gadgets', 'widgets', 'widgets/scale', 'widgets/status']);
    assert.equal(found['widgets/scale'].group, 'autoscaling');
    assert.ok(
      expectStatus(await call('GET', '/apis'), 200).groups.some((group: Json) => group.name === 'test.bitvisor.io'),
    );
    const index = expectStatus(await call('GET', '/openapi/v3'), 200);
    const document = expectStatus(await call('GET', index.paths['apis/test.bitvisor.io/v1'].serverRelativeURL), 200);
    const operation = document.paths['/apis/test.bitvisor.io/v1/namespaces/{namespace}/widgets/{name}'].patch;
    assert.ok(JSON.stringify(operation).includes('fieldValidation'));
  });
}

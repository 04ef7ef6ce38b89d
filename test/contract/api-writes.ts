/**
 * Writes: metadata, conflicts, patches and deletions, as a Kubernetes API server does them.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Json } from '../support/api-target.ts';
import { type Api, configMaps, expectStatus, freshName, widget, widgets } from './api-support.ts';

export function metadataTests({ call, create, patch }: Api): void {
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

export function conflictTests({ call, create, patch }: Api): void {
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

export function patchTests({ call, create, patch }: Api): void {
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

export function deletionTests({ call, create, patch }: Api): void {
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

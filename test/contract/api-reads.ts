/**
 * Lists, watches, built-in kinds, and the forms of answers.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Json } from '../support/api-target.ts';
import { type Api, configMaps, expectStatus, freshName, gadget, gadgets, widget, widgets } from './api-support.ts';

export function listTests({ call, create, patch }: Api): void {
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

export function watchTests({ call, create, patch, watch }: Api): void {
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

export function builtInTests({ call, create, patch }: Api): void {
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
    const elsewhere = {
      ...event,
      metadata: { name: `${name}-x` },
      involvedObject: { ...event.involvedObject, namespace: 'x' },
    };
    const refused = await call('POST', '/api/v1/namespaces/api-contract/events', { body: elsewhere });
    assert.match(
      expectStatus(refused, 422).message,
      /involvedObject\.namespace: Invalid value: "x": does not match event\.namespace/,
    );
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
    const kept = expectStatus(await call('DELETE', '/api/v1/namespaces/default'), 403);
    assert.match(kept.message, /namespaces "default" is forbidden: this namespace may not be deleted/);
  });
}

export function formTests({ call, create }: Api): void {
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

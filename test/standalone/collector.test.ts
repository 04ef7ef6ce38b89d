/**
 * What follows from deletions. A real kube-apiserver leaves this to kube-controller-manager, so it has no part in the shared suite.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type ApiTarget, type Json, standaloneTarget } from '../support/api-target.ts';
import { gadgetCrd, widgetCrd } from '../support/widget-crds.ts';

const gadgets = '/apis/test.bitvisor.io/v1/gadgets';
const widgetsIn = (namespace: string): string => `/apis/test.bitvisor.io/v1/namespaces/${namespace}/widgets`;

describe('garbage collection and namespaces', () => {
  let target: ApiTarget;
  before(async () => {
    target = await standaloneTarget([widgetCrd, gadgetCrd]);
  });
  after(() => target.close());

  const create = async (path: string, body: Json): Promise<Json> => {
    const answer = await target.call('POST', path, { body });
    assert.equal(answer.status, 201, JSON.stringify(answer.body));
    return answer.body;
  };
  const gadget = (name: string, metadata: Json = {}): Json => ({
    apiVersion: 'test.bitvisor.io/v1',
    kind: 'Gadget',
    metadata: { name, ...metadata },
  });
  const ownedBy = (...owners: Json[]): Json => ({
    ownerReferences: owners.map((owner) => ({
      apiVersion: owner.apiVersion,
      kind: owner.kind,
      name: owner.metadata.name,
      uid: owner.metadata.uid,
      blockOwnerDeletion: true,
    })),
  });
  /** Resolves with the object once it satisfies the condition. */
  const until = async (path: string, condition: (answer: { status: number; body: Json }) => boolean): Promise<Json> => {
    for (let left = 2000; left > 0; left--) {
      const answer = await target.call('GET', path);
      if (condition(answer)) return answer.body;
    }
    assert.fail(`${path} did not come to the expected state`);
  };
  const gone = (path: string): Promise<Json> => until(path, ({ status }) => status === 404);

  test('a dependent goes when its last owner is gone', async () => {
    const one = await create(gadgets, gadget('bg-one'));
    const two = await create(gadgets, gadget('bg-two'));
    await create(gadgets, gadget('bg-child', ownedBy(one, two)));
    await target.call('DELETE', `${gadgets}/bg-one`);
    const rest = await until(`${gadgets}/bg-child`, ({ body }) => body.metadata.ownerReferences?.length === 1);
    assert.equal(rest.metadata.ownerReferences[0].uid, two.metadata.uid);
    await target.call('DELETE', `${gadgets}/bg-two`);
    await gone(`${gadgets}/bg-child`);
  });

  test('a dependent whose owner never was goes, too', async () => {
    const ghost = gadget('ghost');
    ghost.metadata.uid = '00000000-0000-4000-8000-000000000000';
    await create(gadgets, gadget('haunted', ownedBy(ghost)));
    await gone(`${gadgets}/haunted`);
  });

  test('foreground: the owner waits for dependents that hold on', async () => {
    const owner = await create(gadgets, gadget('fg-owner'));
    await create(gadgets, gadget('fg-child', { ...ownedBy(owner), finalizers: ['t.io/hold'] }));
    await target.call('DELETE', `${gadgets}/fg-owner?propagationPolicy=Foreground`);
    await until(`${gadgets}/fg-child`, ({ body }) => body.metadata.deletionTimestamp !== undefined);
    assert.equal((await target.call('GET', `${gadgets}/fg-owner`)).status, 200);
    const type = 'application/merge-patch+json';
    await target.call('PATCH', `${gadgets}/fg-child`, { type, body: { metadata: { finalizers: null } } });
    await gone(`${gadgets}/fg-owner`);
    await gone(`${gadgets}/fg-child`);
  });

  test('orphan: dependents stay, without the reference', async () => {
    const owner = await create(gadgets, gadget('or-owner'));
    await create(gadgets, gadget('or-child', ownedBy(owner)));
    await target.call('DELETE', `${gadgets}/or-owner?propagationPolicy=Orphan`);
    await gone(`${gadgets}/or-owner`);
    const child = await target.call('GET', `${gadgets}/or-child`);
    assert.equal(child.body.metadata.ownerReferences, undefined);
  });

  test('a namespace takes its content with it, and waits for finalizers', async () => {
    await create('/api/v1/namespaces', { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'ending' } });
    const widget = (name: string, metadata: Json = {}): Json => ({
      apiVersion: 'test.bitvisor.io/v1',
      kind: 'Widget',
      metadata: { name, ...metadata },
      spec: { replicas: 1 },
    });
    await create(widgetsIn('ending'), widget('plain'));
    await create(widgetsIn('ending'), widget('held', { finalizers: ['t.io/hold'] }));
    await target.call('DELETE', '/api/v1/namespaces/ending');
    await gone(`${widgetsIn('ending')}/plain`);
    await until(`${widgetsIn('ending')}/held`, ({ body }) => body.metadata.deletionTimestamp !== undefined);
    const refused = await target.call('POST', widgetsIn('ending'), { body: widget('late') });
    assert.equal(refused.status, 403);
    assert.match(
      refused.body.message,
      /unable to create new content in namespace ending because it is being terminated/,
    );
    const type = 'application/merge-patch+json';
    await target.call('PATCH', `${widgetsIn('ending')}/held`, { type, body: { metadata: { finalizers: null } } });
    await gone('/api/v1/namespaces/ending');
  });
});

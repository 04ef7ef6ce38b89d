/**
 * The contract of the API-server port: one suite for every adapter (port.ts, invariants). An adapter that passes can stand
 * in for any other.
 *
 * It writes ConfigMaps (no status, no generation), Leases, and, where the adapter has the project's CRDs, one
 * ComputeEnvironment (status subresource, generation).
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import {
  type GroupVersionKind,
  type KubeClient,
  KubeError,
  type KubeErrorReason,
  type KubeObject,
  type WatchEvent,
} from '../../controller/kube/port.ts';
import { type ConfigMap, configMapKind, type StatusKind } from '../support/kube-kinds.ts';

export interface KubeAdapter {
  readonly client: KubeClient;
  /** A namespace that exists and holds nothing that this suite writes. */
  readonly namespace: string;
  /** Undefined where the server has no such kind. */
  readonly statusKind?: StatusKind;
  /** Makes every version before now too old to watch from; undefined where that cannot be had. */
  readonly compact?: () => Promise<void>;
  close(): Promise<void>;
}

function failsWith(reason: KubeErrorReason): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof KubeError, `expected a KubeError, got ${error}`);
    assert.equal(error.reason, reason, error.message);
    return true;
  };
}

/** Reads events until `enough` says so, then ends the watch. */
async function collect<T extends KubeObject>(
  client: KubeClient,
  gvk: GroupVersionKind,
  options: { namespace: string; resourceVersion: string; labelSelector?: string },
  enough: (events: WatchEvent<T>[]) => boolean,
): Promise<WatchEvent<T>[]> {
  const ending = new AbortController();
  const events: WatchEvent<T>[] = [];
  for await (const event of client.watch<T>(gvk, { ...options, timeoutSeconds: 20, signal: ending.signal })) {
    if (event.type === 'BOOKMARK') continue;
    events.push(event);
    if (enough(events)) break;
  }
  ending.abort();
  return events;
}

function summary(events: readonly WatchEvent<KubeObject>[]): string[] {
  return events.map((event) => ('object' in event ? `${event.type} ${event.object.metadata.name}` : event.type));
}

export function kubeContract(name: string, open: () => Promise<KubeAdapter>, options: { skip?: string } = {}): void {
  describe(`Kubernetes port: ${name}`, options.skip === undefined ? {} : { skip: options.skip }, () => {
    let adapter: KubeAdapter;
    let client: KubeClient;
    let namespace: string;
    let count = 0;
    const fresh = (data: Record<string, string> = { a: '1' }): ConfigMap => ({
      metadata: { name: `contract-${++count}`, namespace },
      data,
    });
    const keyOf = (object: KubeObject) => ({ namespace, name: object.metadata.name });
    const version = (object: KubeObject): string => object.metadata.resourceVersion ?? '';
    const listVersion = async (): Promise<string> =>
      (await client.list(configMapKind, { namespace, limit: 1 })).resourceVersion;

    before(async () => {
      adapter = await open();
      ({ client, namespace } = adapter);
    });
    after(() => adapter?.close());

    writes();
    deletions();
    lists();
    watches();
    statusAndGeneration();

    function writes(): void {
      it('creates, reads back, and names what is already there', async () => {
        const created = await client.create(configMapKind, fresh());
        assert.match(created.metadata.uid ?? '', /^[0-9a-f-]{36}$/);
        assert.match(created.metadata.creationTimestamp ?? '', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
        assert.deepEqual(await client.get(configMapKind, keyOf(created)), created);
        assert.equal(created.kind, 'ConfigMap');
        assert.equal(Object.hasOwn(created.metadata, 'managedFields'), false);
        const again = { metadata: { name: created.metadata.name, namespace } };
        await assert.rejects(client.create(configMapKind, again), failsWith('AlreadyExists'));
        await assert.rejects(client.get(configMapKind, { namespace, name: 'contract-none' }), failsWith('NotFound'));
      });

      it('completes generateName', async () => {
        const object = { metadata: { name: '', generateName: 'contract-gen-', namespace } };
        const created = await client.create(configMapKind, object);
        assert.match(created.metadata.name, /^contract-gen-[a-z0-9]{5,}$/);
      });

      it('refuses a name that cannot be one', async () => {
        const object = { metadata: { name: 'Not_A_Name', namespace } };
        await assert.rejects(client.create(configMapKind, object), failsWith('Invalid'));
      });

      it('merges a patch: sets, replaces arrays, removes by null', async () => {
        const created = await client.create(configMapKind, fresh({ a: '1', b: '2' }));
        const patch = { data: { a: null, c: '3' }, metadata: { labels: { x: 'y' } } };
        const patched = await client.patch<ConfigMap>(configMapKind, keyOf(created), patch, { type: 'merge' });
        assert.deepEqual(patched.data, { b: '2', c: '3' });
        assert.deepEqual(patched.metadata.labels, { x: 'y' });
        assert.notEqual(version(patched), version(created));
        assert.equal(patched.metadata.uid, created.metadata.uid);
      });

      it('takes no new version for a write that changes nothing', async () => {
        const created = await client.create(configMapKind, fresh());
        const patched = await client.patch(configMapKind, keyOf(created), { data: { a: '1' } }, { type: 'merge' });
        assert.equal(version(patched), version(created));
      });

      it('applies a JSON patch whole or not at all', async () => {
        const created = await client.create(configMapKind, fresh());
        const wrong = [
          { op: 'replace', path: '/data/a', value: '2' },
          { op: 'test', path: '/data/a', value: 'something else' },
        ];
        await assert.rejects(
          client.patch(configMapKind, keyOf(created), wrong, { type: 'json' }),
          failsWith('Conflict'),
          'a test that fails is a lost compare-and-swap',
        );
        const right = [
          { op: 'test', path: '/data/a', value: '1' },
          { op: 'add', path: '/data/b', value: '2' },
        ];
        const patched = await client.patch<ConfigMap>(configMapKind, keyOf(created), right, { type: 'json' });
        assert.deepEqual(patched.data, { a: '1', b: '2' });
      });

      for (const type of ['merge', 'json'] as const) {
        const change = (value: string): unknown =>
          type === 'merge' ? { data: { a: value } } : [{ op: 'replace', path: '/data/a', value }];

        it(`refuses a ${type} patch of another version or uid`, async () => {
          const first = await client.create(configMapKind, fresh());
          const { uid = '' } = first.metadata;
          const options = { type, uid, resourceVersion: version(first) };
          const second = await client.patch<ConfigMap>(configMapKind, keyOf(first), change('2'), options);
          assert.deepEqual(second.data, { a: '2' });
          await assert.rejects(client.patch(configMapKind, keyOf(first), change('3'), options), failsWith('Conflict'));
          const otherUid = { type, uid: '00000000-0000-4000-8000-000000000000' };
          await assert.rejects(client.patch(configMapKind, keyOf(first), change('3'), otherUid), failsWith('Conflict'));
          assert.deepEqual(await client.get(configMapKind, keyOf(first)), second);
        });
      }

      it('lets exactly one of many writers of the same version win', async () => {
        const created = await client.create(configMapKind, fresh());
        const attempts = Array.from({ length: 8 }, (_, index) =>
          client.patch(
            configMapKind,
            keyOf(created),
            { data: { winner: String(index) } },
            {
              type: 'merge',
              resourceVersion: version(created),
            },
          ),
        );
        const settled = await Promise.allSettled(attempts);
        assert.equal(settled.filter((each) => each.status === 'fulfilled').length, 1);
        for (const each of settled) if (each.status === 'rejected') failsWith('Conflict')(each.reason);
      });

      it('says what a patch of nothing is, and stores nothing on a dry run', async () => {
        const none = { namespace, name: 'contract-none' };
        await assert.rejects(client.patch(configMapKind, none, {}, { type: 'merge' }), failsWith('NotFound'));
        const object = fresh();
        await client.create(configMapKind, object, { dryRun: true });
        await assert.rejects(client.get(configMapKind, keyOf(object)), failsWith('NotFound'));
      });
    }

    function deletions(): void {
      it('deletes what was named and nothing else', async () => {
        const created = await client.create(configMapKind, fresh());
        const wrongUid = { uid: '00000000-0000-4000-8000-000000000000' };
        await assert.rejects(client.delete(configMapKind, keyOf(created), wrongUid), failsWith('Conflict'));
        const wrongVersion = { resourceVersion: '1' };
        await assert.rejects(client.delete(configMapKind, keyOf(created), wrongVersion), failsWith('Conflict'));
        const { uid = '' } = created.metadata;
        await client.delete(configMapKind, keyOf(created), { uid, resourceVersion: version(created) });
        await assert.rejects(client.get(configMapKind, keyOf(created)), failsWith('NotFound'));
        await assert.rejects(client.delete(configMapKind, keyOf(created)), failsWith('NotFound'));
      });

      it('keeps an object until its last finalizer is removed', async () => {
        const object = fresh();
        object.metadata.finalizers = ['bitvisor.io/contract'];
        const created = await client.create(configMapKind, object);
        await client.delete(configMapKind, keyOf(created));
        const ending = await client.get<ConfigMap>(configMapKind, keyOf(created));
        assert.notEqual(ending.metadata.deletionTimestamp, undefined);
        assert.notEqual(version(ending), version(created));
        await client.delete(configMapKind, keyOf(created));
        const twice = await client.get(configMapKind, keyOf(created));
        assert.equal(twice.metadata.deletionTimestamp, ending.metadata.deletionTimestamp);
        const more = [{ op: 'add', path: '/metadata/finalizers/-', value: 'bitvisor.io/late' }];
        await assert.rejects(client.patch(configMapKind, keyOf(created), more, { type: 'json' }), failsWith('Invalid'));
        const remove = [
          { op: 'test', path: '/metadata/finalizers/0', value: 'bitvisor.io/contract' },
          { op: 'remove', path: '/metadata/finalizers/0' },
        ];
        await client.patch(configMapKind, keyOf(created), remove, { type: 'json' });
        await assert.rejects(client.get(configMapKind, keyOf(created)), failsWith('NotFound'));
      });
    }

    function lists(): void {
      it('lists page by page, each object once, ordered, at one version', async () => {
        const labels = { page: 'yes' };
        for (let index = 0; index < 7; index++) {
          await client.create(configMapKind, { metadata: { ...fresh().metadata, labels } });
        }
        const options = { namespace, labelSelector: 'page=yes', limit: 3 };
        const first = await client.list(configMapKind, options);
        assert.equal(first.items.length, 3);
        assert.ok(first.continue);
        // Created between two pages: not part of what the list began with.
        const late = await client.create(configMapKind, { metadata: { ...fresh().metadata, labels } });
        const names = first.items.map((object) => object.metadata.name);
        let token: string | undefined = first.continue;
        while (token !== undefined) {
          const page: Awaited<ReturnType<typeof client.list>> = await client.list(configMapKind, {
            ...options,
            continue: token,
          });
          assert.equal(page.resourceVersion, first.resourceVersion);
          names.push(...page.items.map((object) => object.metadata.name));
          token = page.continue;
        }
        assert.equal(names.length, 7);
        assert.deepEqual(names, [...new Set(names)].sort());
        assert.ok(!names.includes(late.metadata.name));
        for (const object of first.items) assert.equal(Object.hasOwn(object.metadata, 'managedFields'), false);
      });

      it('selects by labels and by name', async () => {
        const make = (tier: string) =>
          client.create(configMapKind, { metadata: { ...fresh().metadata, labels: { app: 'select', tier } } });
        const [front, back] = [await make('front'), await make('back')];
        const names = async (selector: { labelSelector?: string; fieldSelector?: string }): Promise<string[]> =>
          (await client.list(configMapKind, { namespace, ...selector })).items.map((object) => object.metadata.name);
        assert.deepEqual(await names({ labelSelector: 'app=select,tier in (front)' }), [front.metadata.name]);
        assert.deepEqual(await names({ labelSelector: 'app=select,tier!=front' }), [back.metadata.name]);
        assert.deepEqual(await names({ labelSelector: 'app=select,tier,!missing' }), [
          front.metadata.name,
          back.metadata.name,
        ]);
        assert.deepEqual(await names({ labelSelector: 'app=select,tier notin (front,back)' }), []);
        assert.deepEqual(await names({ fieldSelector: `metadata.name=${back.metadata.name}` }), [back.metadata.name]);
        await assert.rejects(names({ labelSelector: 'a in (' }), failsWith('Invalid'));
      });
    }

    function watches(): void {
      it('shows every change after a version, in order', async () => {
        const resourceVersion = await listVersion();
        const object = await client.create(configMapKind, fresh());
        await client.patch(configMapKind, keyOf(object), { data: { a: '2' } }, { type: 'merge' });
        const watching = collect<ConfigMap>(
          client,
          configMapKind,
          { namespace, resourceVersion },
          (all) => all.length === 4,
        );
        await client.patch(configMapKind, keyOf(object), { data: { a: '3' } }, { type: 'merge' });
        await client.delete(configMapKind, keyOf(object));
        const events = await watching;
        const { name: objectName } = object.metadata;
        assert.deepEqual(summary(events), [
          `ADDED ${objectName}`,
          `MODIFIED ${objectName}`,
          `MODIFIED ${objectName}`,
          `DELETED ${objectName}`,
        ]);
        const versions = events.map((event) => Number('object' in event ? version(event.object) : 0));
        assert.deepEqual(
          versions,
          [...new Set(versions)].sort((a, b) => a - b),
          'a deletion has a version of its own',
        );
      });

      it('shows what enters and leaves a selector as added and deleted', async () => {
        const resourceVersion = await listVersion();
        const object = await client.create(configMapKind, fresh());
        const label = (value: string | null) =>
          client.patch(configMapKind, keyOf(object), { metadata: { labels: { in: value } } }, { type: 'merge' });
        await label('yes');
        await client.patch(configMapKind, keyOf(object), { data: { a: '2' } }, { type: 'merge' });
        await label(null);
        const options = { namespace, resourceVersion, labelSelector: 'in=yes' };
        const events = await collect(client, configMapKind, options, (all) => all.length === 3);
        assert.deepEqual(
          events.map((event) => event.type),
          ['ADDED', 'MODIFIED', 'DELETED'],
        );
      });

      it('ends quietly when the caller aborts', async () => {
        const ending = new AbortController();
        const resourceVersion = await listVersion();
        const watch = client.watch(configMapKind, { namespace, resourceVersion, signal: ending.signal });
        const finished = (async () => {
          for await (const event of watch) assert.equal(event.type, 'BOOKMARK');
        })();
        await client.get(configMapKind, { namespace, name: 'contract-none' }).catch(() => {});
        ending.abort();
        await finished;
      });

      it('answers 410 to a version that is no longer kept', async (context) => {
        if (adapter.compact === undefined) return context.skip('this server cannot be told to compact');
        const resourceVersion = await listVersion();
        await client.create(configMapKind, fresh());
        const page = await client.list(configMapKind, { namespace, limit: 1 });
        await adapter.compact();
        const event = (
          await collect(client, configMapKind, { namespace, resourceVersion }, () => true).catch((error) => [
            { type: 'ERROR' as const, error },
          ])
        )[0];
        assert.ok(event?.type === 'ERROR');
        failsWith('Gone')(event.error);
        const next = { namespace, limit: 1, ...(page.continue === undefined ? {} : { continue: page.continue }) };
        await assert.rejects(client.list(configMapKind, next), failsWith('Gone'));
      });
    }

    function statusAndGeneration(): void {
      it('keeps status and spec apart and counts generations', async (context) => {
        const kind = adapter.statusKind;
        if (kind === undefined) return context.skip('no kind with a status subresource here');
        const [firstStatus, secondStatus] = kind.statusPatches;
        const created = await client.create<KubeObject>(kind.gvk, {
          ...kind.object('contract-status', namespace),
          ...firstStatus,
        });
        assert.equal(created.metadata.generation, 1);
        assert.notDeepEqual(Reflect.get(created, 'status'), Reflect.get(firstStatus, 'status'));
        const key = kind.gvk.namespaced ? keyOf(created) : { name: created.metadata.name };
        const patch = (body: object, subresource?: 'status') =>
          client.patch<KubeObject & { spec?: unknown; status?: unknown }>(kind.gvk, key, body, {
            type: 'merge',
            ...(subresource === undefined ? {} : { subresource }),
          });
        const withStatus = await patch(
          { ...secondStatus, ...kind.specPatch, metadata: { labels: { no: 'no' } } },
          'status',
        );
        assert.partialDeepStrictEqual(withStatus, secondStatus);
        assert.deepEqual(withStatus.spec, 'spec' in created ? created.spec : undefined);
        assert.equal(withStatus.metadata.labels, undefined);
        assert.equal(withStatus.metadata.generation, 1);
        const withSpec = await patch({ ...kind.specPatch, ...firstStatus });
        assert.deepEqual(withSpec.status, withStatus.status);
        assert.equal(withSpec.metadata.generation, 2);
        const labelled = await patch({ metadata: { labels: { yes: 'yes' } } });
        assert.equal(labelled.metadata.generation, 2);
        await client.delete(kind.gvk, key);
      });
    }
  });
}

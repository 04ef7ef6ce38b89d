/**
 * What outlives the process, and what happens to clients that relied on what does not.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { systemClock } from '../../controller/runtime/clock.ts';
import { systemRandom } from '../../controller/runtime/random.ts';
import { startStandalone } from '../../controller/standalone/server.ts';
import { Storage, storageTrouble } from '../../controller/standalone/storage.ts';
import { type ApiTarget, type Json, standaloneTarget } from '../support/api-target.ts';
import { counterpart } from '../support/counterpart.ts';
import { canMount, SmallDisk } from '../support/small-disk.ts';
import { gadgetCrd } from '../support/widget-crds.ts';

const tmpfs = counterpart('tmpfs', canMount, 'run as root, who can mount one');

const gadgets = '/apis/test.bitvisor.io/v1/gadgets';
const gadget = (name: string, spec: Json = {}): Json => ({
  apiVersion: 'test.bitvisor.io/v1',
  kind: 'Gadget',
  metadata: { name },
  spec,
});

describe('durability', () => {
  let directory = '';
  before(() => {
    directory = mkdtempSync(join(tmpdir(), 'bitvisor-durability-'));
  });
  after(() => rmSync(directory, { recursive: true, force: true }));
  const start = (name: string, crds: object[] = [gadgetCrd]): Promise<ApiTarget> =>
    standaloneTarget(crds, { dataDir: join(directory, name) });

  test('what was answered before a SIGKILL is there after it, and versions go on', async () => {
    const script = new URL('../support/standalone-writer.ts', import.meta.url).pathname;
    const dataDir = join(directory, 'killed');
    const child = spawn(process.execPath, [script, dataDir], { stdio: ['ignore', 'pipe', 'inherit'] });
    const answered: { name: string; version: number }[] = [];
    for await (const line of createInterface({ input: child.stdout })) {
      answered.push(JSON.parse(line));
      if (answered.length === 300) child.kill('SIGKILL');
    }
    assert.ok(answered.length >= 300);
    const target = await start('killed');
    const list = (await target.call('GET', gadgets)).body;
    const stored = new Map(list.items.map((item: Json) => [item.metadata.name, Number(item.metadata.resourceVersion)]));
    for (const { name, version } of answered) assert.equal(stored.get(name), version, name);
    const newest = Math.max(...(stored.values() as Iterable<number>));
    const next = await target.call('POST', gadgets, { body: gadget('after') });
    assert.ok(Number(next.body.metadata.resourceVersion) > newest);
    await target.close();
  });

  test('after a restart a watch goes on from the newest version and is told 410 for older ones', async () => {
    const first = await start('restart');
    const made = (await first.call('POST', gadgets, { body: gadget('one') })).body;
    await first.call('POST', gadgets, { body: gadget('two') });
    const { resourceVersion } = (await first.call('GET', gadgets)).body.metadata;
    const uids = (await first.call('GET', '/apis/apiextensions.k8s.io/v1/customresourcedefinitions')).body.items.map(
      (item: Json) => [item.metadata.uid, item.metadata.resourceVersion],
    );
    await first.close();

    const second = await start('restart');
    const again = (await second.call('GET', '/apis/apiextensions.k8s.io/v1/customresourcedefinitions')).body.items;
    assert.deepEqual(
      again.map((item: Json) => [item.metadata.uid, item.metadata.resourceVersion]),
      uids,
    );
    const old = await second.call('GET', `${gadgets}?watch=1&resourceVersion=${made.metadata.resourceVersion}`);
    assert.deepEqual([old.status, old.body.reason], [410, 'Expired']);
    const future = await second.call('GET', `${gadgets}?watch=1&resourceVersion=999999`);
    assert.equal(future.status, 410);
    const changes = await second.watch(`${gadgets}?watch=1&resourceVersion=${resourceVersion}`);
    await second.call('POST', gadgets, { body: gadget('three') });
    assert.equal((await changes.next()).object.metadata.name, 'three');
    changes.close();
    await second.close();
  });

  test('older objects are read under the newer schema, without a new version', async () => {
    const first = await start('schema');
    const made = (await first.call('POST', gadgets, { body: gadget('old', { color: 'red' }) })).body;
    await first.close();
    const crd = structuredClone(gadgetCrd);
    const spec = crd.spec.versions[0]?.schema?.openAPIV3Schema?.properties?.spec;
    assert.ok(spec);
    spec.properties = { shade: { type: 'string', default: 'dark' } };
    delete crd.spec.versions[0]?.selectableFields;
    const second = await start('schema', [crd]);
    for (const path of [`${gadgets}/old`, gadgets]) {
      const { body } = await second.call('GET', path);
      const object = body.items?.[0] ?? body;
      assert.deepEqual(
        [object.spec, object.metadata.resourceVersion],
        [{ shade: 'dark' }, made.metadata.resourceVersion],
      );
    }
    const definition = await second.call(
      'GET',
      `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${crd.metadata.name}`,
    );
    assert.equal(definition.body.metadata.generation, 2);
    await second.close();
  });

  test('one process owns a data directory; a taken port and a CRD that cannot be served are explained', async () => {
    const target = await start('owned');
    await assert.rejects(
      start('owned'),
      /objects\.sqlite is in use by another process; stop it or choose another data directory/,
    );
    await target.close();
    const options = { clock: systemClock, random: systemRandom, dataDir: join(directory, 'port') };
    const taken = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => taken.once('listening', resolve));
    const { port } = taken.address() as { port: number };
    await assert.rejects(
      startStandalone({ ...options, port, crds: [] }),
      /another program listens there; choose another port/,
    );
    taken.close();
    const two = structuredClone(gadgetCrd);
    const [version] = two.spec.versions;
    if (version !== undefined) two.spec.versions.push({ ...version, name: 'v2', storage: false });
    await assert.rejects(
      startStandalone({ ...options, port: 0, crds: [two] }),
      /gadgets\.test\.bitvisor\.io.*exactly one version/,
    );
  });

  test('keys, database directory and kubeconfig are for their owner alone', async () => {
    const target = await start('modes');
    const mode = (path: string): string => (statSync(join(directory, 'modes', path)).mode & 0o777).toString(8);
    for (const file of ['kubeconfig', 'pki/ca.key', 'pki/server.key', 'pki/admin.key'])
      assert.equal(mode(file), '600', file);
    assert.equal(mode('.'), '700');
    await target.close();
  });

  test('a write that fails in the database is taken back whole, and its version is free again', () => {
    const storage = new Storage(join(directory, 'failing.sqlite'));
    const facts = { uid: 'u', schema: '', deleting: false, ownerUids: [] };
    storage.insert({ resource: '/x', namespace: '', name: 'a' }, '{}', facts);
    storage.settle();
    const version = storage.version;
    assert.throws(() => storage.insert({ resource: '/x', namespace: '', name: 'a' }, '{}', facts), /UNIQUE/);
    assert.equal(storage.version, version);
    storage.close();
  });

  test(
    'a full disk rejects the whole batch that met it, and the next one goes on where the last commit was',
    tmpfs,
    async () => {
      const disk = new SmallDisk(2);
      try {
        const storage = new Storage(join(disk.directory, 'full.sqlite'));
        const heard: string[] = [];
        storage.onCommit((changes) => heard.push(...changes.map(({ name }) => name)));
        const put = (name: string, bytes = 2): Promise<void> => {
          const facts = { uid: name, schema: '', deleting: false, ownerUids: ['o'] };
          storage.insert({ resource: '/x', namespace: '', name }, 'x'.repeat(bytes), facts);
          return storage.committed();
        };
        await put('before');
        const version = storage.version;
        disk.fill();
        const failures: unknown[] = [];
        const outcomes = [];
        for (const [name, bytes] of [['one', 2] as const, ['large', 4_000_000] as const, ['three', 2] as const]) {
          try {
            outcomes.push(put(name, bytes).catch((error: unknown) => failures.push(error)));
          } catch (error) {
            failures.push(error);
          }
        }
        await Promise.all(outcomes);
        assert.equal(failures.length, 3);
        for (const error of failures)
          assert.match(storageTrouble(error) ?? String(error), /disk of the data directory is full/);
        assert.deepEqual(heard, ['before']);
        disk.free();
        await put('after');
        assert.equal(storage.version, version + 1);
        assert.deepEqual(
          storage.page('/x', undefined, ['', ''], 10).map(({ name }) => name),
          ['after', 'before'],
        );
        storage.close();
      } finally {
        disk.remove();
      }
    },
  );
});

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { startInformer } from '../../controller/kube/informer.ts';
import { createMemoryKube } from '../../controller/kube/memory.ts';
import { KubeError, type KubeObject } from '../../controller/kube/port.ts';
import { createStore } from '../../controller/kube/store.ts';
import { silentLogger } from '../../controller/runtime/log.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { faultyKube } from '../support/faulty-kube.ts';
import { configMapKind } from '../support/kube-kinds.ts';
import { VirtualClock } from '../support/virtual-clock.ts';

function setUp(seed = 1, memoryOptions: { historyLimit?: number } = {}) {
  const clock = new VirtualClock();
  const random = seededRandom(seed);
  const memory = createMemoryKube({ clock, random, ...memoryOptions });
  const kube = faultyKube(memory);
  const { reader, writer } = createStore<KubeObject>({ log: silentLogger });
  const options = { client: kube, gvk: configMapKind, writer, clock, random, log: silentLogger, pageSize: 3 };
  let lists = 0;
  const start = () => startInformer({ ...options, onList: () => void lists++ });
  const create = (name: string) => memory.create(configMapKind, { metadata: { namespace: 'n', name } });
  const remove = (name: string) => memory.delete(configMapKind, { namespace: 'n', name });
  const agrees = (): boolean => {
    const stored = memory
      .objects(configMapKind)
      .map((each) => `${each.metadata.name}@${each.metadata.resourceVersion}`);
    const seen = [...reader.values()].map((each) => `${each.metadata.name}@${each.metadata.resourceVersion}`);
    return JSON.stringify(stored.sort()) === JSON.stringify(seen.sort());
  };
  return { clock, random, memory, kube, reader, start, create, remove, agrees, lists: () => lists };
}

describe('informer', () => {
  it('lists in pages, follows, and misses no deletion across 410', async () => {
    const { clock, memory, reader, start, create, remove, agrees, kube, lists } = setUp();
    for (const name of ['a', 'b', 'c', 'd', 'e', 'f', 'g']) await create(name);
    const informer = start();
    await clock.runUntil(() => reader.synced);
    assert.equal(kube.calls.filter((call) => call.verb === 'list').length, 3);
    await create('h');
    await clock.runUntil(agrees);
    // The watch breaks; meanwhile objects go and the history with them.
    kube.faults = { before: () => new KubeError('Unavailable', 'refused') };
    memory.compact();
    await clock.runUntil(() => informer.state === 'Backoff', 3_600_000);
    await remove('a');
    await create('i');
    memory.compact();
    kube.faults = {};
    await clock.runUntil(agrees);
    assert.equal(reader.get({ namespace: 'n', name: 'a' }), undefined);
    assert.equal(lists(), 2);
    await informer.stop();
  });

  it('notices a connection that went silent', async () => {
    const { clock, reader, kube, start, create, agrees } = setUp();
    const silent = new Set<AbortSignal | undefined>();
    let open = false;
    const watch = kube.watch.bind(kube);
    kube.watch = (gvk, options) => {
      if (open) return watch(gvk, options);
      silent.add(options.signal);
      return (async function* () {
        await new Promise<void>((resolve) => options.signal?.addEventListener('abort', () => resolve()));
      })();
    };
    const informer = start();
    await clock.runUntil(() => reader.synced);
    await create('a');
    await clock.advance(60_000);
    assert.equal(agrees(), false);
    open = true;
    await clock.advance(120_000);
    assert.equal(agrees(), true);
    assert.deepEqual(
      [...silent].map((signal) => signal?.aborted),
      [true],
    );
    await informer.stop();
  });

  it('changes nothing after stop', async () => {
    const { clock, reader, start, create } = setUp();
    const informer = start();
    await clock.runUntil(() => reader.synced);
    await informer.stop();
    await create('a');
    await clock.advance(600_000);
    assert.equal(reader.size, 0);
    assert.equal(informer.state, 'Stopped');
  });

  it('agrees with the server in the end, whatever fails on the way', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer(),
        fc.array(fc.nat({ max: 7 }), { minLength: 10, maxLength: 50, size: 'max' }),
        async (seed, steps) => {
          const { clock, random, memory, kube, reader, start, create, remove, agrees } = setUp(seed, {
            historyLimit: 3,
          });
          const informer = start();
          let made = 0;
          for (const step of steps) {
            const some =
              memory.objects(configMapKind)[Math.floor(random.next() * memory.objects(configMapKind).length)];
            if (step <= 2) await create(`o${++made}`);
            else if (step === 3 && some !== undefined) await remove(some.metadata.name);
            else if (step === 4 && some !== undefined) {
              const { name } = some.metadata;
              const patch = { data: { x: String(random.next()) } };
              reader.noteWrite(await memory.patch(configMapKind, { namespace: 'n', name }, patch, { type: 'merge' }));
            } else if (step === 5) memory.compact();
            else if (step === 6) {
              const lost = new KubeError('Unavailable', 'reset');
              kube.faults = {
                before: () => (random.next() < 0.5 ? lost : undefined),
                after: () => (random.next() < 0.3 ? lost : undefined),
              };
            } else await clock.advance(random.next() * 20_000);
          }
          kube.faults = {};
          await clock.runUntil(() => reader.synced && agrees());
          await informer.stop();
        },
      ),
      { numRuns: 60 },
    );
  });
});

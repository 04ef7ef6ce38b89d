import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { addFinalizer, removeFinalizer } from '../../controller/kube/finalizers.ts';
import { applyMergePatch, deepEqual, frozenCopy, mergePatchBetween } from '../../controller/kube/json.ts';
import { createMemoryKube } from '../../controller/kube/memory.ts';
import { casPatchStatus } from '../../controller/kube/patch.ts';
import { KubeError, type KubeObject } from '../../controller/kube/port.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { faultyKube } from '../support/faulty-kube.ts';
import { environments } from '../support/kube-kinds.ts';
import { VirtualClock } from '../support/virtual-clock.ts';

interface Thing extends KubeObject {
  status?: { phase?: string; count?: number };
}

const { gvk } = environments;
const lostAnswer = new KubeError('Unknown', 'sent and unanswered');

async function setUp() {
  const memory = createMemoryKube({ clock: new VirtualClock(), random: seededRandom(1) });
  const kube = faultyKube(memory);
  const base = await memory.create<Thing>(gvk, environments.object('a', 'n'));
  const status = (phase: string) =>
    casPatchStatus<Thing>(kube, gvk, base, (draft) => {
      draft.status = { ...draft.status, phase };
    });
  const elsewhere = (phase: string) =>
    memory.patch<Thing>(
      gvk,
      { namespace: 'n', name: 'a' },
      { status: { phase } },
      { type: 'merge', subresource: 'status' },
    );
  const key = { namespace: 'n', name: 'a' };
  return { memory, kube, base, status, elsewhere, key };
}

/** The fault hits the first patch only. */
function onFirstPatch(error: KubeError | undefined, also: () => Promise<unknown> = async () => {}) {
  let done = false;
  return async (call: { verb: string }): Promise<KubeError | undefined> => {
    if (done || call.verb !== 'patch') return undefined;
    done = true;
    await also();
    return error;
  };
}

describe('compare-and-swap of a status', () => {
  it('writes the difference once, and nothing when nothing differs', async () => {
    const { kube, base, status } = await setUp();
    const first = await status('Ready');
    assert.ok(first.outcome === 'written' && first.changed);
    assert.deepEqual(kube.calls.at(-1)?.body, { status: { phase: 'Ready' } });
    const before = kube.calls.length;
    const again = await casPatchStatus<Thing>(kube, gvk, first.object, (draft) => {
      draft.status = { phase: 'Ready' };
    });
    assert.ok(again.outcome === 'written' && !again.changed);
    assert.equal(kube.calls.length, before);
    assert.equal(base.status, undefined, 'what was read is not changed');
  });

  it('shows what stands there when somebody else was first', async () => {
    const { status, elsewhere } = await setUp();
    await elsewhere('Theirs');
    const result = await status('Mine');
    assert.ok(result.outcome === 'conflict');
    assert.equal(result.object.status?.phase, 'Theirs');
  });

  it('does not ask for another decision at once when a server that was put back to an older state refuses', async () => {
    const { memory, kube, base, key } = await setUp();
    const backup = memory.snapshot();
    const newer = await memory.patch<Thing>(gvk, key, { metadata: { labels: { a: 'b' } } }, { type: 'merge' });
    memory.restore(backup);
    const write = casPatchStatus<Thing>(kube, gvk, newer, (draft) => {
      draft.status = { phase: 'Mine' };
    });
    await assert.rejects(write, { reason: 'Conflict' });
    assert.deepEqual(await memory.get<Thing>(gvk, key), base);
  });

  it('tells an object that is gone, also when another took its name', async () => {
    const { memory, status, key } = await setUp();
    await memory.delete(gvk, key);
    assert.equal((await status('Ready')).outcome, 'gone');
    await memory.create<Thing>(gvk, environments.object('a', 'n'));
    assert.equal((await status('Ready')).outcome, 'gone');
  });

  it('finds out that an unanswered write was stored', async () => {
    const { kube, status } = await setUp();
    kube.faults = { after: onFirstPatch(lostAnswer) };
    const result = await status('Ready');
    assert.ok(result.outcome === 'written');
    assert.equal(result.object.status?.phase, 'Ready');
  });

  it('does not call an unanswered write undone while it may still arrive', async () => {
    const { kube, status } = await setUp();
    kube.faults = { before: onFirstPatch(lostAnswer) };
    const result = await status('Ready');
    assert.ok(result.outcome === 'unknown');
    assert.equal(result.object?.status, undefined);
  });

  it('calls an unanswered write a conflict once another write made it impossible', async () => {
    const { kube, status, elsewhere } = await setUp();
    kube.faults = { before: onFirstPatch(lostAnswer, () => elsewhere('Theirs')) };
    assert.equal((await status('Mine')).outcome, 'conflict');
  });

  it('stays unknown when reading again fails too', async () => {
    const { kube, status } = await setUp();
    kube.faults = {
      before: (call) => (call.verb === 'get' ? new KubeError('Unavailable', 'refused') : undefined),
      after: onFirstPatch(lostAnswer),
    };
    const result = await status('Ready');
    assert.ok(result.outcome === 'unknown');
    assert.equal(result.object, undefined);
  });

  it('throws what is none of the outcomes', async () => {
    const { kube, status } = await setUp();
    kube.faults = { before: onFirstPatch(new KubeError('Invalid', 'status.phase: too long')) };
    await assert.rejects(status('Ready'), /too long/);
  });
});

describe('finalizers', () => {
  it('adds and removes its own only, whatever others do meanwhile', async () => {
    const { memory, kube, base, key } = await setUp();
    const theirs = (finalizers: string[]) => memory.patch(gvk, key, { metadata: { finalizers } }, { type: 'merge' });
    kube.faults = { before: onFirstPatch(undefined, () => theirs(['x/theirs'])) };
    const added = await addFinalizer(kube, gvk, base, 'x/mine');
    assert.ok(added.outcome === 'written');
    assert.deepEqual(added.object.metadata.finalizers, ['x/theirs', 'x/mine']);
    kube.faults = { before: onFirstPatch(undefined, () => theirs(['x/new', 'x/theirs', 'x/mine'])) };
    const removed = await removeFinalizer(kube, gvk, added.object, 'x/mine');
    assert.ok(removed.outcome === 'written');
    assert.deepEqual(removed.object.metadata.finalizers, ['x/new', 'x/theirs']);
  });

  it('is done when it is so already, and reads again when the answer was lost', async () => {
    const { kube, base } = await setUp();
    kube.faults = { after: onFirstPatch(lostAnswer) };
    const added = await addFinalizer(kube, gvk, base, 'x/mine');
    assert.ok(added.outcome === 'written');
    assert.deepEqual(added.object.metadata.finalizers, ['x/mine']);
    const calls = kube.calls.length;
    await addFinalizer(kube, gvk, added.object, 'x/mine');
    assert.equal(kube.calls.length, calls);
  });

  it('adds nothing to what is being deleted, nor to another object of the name', async () => {
    const { memory, kube, base, key } = await setUp();
    const held = await addFinalizer(kube, gvk, base, 'x/mine');
    await memory.delete(gvk, key);
    assert.equal((await addFinalizer(kube, gvk, base, 'x/late')).outcome, 'deleting');
    assert.ok(held.outcome === 'written');
    await removeFinalizer(kube, gvk, held.object, 'x/mine');
    assert.equal((await removeFinalizer(kube, gvk, held.object, 'x/mine')).outcome, 'gone');
    await memory.create<Thing>(gvk, environments.object('a', 'n'));
    assert.equal((await addFinalizer(kube, gvk, base, 'x/mine')).outcome, 'gone');
  });
});

describe('merge patches', () => {
  const value = fc.letrec((tie) => ({
    leaf: fc.oneof(fc.integer(), fc.string(), fc.boolean()),
    object: fc.dictionary(fc.constantFrom('a', 'b', 'c', '__proto__'), tie('any'), { maxKeys: 3 }),
    any: fc.oneof({ depthSize: 'small' }, tie('leaf'), fc.array(tie('leaf'), { maxLength: 2 }), tie('object')),
  }));
  const objects = value.object as fc.Arbitrary<Record<string, unknown>>;

  it('turn one object into another, and are absent exactly when they are equal', () => {
    fc.assert(
      fc.property(objects, objects, (from, to) => {
        const before = JSON.stringify(from);
        const patch = mergePatchBetween(from, to);
        assert.equal(patch === undefined, deepEqual(from, to));
        assert.ok(deepEqual(applyMergePatch(from, patch ?? {}), to));
        assert.equal(JSON.stringify(from), before);
      }),
    );
  });

  it('reach no prototype', () => {
    applyMergePatch({}, JSON.parse('{"__proto__":{"polluted":true}}'));
    const copy = frozenCopy(JSON.parse('{"__proto__":{"polluted":true},"a":1}'));
    assert.equal(copy.polluted, undefined);
    assert.equal(Reflect.get({}, 'polluted'), undefined);
  });

  it('say only what changed', () => {
    const from = { a: 1, b: { c: [1, 2], d: 4, gone: 1 }, same: { x: { y: 1 } } };
    const to = { a: 1, b: { c: [1], d: 4 }, same: { x: { y: 1 } }, new: undefined };
    assert.deepEqual(mergePatchBetween(from, to), { b: { c: [1], gone: null } });
  });
});

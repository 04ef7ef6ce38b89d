import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { admitBlast, type BlastState, blastBudget, noBlast } from '../../controller/domain/blast.ts';
import { type Deletion, heldDeletions, isDeletionConfirmed } from '../../controller/domain/deletion-guard.ts';
import { chooseVictims, type HeldNode } from '../../controller/domain/victims.ts';

const node = (name: string, state: HeldNode['state'], more: Partial<HeldNode> = {}): HeldNode => ({
  name,
  rack: 'r0',
  state,
  localBytes: 0,
  ...more,
});
const none = new Set<string>();

test('named nodes go first, then failed ones, then those that cost least', () => {
  const held = [
    node('metal', 'BareMetal'),
    node('installed', 'Installed'),
    node('streamed9', 'Streaming', { localBytes: 9 }),
    node('streamed1', 'Streaming', { localBytes: 1 }),
    node('booting', 'Booting'),
    node('waiting', 'Isolating'),
    node('broken', 'BareMetal', { failure: { code: 'DiskFailed' } }),
    node('named', 'BareMetal'),
  ];
  const order = ['named', 'broken', 'waiting', 'booting', 'streamed1', 'streamed9', 'installed', 'metal'];
  const releaseFirst = new Set(['named', 'stranger']);
  for (let count = 0; count <= 9; count++)
    assert.deepEqual(chooseVictims({ held, count, releaseFirst }), order.slice(0, count));
});

test('of equally dear nodes, those in the emptiest racks go, the last names first', () => {
  const held = [
    ...['a1', 'a2', 'a3'].map((name) => node(name, 'BareMetal', { rack: 'a' })),
    ...['b1', 'b2'].map((name) => node(name, 'BareMetal', { rack: 'b' })),
    ...['c1', 'c2'].map((name) => node(name, 'BareMetal', { rack: 'c' })),
  ];
  assert.deepEqual(chooseVictims({ held, count: 5, releaseFirst: none }), ['c2', 'c1', 'b2', 'b1', 'a3']);
});

test('the choice does not depend on the order of the nodes', () => {
  const states = fc.constantFrom<HeldNode['state']>('Isolating', 'Streaming', 'BareMetal', 'Resident');
  const nodes = fc.uniqueArray(
    fc.record({
      name: fc.nat({ max: 30 }).map(String),
      rack: fc.constantFrom('a', 'b'),
      state: states,
      localBytes: fc.nat({ max: 2 }),
    }),
    { selector: ({ name }) => name },
  );
  fc.assert(
    fc.property(nodes, fc.nat({ max: 12 }), fc.nat({ max: 30 }), (held, count, named) => {
      const releaseFirst = new Set([String(named)]);
      const victims = chooseVictims({ held, count, releaseFirst });
      assert.equal(new Set(victims).size, Math.min(count, held.length));
      assert.deepEqual(chooseVictims({ held: [...held].reverse(), count, releaseFirst }), victims);
    }),
  );
});

const minute = 60_000;
const deletion = (uid: string, minutes: number, nodesInUse: number, more: Partial<Deletion> = {}): Deletion => ({
  uid,
  deletedAt: minutes * minute,
  nodesInUse,
  confirmed: false,
  alreadyEnded: false,
  ...more,
});
const heldUids = (...args: Parameters<typeof heldDeletions>): string[] => [...heldDeletions(...args).keys()];

test('both bounds must be passed, within one window', () => {
  const three = ['a', 'b', 'c'].map((uid) => deletion(uid, 0, 300));
  assert.deepEqual(heldUids(three, 1000), []);
  assert.deepEqual(heldUids([...three, deletion('d', 10, 1)], 1000), ['a', 'b', 'c', 'd']);
  assert.deepEqual(heldUids([...three, deletion('d', 10.1, 1)], 1000), []);
  const small = ['a', 'b', 'c', 'd'].map((uid, i) => deletion(uid, i, 25));
  assert.deepEqual(heldUids(small, 1000), []);
  assert.deepEqual(heldUids(small, 999), ['a', 'b', 'c', 'd']);
  const late = [deletion('old', 0, 500), ...small.map((d) => ({ ...d, deletedAt: d.deletedAt + 30 * minute }))];
  assert.deepEqual(heldUids(late, 999), ['a', 'b', 'c', 'd']);
});

test('the reason tells the numbers and the way out', () => {
  const four = ['a', 'b', 'c', 'd'].map((uid) => deletion(uid, 0, 40));
  assert.equal(
    heldDeletions(four, 1408).get('b'),
    '4 allocations were deleted within 10m, with 160 of 1408 nodes in use (11.4 %; 10 % go without asking); ' +
      'to confirm this deletion, set the annotation bitvisor.io/confirm-deletion to b',
  );
});

test('a confirmation frees one deletion and no other; what ended still counts', () => {
  const five = ['a', 'b', 'c', 'd', 'e'].map((uid) => deletion(uid, 0, 50));
  const confirmed = five.map((d) => (d.uid < 'c' ? { ...d, confirmed: true } : d));
  assert.deepEqual(heldUids(confirmed, 250), ['c', 'd', 'e']);
  const ended = five.map((d) => (d.uid < 'c' ? { ...d, alreadyEnded: true } : d));
  assert.deepEqual(heldUids(ended, 150), ['c', 'd', 'e']);
  assert.deepEqual(heldUids([...ended, deletion('empty', 0, 0)], 150), ['c', 'd', 'e']);
  assert.deepEqual(heldUids([deletion('x', 0, 1, { heldBefore: true })], 1000), ['x']);
  const annotations = { 'bitvisor.io/confirm-deletion': 'u1' };
  assert.ok(isDeletionConfirmed({ uid: 'u1', annotations }));
  assert.ok(!isDeletionConfirmed({ uid: 'u2', annotations }));
  assert.ok(!isDeletionConfirmed({ annotations: {} }));
});

test('the guard agrees with looking at every window', () => {
  const some = fc.array(fc.record({ at: fc.nat({ max: 30 }), nodes: fc.nat({ max: 9 }), ended: fc.boolean() }), {
    maxLength: 9,
  });
  fc.assert(
    fc.property(some, fc.nat({ max: 200 }), (list, inUse) => {
      const deletions = list.map(({ at, nodes, ended }, i) => deletion(`u${i}`, at, nodes, { alreadyEnded: ended }));
      const expected = new Set<string>();
      for (const start of deletions) {
        const inside = deletions.filter(
          ({ deletedAt }) => deletedAt >= start.deletedAt && deletedAt - start.deletedAt <= 10 * minute,
        );
        const sum = (of: Deletion[]): number => of.reduce((total, { nodesInUse }) => total + nodesInUse, 0);
        const base = inUse + sum(inside.filter(({ alreadyEnded }) => alreadyEnded));
        if (inside.length > 3 && sum(inside) > 0.1 * base)
          for (const { uid, alreadyEnded, nodesInUse } of inside)
            if (!alreadyEnded && nodesInUse > 0) expected.add(uid);
      }
      assert.deepEqual(heldUids(deletions, inUse).sort(), [...expected].sort());
    }),
    { numRuns: 500 },
  );
});

test('automatic failure handling stops at its share and goes on as time passes', () => {
  let state: BlastState = noBlast;
  const admit = (name: string, minutes: number, totalNodes = 100) => {
    const verdict = admitBlast(state, { node: name, totalNodes, nowMs: minutes * minute });
    state = verdict.state;
    return verdict;
  };
  for (let i = 0; i < 5; i++) assert.ok(admit(`n${i}`, i).allowed);
  assert.equal(blastBudget(state, 100, 5 * minute), 0);
  const verdict = admit('n5', 5);
  assert.ok(!verdict.allowed);
  assert.equal(
    verdict.reason,
    '5 of 100 nodes were handled as failed within 10m, and at most 5 are without asking; n5 waits, look for a common cause',
  );
  assert.equal(verdict.retryAtMs, 10 * minute);
  assert.ok(admit('n0', 5).allowed, 'a node that is being handled goes on');
  assert.ok(admit('n5', 10).allowed);
  assert.ok(!admit('n6', 10).allowed);
});

test('a small room has its minimum, and no window ever passes the bound', () => {
  assert.equal(blastBudget(noBlast, 3, 0), 2);
  const calls = fc.array(fc.record({ wait: fc.nat({ max: 6 }), node: fc.nat({ max: 20 }) }), { maxLength: 60 });
  fc.assert(
    fc.property(calls, fc.nat({ max: 100 }), (list, totalNodes) => {
      const limit = Math.max(2, Math.floor(totalNodes * 0.05));
      let state: BlastState = noBlast;
      let nowMs = 0;
      const firsts: { name: string; at: number }[] = [];
      for (const { wait, node: n } of list) {
        nowMs += wait * minute;
        const known = state;
        const verdict = admitBlast(state, { node: `n${n}`, totalNodes, nowMs });
        state = verdict.state;
        assert.ok(state.size <= limit);
        if (verdict.allowed && state.get(`n${n}`) !== known.get(`n${n}`)) firsts.push({ name: `n${n}`, at: nowMs });
        if (!verdict.allowed)
          assert.ok(admitBlast(state, { node: 'new', totalNodes, nowMs: verdict.retryAtMs }).allowed);
      }
      for (const { at } of firsts)
        assert.ok(firsts.filter((other) => other.at >= at && other.at - at < 10 * minute).length <= limit);
    }),
  );
});

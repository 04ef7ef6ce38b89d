/** Prune safety, over generated inventories and repositories. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { DesiredObject } from '../../controller/gitops/desired.ts';
import type { InventoryEntry } from '../../controller/gitops/inventory.ts';
import { defaultPruneSettings, planPrune } from '../../controller/gitops/prune.ts';
import type { History } from '../../controller/gitops/source.ts';

const key = fc.constantFrom(...'abcdefghij');
const file = fc.constantFrom('a.yaml', 'b.yaml', 'dir/c.yaml');
const entry = fc
  .record({ key, file, kind: fc.constantFrom('NodeAllocation', 'Namespace'), held: fc.boolean() })
  .map(({ key: name, file: path, kind, held }): InventoryEntry => {
    return {
      held,
      key: name,
      group: kind === 'Namespace' ? '' : 'bitvisor.io',
      version: 'v1',
      kind,
      plural: 'x',
      name,
      uid: `uid-${name}`,
      file: path,
      hash: '',
    };
  });
const input = fc.record({
  entries: fc.uniqueArray(entry, { selector: (one) => one.key, maxLength: 10 }),
  valid: fc.uniqueArray(key),
  named: fc.uniqueArray(key),
  failing: fc.uniqueArray(fc.oneof(file, fc.constant('dir'))),
  unread: fc.uniqueArray(file),
  knownUnread: fc.uniqueArray(file),
  history: fc.constantFrom<History>('First', 'Same', 'Descendant', 'Rewritten', 'Unrelated'),
  confirmed: fc.option(fc.constantFrom('1234567', '123', '7654321'), { nil: undefined }),
});

test('nothing is pruned that is defined, unreadable, unconfirmed or not applied by us', () => {
  fc.assert(
    fc.property(input, ({ entries, valid, named, failing, unread, knownUnread, history, confirmed }) => {
      const ids = (paths: string[]): Record<string, string> => Object.fromEntries(paths.map((path) => [path, 'id']));
      const plan = planPrune({
        inventory: { entries, commit: undefined, unread: ids(knownUnread) },
        desired: {
          valid: new Map(valid.map((name) => [name, {} as DesiredObject])),
          named: new Set<string>(named),
          failing: new Set<string>(failing),
          unread: new Map(Object.entries(ids(unread))),
        },
        history,
        commit: '1234567890',
        confirmed,
        settings: defaultPruneSettings,
      });
      const isAllowed = confirmed === '1234567';
      for (const one of plan.prune) {
        assert.ok(entries.includes(one));
        assert.ok(!valid.includes(one.key) && !named.includes(one.key));
        assert.ok(!new Set<string>(failing).has(one.file) && !(failing.includes('dir') && one.file.startsWith('dir/')));
        assert.notEqual(one.kind, 'Namespace');
        assert.ok(unread.every((path) => knownUnread.includes(path)));
      }
      if (plan.prune.length > 0 && !isAllowed) {
        assert.ok(history !== 'Rewritten' && history !== 'Unrelated');
        assert.ok(valid.length + named.length > 0);
        assert.ok(plan.prune.every(({ held }) => held !== true));
        assert.ok(plan.prune.length < 4 || plan.prune.length <= entries.length / 2);
      }
      const all = [...plan.prune, ...plan.release, ...plan.kept, ...plan.waiting];
      assert.equal(new Set(all).size, all.length);
      for (const one of all) assert.ok(!valid.includes(one.key));
      for (const one of plan.waiting) assert.equal(one.held, true, 'what waits is remembered so');
    }),
    { numRuns: 500 },
  );
});

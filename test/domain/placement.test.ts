import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ClassFacts, FreeIndex, type FreeNode } from '../../controller/domain/free-index.ts';
import { fewestBins, pack } from '../../controller/domain/packing.ts';
import { type PlacementRequest, place } from '../../controller/domain/placement.ts';
import { mismatchOf } from '../../controller/domain/requirements.ts';

const facts = (labels: Record<string, string> = {}): ClassFacts => ({
  labels,
  inventory: {
    architecture: 'x86_64',
    cores: 12,
    memoryBytes: 54 * 2 ** 30,
    disks: [{ media: 'SSD', sizeBytes: 120e9 }],
  },
  capabilities: ['format:Raw'],
});
const any = (): undefined => undefined;
const onlyGood = ({ labels }: ClassFacts): string | undefined => (labels.kind === 'good' ? undefined : 'they are bad');
const pad = (n: number, width: number): string => String(n).padStart(width, '0');

/** Racks of the given sizes: rack i is "rI", its nodes are "sitesRrIInNN". */
function room(sizes: readonly number[], site = 'a', labels: Record<string, string> = {}): FreeNode[] {
  return sizes.flatMap((size, r) =>
    Array.from({ length: size }, (_, n) => ({
      name: `${site}r${pad(r, 2)}n${pad(n, 2)}`,
      site,
      rack: `r${pad(r, 2)}`,
      ...facts(labels),
    })),
  );
}

function indexOf(nodes: Iterable<FreeNode>): FreeIndex {
  const index = new FreeIndex();
  for (const node of nodes) index.add(node);
  return index;
}

const placed = (index: FreeIndex, request: Partial<PlacementRequest> & { replicas: number }) => {
  const result = place(index, { minReplicas: request.replicas, mismatch: any, ...request });
  assert.equal(result.kind, 'placed', result.kind === 'refused' ? result.reason : '');
  assert.ok(result.kind === 'placed');
  return result;
};
const refused = (index: FreeIndex, request: Partial<PlacementRequest> & { replicas: number }) => {
  const result = place(index, { minReplicas: request.replicas, mismatch: any, ...request });
  assert.ok(result.kind === 'refused');
  return result;
};
const racksOf = (names: readonly string[]): string[] => [...new Set(names.map((name) => name.slice(0, 4)))];

test('the fullest rack that still fits is taken, so that big racks stay whole', () => {
  const index = indexOf(room([32, 20, 9, 32]));
  assert.deepEqual(racksOf(placed(index, { replicas: 8 }).nodes), ['ar02']);
  assert.deepEqual(racksOf(placed(index, { replicas: 10 }).nodes), ['ar01']);
  assert.deepEqual(racksOf(placed(index, { replicas: 32 }).nodes), ['ar00']);
  assert.deepEqual(racksOf(placed(index, { replicas: 29 }).nodes), ['ar00']);
  assert.deepEqual(
    placed(indexOf(room([32, 32, 20, 20])), { replicas: 40 }).nodes,
    room([0, 0, 20, 20]).map((n) => n.name),
  );
  assert.deepEqual(placed(index, { replicas: 2 }).nodes, ['ar02n00', 'ar02n01']);
});

test('scale-up stays near the nodes that are there', () => {
  const index = indexOf([...room([32, 20, 9, 3]), ...room([5], 'b')]);
  const held = [{ site: 'a', rack: 'r03' }];
  assert.deepEqual(racksOf(placed(index, { replicas: 3, held }).nodes), ['ar03']);
  assert.deepEqual(racksOf(placed(index, { replicas: 11, held }).nodes), ['ar02', 'ar03']);
  assert.deepEqual(racksOf(placed(index, { replicas: 5, held: [{ site: 'b', rack: 'elsewhere' }] }).nodes), ['br00']);
  const required = { level: 'Rack', mode: 'Required' } as const;
  assert.match(
    refused(index, { replicas: 4, held, topology: required }).reason,
    /rack that holds its other nodes has 3/,
  );
  assert.deepEqual(racksOf(placed(index, { replicas: 3, held, topology: required }).nodes), ['ar03']);
});

test('Required holds all in one rack or one site; Preferred comes closest', () => {
  const index = indexOf([...room([16, 10]), ...room([12, 12], 'b')]);
  const rack = (mode: 'Required' | 'Preferred') => ({ topology: { level: 'Rack', mode } as const });
  const site = (mode: 'Required' | 'Preferred') => ({ topology: { level: 'Site', mode } as const });
  assert.deepEqual(racksOf(placed(index, { replicas: 16, ...rack('Required') }).nodes), ['ar00']);
  assert.match(
    refused(index, { replicas: 32, ...rack('Required') }).reason,
    /^32 nodes asked for, 50 free and matching; the largest rack has 16, and one rack must hold all$/,
  );
  assert.equal(placed(index, { replicas: 32, minReplicas: 14, ...rack('Required') }).nodes.length, 16);
  assert.equal(placed(index, { replicas: 17, ...rack('Preferred') }).racks, 2);
  assert.deepEqual(racksOf(placed(index, { replicas: 24, ...site('Required') }).nodes), ['br00', 'br01']);
  assert.match(refused(index, { replicas: 27, ...site('Required') }).reason, /largest site has 26/);
  assert.equal(placed(index, { replicas: 27, ...site('Preferred') }).sites, 2);
});

test('one site with fewer racks wins over one with more', () => {
  const index = indexOf([...room([5, 5, 5]), ...room([12, 12], 'b')]);
  assert.deepEqual(racksOf(placed(index, { replicas: 12 }).nodes), ['br00']);
});

test('a refusal says what stands in the way', () => {
  const index = indexOf([...room([20], 'a', { kind: 'good' }), ...room([7], 'b')]);
  const result = refused(index, {
    replicas: 40,
    minReplicas: 36,
    mismatch: onlyGood,
    avoid: new Set(['ar00n00', 'br00n00', 'gone']),
    elsewhere: { inUse: 12, reclaiming: 0, heldBack: 3 },
  });
  assert.equal(
    result.reason,
    '40 nodes (36 at least) asked for, 19 free and matching; 12 more are in use; 3 are quarantined, orphaned or in ' +
      'maintenance; 1 recently failed and are left alone for now; 7 will not do because they are bad; waiting will not ' +
      'help: only 35 nodes could ever do',
  );
  assert.equal(result.feasibleNow, 19);
  assert.equal(result.feasibleEver, 35);
  assert.match(refused(new FreeIndex(), { replicas: 1 }).reason, /^1 node asked for, 0 free and matching$/);
});

test('what an environment asks for is told apart', () => {
  const ask = (
    requirements: { minCores?: number; minMemory?: string; matchLabels?: Record<string, string> },
    change: {
      media?: 'Any' | 'NVMe' | 'SSD';
      sizeBytes?: number;
      format?: 'Raw' | 'Qcow2';
      architecture?: 'aarch64';
    } = {},
    matchLabels: Record<string, string> = {},
  ) =>
    mismatchOf({
      definition: {
        os: { family: 'Linux', architecture: change.architecture ?? 'x86_64' },
        image: { url: '', format: change.format ?? 'Raw', sizeBytes: change.sizeBytes ?? 2 ** 35, sha256: '' },
        install: { yield: 'Fair', disk: { media: change.media ?? 'Any', minSizeBytes: 0 } },
      },
      requirements,
      selector: { matchLabels },
    })(facts({ zone: 'x' }));
  assert.equal(ask({ minCores: 12, minMemory: '54Gi', matchLabels: { zone: 'x' } }, { media: 'SSD' }), undefined);
  assert.match(ask({ minCores: 13 }) ?? '', /fewer than 13 cores/);
  assert.match(ask({ minMemory: '55Gi' }) ?? '', /less than 55Gi of memory/);
  assert.match(ask({ matchLabels: { zone: 'y' } }) ?? '', /environment's requirements/);
  assert.match(ask({}, {}, { zone: 'y' }) ?? '', /selector/);
  assert.match(ask({}, { architecture: 'aarch64' }) ?? '', /not aarch64/);
  assert.match(ask({}, { media: 'NVMe' }) ?? '', /no NVMe disk of 32Gi/);
  assert.match(ask({}, { sizeBytes: 200e9 }) ?? '', /no disk of 200G or more/);
  assert.match(ask({}, { format: 'Qcow2' }) ?? '', /cannot serve Qcow2/);
});

test('packing uses as few racks as brute force does', () => {
  const sizes = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 9 });
  fc.assert(
    fc.property(sizes, fc.integer({ min: 0, max: 50 }), (rooms, count) => {
      let fewest: number | undefined;
      for (let subset = 0; subset < 2 ** rooms.length; subset++) {
        const chosen = rooms.filter((_, i) => (subset >> i) & 1);
        if (chosen.reduce((a, b) => a + b, 0) >= count) fewest = Math.min(fewest ?? 99, chosen.length);
      }
      const taken = pack(
        rooms.map((r, i) => ({ name: `r${i}`, room: r })),
        count,
      );
      assert.equal(taken?.length, fewest);
      if (taken === undefined) return;
      assert.equal(
        taken.reduce((a, { take }) => a + take, 0),
        count,
      );
      assert.ok(taken.every(({ bin, take }) => take >= 1 && take <= bin.room));
      assert.equal(new Set(taken.map(({ bin }) => bin.name)).size, taken.length);
    }),
    { numRuns: 500 },
  );
});

const sizes = fc.array(fc.integer({ min: 0, max: 6 }), { minLength: 1, maxLength: 5 });
const scenario = fc.record({
  good: fc.tuple(sizes, sizes),
  bad: sizes,
  busy: fc.array(fc.nat({ max: 40 }), { maxLength: 8 }),
  avoid: fc.array(fc.nat({ max: 40 }), { maxLength: 5 }),
  replicas: fc.integer({ min: 1, max: 25 }),
  slack: fc.nat({ max: 25 }),
  topology: fc.option(
    fc.record({
      level: fc.constantFrom('Rack' as const, 'Site' as const),
      mode: fc.constantFrom('Required' as const, 'Preferred' as const),
    }),
    { nil: undefined },
  ),
  held: fc.array(fc.record({ site: fc.constantFrom('a'), rack: fc.constantFrom('r00', 'r01') }), { maxLength: 1 }),
});

test('any placement keeps to what is free, matching and asked for, and one that is possible is made', () => {
  fc.assert(
    fc.property(scenario, ({ good, bad, busy, avoid, replicas, slack, topology, held }) => {
      const goodNodes = [...room(good[0], 'a', { kind: 'good' }), ...room(good[1], 'b', { kind: 'good', more: 'yes' })];
      const badNodes = room(bad, 'a').map((node) => ({ ...node, name: `${node.name}x` }));
      const index = indexOf([...goodNodes, ...badNodes]);
      for (const i of busy) index.remove(goodNodes[i]?.name ?? '');
      const avoided = new Set(avoid.map((i) => goodNodes[i]?.name ?? ''));
      const usable = goodNodes.filter(({ name }) => index.has(name) && !avoided.has(name));
      const minReplicas = Math.max(1, replicas - slack);
      const request = { replicas, minReplicas, mismatch: onlyGood, avoid: avoided, topology, held };
      const result = place(index, request);
      const again = place(
        indexOf([...badNodes, ...goodNodes].reverse().filter(({ name }) => index.has(name))),
        request,
      );
      const outcome = ({ looked: _, ...rest }: typeof result) => rest;
      assert.deepEqual(outcome(again), outcome(result));
      const rackOf = (node: FreeNode): string => node.site + node.rack;
      const scopeOf = (node: FreeNode): string =>
        topology?.mode !== 'Required' ? '' : topology.level === 'Rack' ? rackOf(node) : node.site;
      const heldScope =
        held[0] && topology?.mode === 'Required'
          ? topology.level === 'Rack'
            ? held[0].site + held[0].rack
            : held[0].site
          : undefined;
      const rooms = new Map<string, number>();
      for (const node of usable)
        if (heldScope === undefined || scopeOf(node) === heldScope)
          rooms.set(scopeOf(node), (rooms.get(scopeOf(node)) ?? 0) + 1);
      const possible = Math.min(replicas, Math.max(0, ...rooms.values()));
      if (result.kind === 'refused') {
        assert.ok(possible < minReplicas);
        assert.equal(result.feasibleNow, possible);
        return;
      }
      assert.equal(result.nodes.length, possible);
      assert.ok(possible >= minReplicas);
      const chosen = usable.filter(({ name }) => result.nodes.includes(name));
      assert.equal(chosen.length, result.nodes.length);
      assert.equal(new Set(result.nodes).size, result.nodes.length);
      assert.equal(new Set(chosen.map(scopeOf)).size, 1);
      assert.equal(new Set(chosen.map(rackOf)).size, result.racks);
      assert.equal(new Set(chosen.map(({ site }) => site)).size, result.sites);
      if (held.length > 0) return;
      // Without nodes elsewhere: the fewest racks of any one site that holds all, two sites only where none does.
      const counts = (of: FreeNode[]) =>
        [...Map.groupBy(of, rackOf)].map(([name, { length }]) => ({ name, room: length }));
      const perSite = [...Map.groupBy(usable, ({ site }) => site).values()].map((of) =>
        fewestBins(counts(of), possible),
      );
      const fewest = Math.min(...perSite.map((racks) => racks ?? 99));
      if (topology?.level === 'Rack' && topology.mode === 'Required') assert.equal(result.racks, 1);
      else if (fewest === 99) assert.equal(result.sites, 2);
      else assert.deepEqual([result.sites, result.racks], [1, fewest]);
    }),
    { numRuns: 1000 },
  );
});

test('the index depends on what was added and removed, not on the order', () => {
  const nodes = room([4, 4, 4]);
  const change = fc.record({ node: fc.nat({ max: nodes.length - 1 }), add: fc.boolean() });
  fc.assert(
    fc.property(fc.array(change, { maxLength: 60 }), (changes) => {
      const index = new FreeIndex();
      const model = new Map<string, FreeNode>();
      for (const { node: i, add } of changes) {
        const node = nodes[i];
        assert.ok(node);
        if (add) {
          index.add(node);
          model.set(node.name, node);
        } else assert.equal(index.remove(node.name), model.delete(node.name));
      }
      assert.equal(index.size, model.size);
      const result = place(index, { replicas: 99, minReplicas: 1, mismatch: any });
      assert.deepEqual(result.kind === 'placed' ? result.nodes : [], [...model.keys()].sort());
      if (model.size === 0) assert.deepEqual([...index.classes()], []);
    }),
  );
});

test('1,000 placements over 88,128 nodes look at classes and racks, not at nodes', () => {
  const index = new FreeIndex();
  const nodes = new Map<string, FreeNode>();
  for (let r = 0; r < 864; r++)
    for (let n = 0; n < 102; n++) {
      const rack = `k${pad(r, 3)}`;
      const node = {
        name: `${rack}n${pad(n, 3)}`,
        site: r < 600 ? 'kobe' : 'tokyo',
        rack,
        ...facts({ fat: String(r % 4) }),
      };
      nodes.set(node.name, node);
      index.add(node);
    }
  let asked = 0;
  const mismatch = ({ labels }: ClassFacts): string | undefined => {
    asked++;
    return labels.fat === '0' ? 'they are fat' : undefined;
  };
  let looked = 0;
  const running: string[][] = [];
  for (let i = 0; i < 1000; i++) {
    const result = placed(index, { replicas: 1 + ((i * 37) % 200), mismatch });
    looked += result.looked.racks + result.looked.nodes;
    for (const name of result.nodes) index.remove(name);
    running.push(result.nodes);
    if (running.length > 300)
      for (const name of running.shift() ?? []) {
        const node = nodes.get(name);
        assert.ok(node);
        index.add(node);
      }
  }
  assert.equal(asked, 4000);
  assert.ok(looked / 1000 <= 864 + 4 * 102, `${looked / 1000} racks and nodes a placement`);
});

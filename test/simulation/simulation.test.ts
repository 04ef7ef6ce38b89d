/**
 * A handful of seeds in every `npm test`: the rules hold, and the same seed leaves the same trace. More of them: `npm run
 * test:simulation`, `npm run simulate`.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Instruction } from '../../controller/api/protocol.generated.ts';
import { runSeed } from './run.ts';
import { World } from './world.ts';

test('whatever happens, the rules hold, and with the faults over everything comes to rest', async () => {
  let tenancies = 0;
  const kinds = new Set<string>();
  for (let seed = 1; seed <= 8; seed++) {
    const result = await runSeed({ seed });
    tenancies += result.tenancies;
    for (const kind of Object.keys(result.strikes)) kinds.add(kind);
    const broken = result.violations.map(({ rule, message }) => `rule ${rule}: ${message}`);
    assert.deepEqual(broken, [], `seed ${seed}; replay it with: npm run simulate -- --seed ${seed} --verbose`);
  }
  assert.ok(tenancies > 60, `only ${tenancies} tenancies`);
  assert.ok(kinds.size > 25, `only ${kinds.size} kinds of faults struck`);
});

test('a seed is the same run again, to the last line of its trace', async () => {
  for (const seed of [3, 6]) {
    const first = await runSeed({ seed });
    const second = await runSeed({ seed });
    assert.equal(second.hash, first.hash, `seed ${seed} has another trace when it runs again`);
    assert.equal(second.traceLines, first.traceLines);
  }
});

test('with a repository followed through its own faults the rules hold, and the seed is the same run again', async () => {
  const kinds = new Set<string>();
  for (const seed of [4, 8, 19]) {
    const result = await runSeed({ seed, faults: ['git'] });
    for (const kind of Object.keys(result.strikes)) kinds.add(kind);
    const broken = result.violations.map(({ rule, message }) => `rule ${rule}: ${message}`);
    assert.deepEqual(broken, [], `replay it with: npm run simulate -- --seed ${seed} --faults git --verbose`);
    if (seed === 19) assert.equal((await runSeed({ seed, faults: ['git'] })).hash, result.hash);
  }
  assert.ok(kinds.size > 9, `only ${[...kinds]} struck`);
});

test('with the whole operator down for minutes, again and again, the rules hold, and the seed is the same run again', async () => {
  let strikes = 0;
  for (const seed of [1, 2, 3]) {
    const faults = ['people', 'operator.down'];
    const result = await runSeed({ seed, faults });
    strikes += result.strikes['operator.down'] ?? 0;
    const broken = result.violations.map(({ rule, message }) => `rule ${rule}: ${message}`);
    assert.deepEqual(broken, [], `replay it with: npm run simulate -- --seed ${seed} --faults ${faults} --verbose`);
    if (seed === 3) assert.equal((await runSeed({ seed, faults })).hash, result.hash);
  }
  assert.ok(strikes >= 3, `it went down ${strikes} times only`);
});

test('while the whole operator is down no process runs, also none that was to be started again, and then as many as before', async () => {
  const world = new World({ seed: 1, racks: { r0: 'r0n0' }, replicas: 2 });
  const [first] = world.processes;
  assert.ok(first);
  first.kill('killed');
  world.restartOperator(first);
  const started: string[] = [];
  assert.equal(
    world.downOperator(60_000, ({ name }) => started.push(name)),
    true,
  );
  assert.equal(
    world.downOperator(60_000, () => {}),
    false,
  );
  await world.clock.advance(59_000);
  assert.deepEqual(world.processes, []);
  await world.clock.advance(2_000);
  assert.deepEqual(started, ['operator-3', 'operator-4']);
  assert.equal(world.processes.length, 2);
  assert.equal(world.isOperatorDown, false);
  world.stop();
});

test('what an agent had in its log when it died is known to have been accepted, although it told nobody', () => {
  const world = new World({ seed: 1, racks: { r0: 'r0n0' }, replicas: 0 });
  const host = world.agents.get('r0');
  assert.ok(host);
  const known = (epoch: number): string[] => {
    const operationId = `r0n0.${epoch}.Fencing.fence.1.0`;
    host.start();
    host.dieAt('write', 1);
    const fence = { operationId, node: 'r0n0', epoch, verb: 'fence', args: {} } as unknown as Instruction;
    assert.throws(() => host.peer().instruct({ term: 1, instructions: [fence] }), /died after a write/);
    return [...world.truth.machine('r0n0').operations];
  };
  assert.deepEqual(known(1), ['0 r0n0.1.Fencing.fence.1.0']);
  assert.equal(known(2).length, 2);
  world.stop();
});

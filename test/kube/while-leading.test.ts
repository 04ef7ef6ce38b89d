/** A leader that stood still for longer than its Lease: it looks at the clock before it writes, whatever its timers have told it by then. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startElection } from '../../controller/kube/lease.ts';
import { createMemoryKube } from '../../controller/kube/memory.ts';
import { whileLeading } from '../../controller/kube/while-leading.ts';
import { silentLogger } from '../../controller/runtime/log.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { type ConfigMap, configMapKind } from '../support/kube-kinds.ts';
import { VirtualClock } from '../support/virtual-clock.ts';

test('a leader that stood still sends no write any more, before any timer told it', async () => {
  const clock = new VirtualClock();
  let stoodStillMs = 0;
  const random = seededRandom(1);
  const memory = createMemoryKube({ clock, random });
  const lost: string[] = [];
  const election = startElection({
    client: memory.connect(),
    namespace: 'n',
    name: 'operator',
    identity: 'a',
    clock: {
      now: () => clock.now(),
      monotonic: () => clock.monotonic() + stoodStillMs,
      setTimer: (delayMs, fn) => clock.setTimer(delayMs, fn),
    },
    random,
    log: silentLogger,
    onElected: () => {},
    onLost: (reason) => lost.push(reason),
  });
  await clock.advance(1_000);
  const client = whileLeading(memory.connect(), () => election.isLeader());
  const map = { metadata: { namespace: 'n', name: 'one' }, data: { at: 'first' } };
  const { metadata } = await client.create<ConfigMap>(configMapKind, map);
  const change = (at: string): Promise<ConfigMap> =>
    client.patch(configMapKind, metadata, { data: { at } }, { type: 'merge' });
  await change('leading');
  stoodStillMs = 60_000;
  await assert.rejects(change('awake'), { reason: 'Unavailable', message: /no longer leads/ });
  await assert.rejects(client.delete(configMapKind, metadata), { reason: 'Unavailable' });
  assert.equal(lost.length, 1);
  assert.equal((await client.get<ConfigMap>(configMapKind, metadata)).data?.at, 'leading');
  await Promise.all([election.stop(), clock.advance(100)]);
});

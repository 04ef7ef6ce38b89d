/** Operators that are killed, paused past their Lease and woken, or that lead under a Lease of last week. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { AgentPool } from '../../../controller/agents/pool.ts';
import type { Instruction } from '../../../controller/api/protocol.generated.ts';
import { leaseKind, termAnnotation } from '../../../controller/kube/lease.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { systemRandom } from '../../../controller/runtime/random.ts';
import { Plant } from './plant.ts';

let plant: Plant;
before(async () => {
  plant = await Plant.start({}, ['one', 'two']);
});
after(() => plant.stop());

/** The one that leads, and the one that waits. */
async function roles(): Promise<{ leader: string; other: string; term: number }> {
  const { holder, term } = await plant.lease();
  return { leader: holder, other: holder === 'one' ? 'two' : 'one', term };
}

/** What the agent answers to an instruction under this term, from somebody with the operator's certificate. */
async function answerUnder(term: number, instruction: Instruction): Promise<string | undefined> {
  const [certPem, keyPem] = [plant.read('tls/tls.crt'), plant.read('tls/tls.key')];
  const pool = new AgentPool({ caPem: plant.ca.caPem, certPem, keyPem, clock: systemClock, random: systemRandom });
  const endpoint = `https://127.0.0.1:${plant.ports.get('p0')}`;
  const acceptedNodes = new Set([instruction.node]);
  const link = pool.connect({ name: 'p0', endpoint, serverName: 'p0', acceptedNodes });
  try {
    const [result] = await link.instruct([instruction], term);
    return result?.reason ?? result?.result;
  } finally {
    link.close();
  }
}

test('a leader paused past its Lease wakes up under an old term: it can do nothing, and nothing was done twice', async () => {
  await plant.allocate('first', 2);
  await plant.settled('first');
  const nodes = await plant.claimed('first');
  const wipes = plant.counts('wiped');
  const { leader, other, term } = await roles();
  await plant.release('first');
  await plant.until('an end is recorded', async () => (await plant.nodes()).some(({ status }) => status?.end));
  plant.service(leader).signal('SIGSTOP');
  await plant.until('the other one leads', async () => (await plant.lease()).holder === other);
  assert.ok((await plant.lease()).term > term);
  await plant.until('the machines are Available', async () => (await plant.inState('Available')) === 4);
  // The next tenant's guests run on the very machines that the paused one was taking back.
  await plant.allocate('second', 4);
  await plant.settled('second');
  const before = plant.history().length;
  plant.service(leader).signal('SIGCONT');
  assert.equal(await plant.service(leader).ended, 1, 'it ends, so that the next one starts with an empty memory');
  for (const name of nodes) {
    const epoch = (await plant.nodes()).find((node) => node.metadata.name === name)?.status?.epoch ?? 0;
    for (const verb of ['fence', 'inspect'] as const) {
      const late: Instruction = { operationId: `late-${verb}`, node: name, epoch: epoch + 1, verb };
      assert.equal(await answerUnder(term, late), 'StaleTerm');
    }
  }
  assert.equal(plant.history().length, before, 'the machines felt nothing of it');
  for (const name of nodes) {
    const disks = wipes.get(name) ?? 0;
    assert.equal(plant.counts('wiped').get(name), disks * 2, `${name} was wiped for its release, once`);
    assert.equal(plant.counts('imaged').get(name), 2, `${name} was imaged for each of its tenants, once`);
  }
  plant.startOperator(leader);
});

test('a leader killed while it images leaves the rest to the next one, which images nothing again', async () => {
  await plant.release('second');
  await plant.until('all are Available', async () => (await plant.inState('Available')) === 4);
  const imaged = plant.counts('imaged');
  await plant.allocate('third', 3);
  await plant.until('a claim stands', async () => (await plant.claimed('third')).length > 0);
  const { leader } = await roles();
  assert.equal(await plant.service(leader).end('SIGKILL'), 'SIGKILL');
  await plant.settled('third');
  for (const name of await plant.claimed('third'))
    assert.equal(plant.counts('imaged').get(name), (imaged.get(name) ?? 0) + 1, name);
  plant.startOperator(leader);
});

test('a Lease of last week gives out a term again: it is raised above what the agents know before anything is sent', async () => {
  const { term } = await roles();
  for (const name of ['one', 'two']) await plant.service(name).end('SIGTERM');
  const client = await plant.client();
  const key = { namespace: 'bitvisor-system', name: 'bitvisor-operator' };
  // The next leadership would take the very number that the agents have accepted.
  const old = { metadata: { annotations: { [termAnnotation]: String(term - 1) } }, spec: { leaseTransitions: 0 } };
  await client.patch(leaseKind, key, old, { type: 'merge' });
  plant.startOperator('one');
  await plant.until('a higher term stands', async () => (await plant.lease()).term > term);
  await plant.release('third');
  await plant.until('all are Available', async () => (await plant.inState('Available')) === 4);
  await plant.service('one').end('SIGTERM');
  // Lost altogether, the count begins at 1.
  await client.delete(leaseKind, key);
  plant.startOperator('two');
  await plant.until('a higher term stands', async () => (await plant.lease()).term > term + 1);
  await plant.allocate('fourth', 2);
  await plant.settled('fourth');
});

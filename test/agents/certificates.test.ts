/** Certificates that expire and are renewed while agents and operator run. */
import assert from 'node:assert/strict';
import { request } from 'node:https';
import { test } from 'node:test';
import { type PeerCertificate, TLSSocket } from 'node:tls';
import type { AgentServer } from '../../agent/server.ts';
import type { AgentPool } from '../../controller/agents/pool.ts';
import type { AgentLink } from '../../controller/agents/port.ts';
import type { Instruction } from '../../controller/api/protocol.generated.ts';
import { AgentNetwork, sharedCa, untilReal } from '../support/agent-network.ts';
import { AgentRoom } from '../support/agent-room.ts';
import { makeTestCa, type TestCa, type TestIdentity } from '../support/test-ca.ts';

interface Pair {
  readonly room: AgentRoom;
  readonly server: AgentServer;
  readonly pool: AgentPool;
  readonly link: AgentLink;
  /** How often the link was found to be unconnected, after it was connected first. */
  breaks(): number;
}

const inspect: Instruction = { operationId: 'op-1', node: 'n0', epoch: 1, verb: 'inspect' };

/** An agent and a link that trusts the pool's own CA; both are torn down after `work`. */
async function withPair(
  identities: { agent?: TestIdentity; operator?: TestIdentity },
  work: (pair: Pair, ca: TestCa) => Promise<void>,
): Promise<void> {
  const ca = await sharedCa();
  const room = new AgentRoom();
  const network = new AgentNetwork(ca);
  try {
    const server = await network.serve(room.core);
    const agent = identities.agent ?? (await ca.issue('agent', ['rack-0']));
    server.renewTls({ caPem: ca.caPem, ...agent });
    const pool = await network.pool();
    pool.renew({ caPem: ca.caPem, ...(identities.operator ?? (await ca.issue('bitvisor-operator'))) });
    const acceptedNodes = new Set(['n0']);
    const link = pool.connect({ name: 'rack-0', endpoint: server.endpoint, serverName: 'rack-0', acceptedNodes });
    let breaks = 0;
    let was = false;
    link.onChange(() => {
      const is = link.state().connected;
      if (was && !is) breaks++;
      was = is;
    });
    try {
      await work({ room, server, pool, link, breaks: () => breaks }, ca);
    } finally {
      link.close();
    }
  } finally {
    await network.close();
    room.close();
  }
}

/** The certificate that a new connection is shown. */
function shownBy({ endpoint }: AgentServer, ca: TestCa, as: TestIdentity): Promise<PeerCertificate> {
  return new Promise((resolve, reject) => {
    const tls = { ca: ca.caPem, cert: as.certPem, key: as.keyPem, servername: 'rack-0', agent: false as const };
    const asked = request(`${endpoint}/healthz`, tls, (response) => {
      assert.ok(response.socket instanceof TLSSocket);
      resolve(response.socket.getPeerCertificate());
      response.destroy();
    });
    asked.on('error', reject);
    asked.end();
  });
}

test('renewed certificates count for new connections, and those that stand go on', () =>
  withPair({}, async ({ room, server, pool, link, breaks }, ca) => {
    await untilReal(() => link.state().synced, room);
    await link.instruct([inspect], 1);
    const operator = await ca.issue('bitvisor-operator');
    const before = await shownBy(server, ca, operator);
    server.renewTls({ caPem: ca.caPem, ...(await ca.issue('agent', ['rack-0'])) });
    pool.renew({ caPem: ca.caPem, ...operator });
    const after = await shownBy(server, ca, operator);
    assert.notEqual(after.serialNumber, before.serialNumber);
    const [result] = await link.instruct([{ ...inspect, operationId: 'op-2' }], 1);
    assert.equal(result?.result, 'Accepted');
    assert.equal(breaks(), 0);
  }));

test('what does not fit together is refused, and the certificates before stay in force', () =>
  withPair({}, async ({ room, server, pool, link }, ca) => {
    const [one, other] = [await ca.issue('bitvisor-operator'), await ca.issue('bitvisor-operator')];
    const torn = { caPem: ca.caPem, certPem: one.certPem, keyPem: other.keyPem };
    assert.throws(() => pool.renew(torn), /key values mismatch/);
    assert.throws(() => server.renewTls(torn), /key values mismatch/);
    assert.throws(() => pool.renew({ ...torn, ...one, caPem: 'half a file' }));
    await untilReal(() => link.state().synced, room);
    assert.equal((await link.instruct([inspect], 1))[0]?.result, 'Accepted');
  }));

test('an agent whose certificate ends while its stream stands is cut off with that reason, and comes back with a new one', async () => {
  const ca = await sharedCa();
  const agent = await ca.issue('agent', ['rack-0'], 2_000);
  await withPair({ agent }, async ({ room, server, link }) => {
    await untilReal(() => link.state().synced, room);
    await untilReal(() => link.state().lastError !== undefined, room);
    assert.equal(link.state().lastError?.reason, 'Untrusted');
    assert.match(link.state().lastError?.message ?? '', /certificate has expired/);
    await assert.rejects(link.instruct([inspect], 1), { reason: 'Untrusted' });
    assert.equal(link.nodes.size, 1, 'what was observed stays');
    server.renewTls({ caPem: ca.caPem, ...(await ca.issue('agent', ['rack-0'])) });
    await untilReal(() => link.state().synced, room);
    assert.equal(link.state().lastError, undefined);
  });
});

test('an operator whose certificate ends is refused in both of its connections, and works again with a new one', async () => {
  const ca = await sharedCa();
  const operator = await ca.issue('bitvisor-operator', [], 2_000);
  await withPair({ operator }, async ({ room, pool, link }) => {
    await untilReal(() => link.state().synced, room);
    await link.instruct([inspect], 1);
    await untilReal(() => link.state().lastError?.reason === 'Untrusted', room);
    assert.match(link.state().lastError?.message ?? '', /certificate.*(expired|ended)/i);
    await assert.rejects(link.instruct([{ ...inspect, operationId: 'op-2' }], 1), { reason: 'Untrusted' });
    pool.renew({ caPem: ca.caPem, ...(await ca.issue('bitvisor-operator')) });
    await untilReal(() => link.state().synced, room);
  });
});

test('a CA is replaced on both sides, and who was vouched for by the old one alone is cut off', async () => {
  const ca = await sharedCa();
  const next = await makeTestCa('next CA');
  const both = `${ca.caPem}\n${next.caPem}`;
  await withPair({}, async ({ room, server, pool, link }) => {
    await untilReal(() => link.state().synced, room);
    const agents = [await ca.issue('agent', ['rack-0']), await next.issue('agent', ['rack-0'])] as const;
    const operators = [await ca.issue('bitvisor-operator'), await next.issue('bitvisor-operator')] as const;
    pool.renew({ caPem: both, ...operators[0] });
    server.renewTls({ caPem: both, ...agents[0] });
    await untilReal(() => link.state().synced, room);
    pool.renew({ caPem: both, ...operators[1] });
    server.renewTls({ caPem: both, ...agents[1] });
    server.renewTls({ caPem: next.caPem, ...agents[1] });
    pool.renew({ caPem: next.caPem, ...operators[1] });
    await untilReal(() => link.state().synced, room);
    assert.equal((await link.instruct([inspect], 1))[0]?.result, 'Accepted');
    pool.renew({ caPem: ca.caPem, ...operators[1] });
    await untilReal(() => link.state().lastError?.reason === 'Untrusted', room);
  });
});

test('a CA that is none is a reason that is shown, and nobody is believed by it', () =>
  withPair({}, async ({ server, pool }) => {
    const acceptedNodes = new Set(['n0']);
    const address = { name: 'rack-0', endpoint: server.endpoint, serverName: 'rack-0', acceptedNodes };
    const link = pool.connect({ ...address, caPem: '-----BEGIN CERTIFICATE-----\nhalf a' });
    try {
      assert.deepEqual([link.state().lastError?.reason, link.state().connected], ['Untrusted', false]);
      assert.match(
        link.state().lastError?.message ?? '',
        /the CA that it is to be trusted by: it holds no certificate/,
      );
    } finally {
      link.close();
    }
  }));

/** Agents that send rubbish, flood, lie or are somebody else; and clients that an agent must not serve. */
import assert from 'node:assert/strict';
import type { ServerResponse } from 'node:http';
import { createServer, request, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { startAgentServer } from '../../agent/server.ts';
import type { FloodBound } from '../../controller/agents/lines.ts';
import type { AgentErrorReason } from '../../controller/agents/port.ts';
import type { Hello, Instruction } from '../../controller/api/protocol.generated.ts';
import { systemClock } from '../../controller/runtime/clock.ts';
import { AgentNetwork, sharedCa, untilReal } from '../support/agent-network.ts';
import { AgentRoom, steps } from '../support/agent-room.ts';
import { makeTestCa } from '../support/test-ca.ts';

const hello: Hello = {
  type: 'hello',
  seq: 1,
  protocol: 'bitvisor.io/agent/v1',
  agent: 'rack-0',
  version: 'hostile',
  bootNonce: 'boot-1',
  storeId: 'store-1',
  highestTerm: 0,
  capabilities: [],
  resumed: false,
};
const line = (value: unknown): string => `${JSON.stringify(value)}\n`;

interface Hostile {
  readonly endpoint: string;
  /** Requests for observations so far. */
  dials(): number;
  close(): void;
}

/** An HTTPS server under the agent's certificate that says what a test makes it say. */
async function hostile(say: (response: ServerResponse, url: string) => void): Promise<Hostile> {
  const ca = await sharedCa();
  const { certPem, keyPem } = await ca.issue('agent', ['rack-0']);
  let dials = 0;
  const server: Server = createServer(
    { ca: ca.caPem, cert: certPem, key: keyPem, requestCert: true },
    (incoming, response) => {
      dials++;
      response.on('error', () => {});
      say(response, incoming.url ?? '');
    },
  );
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    endpoint: `https://127.0.0.1:${(server.address() as AddressInfo).port}`,
    dials: () => dials,
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}

async function cutOff(
  say: (response: ServerResponse, url: string) => void,
  reason: AgentErrorReason,
  message: RegExp,
  flood?: FloodBound,
): Promise<void> {
  const network = new AgentNetwork(await sharedCa());
  const peer = await hostile(say);
  try {
    const link = await network.link(['n0'], {
      endpoint: peer.endpoint,
      faster: 10,
      ...(flood === undefined ? {} : { flood }),
    });
    await untilReal(() => link.state().lastError !== undefined);
    assert.equal(link.state().lastError?.reason, reason);
    assert.match(link.state().lastError?.message ?? '', message);
    assert.deepEqual([link.state().connected, link.state().synced], [false, false]);
    // It is dialled again, but not at once.
    assert.equal(peer.dials(), 1);
    await untilReal(() => peer.dials() === 2);
  } finally {
    await network.close();
    peer.close();
  }
}

test('what is no JSON is cut off', () => cutOff((out) => out.write('HELO\n'), 'Protocol', /not JSON/));

test('a line with an unknown field is cut off, and the field is named', () =>
  cutOff((out) => out.write(line({ ...hello, admin: true })), 'Protocol', /admin/));

test('a stream that does not begin with hello is cut off', () =>
  cutOff((out) => out.write(line({ type: 'synced', seq: 1 })), 'Protocol', /instead of hello/));

test('another protocol version is named', () =>
  cutOff((out) => out.write(line({ ...hello, protocol: 'bitvisor.io/agent/v9' })), 'Protocol', /agent\/v9/));

test('a resumption that nobody asked for is cut off', () =>
  cutOff((out) => out.write(line({ ...hello, resumed: true })), 'Protocol', /another boot nonce/));

test('a line without an end is cut off at its bound', () =>
  cutOff((out) => out.write(`${line(hello)}"${'x'.repeat(300_000)}`), 'Protocol', /longer than/));

test('a flood of lines is cut off', () =>
  cutOff(
    (out) => out.write(line(hello) + line({ type: 'synced', seq: 1 }).repeat(2_000)),
    'Protocol',
    /flooded.*lines/,
    { linesPerSecond: 10, burstLines: 1_000, bytesPerSecond: 1e9, burstBytes: 1e9 },
  ));

test('a flood of bytes is cut off', () =>
  cutOff((out) => out.write(line(hello) + 'x'.repeat(100_000)), 'Protocol', /flooded.*bytes/, {
    linesPerSecond: 10,
    burstLines: 1_000,
    bytesPerSecond: 10,
    burstBytes: 50_000,
  }));

test('an answer that is no stream is an error', () =>
  cutOff(
    (out) => {
      out.statusCode = 404;
      out.end('what?');
    },
    'Protocol',
    /404/,
  ));

test('silence is the end of a stream', () =>
  cutOff((out) => out.write(line(hello)), 'Unavailable', /nothing was heard for 15 s/));

test('strangers are named up to a bound, and only counted beyond', async () => {
  const room = new AgentRoom({ nodes: Array.from({ length: 200 }, (_, index) => `s${index}`) });
  const network = new AgentNetwork(await sharedCa());
  try {
    await network.serve(room.core);
    const link = await network.link(['s7']);
    await untilReal(() => link.state().synced, room);
    assert.deepEqual([...link.nodes.keys()], ['s7']);
    assert.equal(link.state().strangers.length, 64);
    assert.ok(link.state().strangerLines >= 199);
  } finally {
    await network.close();
    room.close();
  }
});

test('an agent is not believed under another name or another CA, and gets no instruction', async () => {
  const room = new AgentRoom();
  const network = new AgentNetwork(await sharedCa());
  try {
    const { endpoint } = await network.serve(room.core);
    const instruction: Instruction = { operationId: 'op-1', node: 'n0', epoch: 1, verb: 'fence' };
    const otherCa = await makeTestCa('other CA');
    const wrongName = await network.link(['n0'], { serverName: 'rack-1' });
    const identity = await network.ca.issue('bitvisor-operator');
    const strangeAgent = new AgentNetwork(otherCa);
    const wrongCa = await strangeAgent.link(['n0'], { endpoint });
    for (const link of [wrongName, wrongCa]) {
      await untilReal(() => link.state().lastError !== undefined);
      assert.equal(link.state().lastError?.reason, 'Untrusted');
      await assert.rejects(link.instruct([instruction], 1), { reason: 'Untrusted' });
    }
    assert.ok(identity.certPem);
    assert.equal(room.seen().record.epoch, 0);
    await strangeAgent.close();
  } finally {
    await network.close();
    room.close();
  }
});

test('a client that is not the operator gets nothing from an agent', async () => {
  const room = new AgentRoom();
  const network = new AgentNetwork(await sharedCa());
  try {
    await network.serve(room.core);
    const instruction: Instruction = { operationId: 'op-1', node: 'n0', epoch: 1, verb: 'fence' };
    const somebody = await network.link(['n0'], { commonName: 'somebody' });
    const forged = await network.link(['n0'], { ca: await makeTestCa('other CA') });
    for (const link of [somebody, forged]) {
      await assert.rejects(link.instruct([instruction], 1), (error: { reason?: string }) => error.reason !== undefined);
      await untilReal(() => link.state().lastError !== undefined);
      assert.equal(link.nodes.size, 0);
    }
    assert.equal(somebody.state().lastError?.reason, 'Untrusted');
    assert.equal(room.seen().record.epoch, 0);
  } finally {
    await network.close();
    room.close();
  }
});

test('a rubbish answer is a Protocol error; an answer that never comes is Unknown', async () => {
  const network = new AgentNetwork(await sharedCa());
  const instruction: Instruction = { operationId: 'op-1', node: 'n0', epoch: 1, verb: 'fence' };
  const result = { operationId: 'op-2', node: 'n0', result: 'Accepted' };
  const rubbish = await hostile((out) =>
    out.end(JSON.stringify({ bootNonce: 'b', highestTerm: 1, results: [result] })),
  );
  const mute = await hostile((out, url) => {
    if (url.includes('instructions')) out.destroy();
  });
  try {
    const link = await network.link(['n0'], { endpoint: rubbish.endpoint });
    await assert.rejects(link.instruct([instruction], 1), { reason: 'Protocol' });
    const unanswered = await network.link(['n0'], { endpoint: mute.endpoint });
    await assert.rejects(unanswered.instruct([instruction], 1), { reason: 'Unknown' });
  } finally {
    await network.close();
    rubbish.close();
    mute.close();
  }
});

test('an agent refuses a bad body with a sentence, and one bad instruction by itself', async () => {
  const room = new AgentRoom();
  const ca = await sharedCa();
  const agent = await ca.issue('agent', ['rack-0']);
  const operator = await ca.issue('bitvisor-operator');
  const server = await startAgentServer({
    core: room.core,
    host: '127.0.0.1',
    port: 0,
    tls: { caPem: ca.caPem, ...agent },
    operator: { commonName: 'bitvisor-operator' },
    clock: systemClock,
  });
  const post = (body: string): Promise<{ status: number; text: string }> =>
    new Promise((resolve, reject) => {
      const posted = request(
        `${server.endpoint}/v1/instructions`,
        {
          method: 'POST',
          ca: ca.caPem,
          cert: operator.certPem,
          key: operator.keyPem,
          servername: 'rack-0',
          agent: false,
        },
        (response) => {
          let text = '';
          response.setEncoding('utf8');
          response.on('data', (part: string) => {
            text += part;
          });
          response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
        },
      );
      posted.on('error', reject);
      posted.end(body);
    });
  try {
    const fence = { operationId: 'op-1', node: 'n0', epoch: 1, ...steps.fence };
    assert.equal((await post('{')).status, 400);
    assert.match((await post(JSON.stringify({ term: 0, instructions: [] }))).text, /term/);
    const many = Array.from({ length: 1_025 }, () => fence);
    assert.match((await post(JSON.stringify({ term: 1, instructions: many }))).text, /1025 instructions/);
    const mixed = [{ ...fence, verb: 'explode' }, { ...fence, epoch: -1 }, fence];
    const { status, text } = await post(JSON.stringify({ term: 1, instructions: mixed }));
    assert.equal(status, 200);
    const { results } = JSON.parse(text) as { results: { result: string; reason?: string; message?: string }[] };
    assert.deepEqual(
      results.map(({ result, reason }) => [result, reason]),
      [
        ['Refused', 'Invalid'],
        ['Refused', 'Invalid'],
        ['Accepted', undefined],
      ],
    );
    assert.match(results[1]?.message ?? '', /epoch/);
  } finally {
    await server.close();
    room.close();
  }
});

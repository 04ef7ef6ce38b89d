/** Connections that nobody closes, and connections by the thousand. */
import assert from 'node:assert/strict';
import { connect, type Socket } from 'node:net';
import { test } from 'node:test';
import { connect as tlsConnect } from 'node:tls';
import type { AgentLink } from '../../controller/agents/port.ts';
import type { Instruction } from '../../controller/api/protocol.generated.ts';
import { AgentNetwork, sharedCa, untilReal } from '../support/agent-network.ts';
import { AgentRoom } from '../support/agent-room.ts';
import { FrozenRelay } from '../support/frozen-relay.ts';
import { makeTestCa } from '../support/test-ca.ts';

const inspect: Instruction = { operationId: 'op-1', node: 'n0', epoch: 1, verb: 'inspect' };

test('a connection that went dead without a word is noticed on both sides, and another takes its place', async () => {
  const room = new AgentRoom();
  const network = new AgentNetwork(await sharedCa());
  const { endpoint } = await network.serve(room.core, { faster: 10 });
  const relay = await FrozenRelay.before(endpoint);
  try {
    const link = await network.link(['n0'], { endpoint: relay.endpoint, faster: 10 });
    await untilReal(() => link.state().synced, room);
    relay.freeze();
    await untilReal(() => !link.state().connected);
    assert.match(link.state().lastError?.message ?? '', /nothing was heard for 15 s/);
    await untilReal(() => link.state().synced, room);
    await untilReal(() => relay.givenUp() === relay.frozen());
    assert.equal(relay.frozen(), 1);
  } finally {
    relay.close();
    await network.close();
    room.close();
  }
});

test('a reader without a sign of life of its own is served, and the oldest of too many makes room', async () => {
  const room = new AgentRoom();
  const network = new AgentNetwork(await sharedCa());
  try {
    await network.serve(room.core);
    const links: AgentLink[] = [];
    for (let index = 0; index < 8; index++) {
      const link = await network.link(['n0']);
      links.push(link);
      await untilReal(() => link.state().synced, room);
    }
    const ninth = await network.link(['n0']);
    await untilReal(() => ninth.state().synced && links.some((link) => !link.state().connected), room);
    assert.deepEqual(
      links.map((link) => link.state().connected),
      [false, true, true, true, true, true, true, true],
    );
  } finally {
    await network.close();
    room.close();
  }
});

test('thousands of strangers do not keep the operator out, nor cut it off', async () => {
  const room = new AgentRoom();
  const network = new AgentNetwork(await sharedCa());
  const sockets = new Set<Socket>();
  const keep = (socket: Socket): void => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
  };
  try {
    const { endpoint } = await network.serve(room.core);
    const port = Number(new URL(endpoint).port);
    const old = await network.link(['n0']);
    await untilReal(() => old.state().synced, room);
    let opened = 0;
    const open = (): Promise<void> =>
      new Promise((resolve) => {
        const socket = connect(port, '127.0.0.1', () => resolve());
        socket.on('error', () => resolve());
        keep(socket);
        opened++;
      });
    while (opened < 2_000) await Promise.all(Array.from({ length: 50 }, open));
    assert.ok(sockets.size > 0);
    await untilReal(() => sockets.size <= 256, room);
    const fresh = await network.link(['n0']);
    await untilReal(() => fresh.state().synced, room);
    assert.equal((await fresh.instruct([inspect], 1))[0]?.result, 'Accepted');
    assert.equal(old.state().connected, true);
    assert.equal((await old.instruct([{ ...inspect, operationId: 'op-2' }], 1))[0]?.result, 'Accepted');
  } finally {
    for (const socket of sockets) socket.destroy();
    await network.close();
    room.close();
  }
});

test('a certificate of another CA gives no place among those that are known', async () => {
  const room = new AgentRoom();
  const network = new AgentNetwork(await sharedCa());
  const stranger = await (await makeTestCa('other CA')).issue('bitvisor-operator');
  try {
    const { endpoint } = await network.serve(room.core);
    const socket = tlsConnect({
      port: Number(new URL(endpoint).port),
      host: '127.0.0.1',
      servername: 'rack-0',
      ca: network.ca.caPem,
      cert: stranger.certPem,
      key: stranger.keyPem,
    });
    let closed = false;
    socket.on('error', () => {});
    socket.on('close', () => {
      closed = true;
    });
    await untilReal(() => closed);
    const link = await network.link(['n0']);
    await untilReal(() => link.state().synced, room);
  } finally {
    await network.close();
    room.close();
  }
});

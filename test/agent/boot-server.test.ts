/** The boot server against machines that break off, dawdle, or come in a crowd. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { type TestContext, test } from 'node:test';
import { type BootHandler, startBootServer } from '../../agent/drivers/boot/boot-server.ts';
import { until } from './image/cache-support.ts';

async function bootServer(t: TestContext): Promise<{ from(address: string): Socket; path: string }> {
  const directory = mkdtempSync(join(tmpdir(), 'boot-'));
  const path = join(directory, 'initrd');
  writeFileSync(path, Buffer.alloc(32 << 20));
  const handler: BootHandler = {
    boot: async () => ({ script: 'exit\n' }),
    file: () => ({ path, trailer: Buffer.from('end') }),
    trusted: async () => false,
  };
  const others = { ...handler };
  const listener = createServer();
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const handlerOf = ({ remoteAddress }: Socket): BootHandler => (remoteAddress === '127.0.0.2' ? others : handler);
  const server = startBootServer([{ listener, handlerOf }], (error) => assert.fail(String(error)));
  const sockets: Socket[] = [];
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
    rmSync(directory, { recursive: true });
  });
  const { port } = listener.address() as AddressInfo;
  return {
    path,
    from(localAddress) {
      const socket = connect({ port, host: '127.0.0.1', localAddress });
      socket.on('error', () => {});
      sockets.push(socket);
      return socket;
    },
  };
}

const request = 'GET /boot/id/initrd HTTP/1.1\r\nhost: boot\r\n\r\n';

function openTimes(path: string): number {
  const targets = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return '';
    }
  });
  return targets.filter((target) => target === path).length;
}

test('a machine whose power is cut in the middle of a file leaves none open', {
  skip: process.platform !== 'linux',
}, async (t) => {
  const { from, path } = await bootServer(t);
  for (let time = 0; time < 10; time++) {
    const socket = from('127.0.0.1');
    socket.write(request);
    await once(socket, 'data');
    socket.destroy();
  }
  await until(() => openTimes(path) === 0);
});

test('a machine that holds many connections keeps no other from booting', async (t) => {
  const { from } = await bootServer(t);
  const answerTo = async (address: string): Promise<string> => {
    const socket = from(address);
    socket.write('GET /boot.ipxe HTTP/1.1\r\nhost: boot\r\n\r\n');
    const parts: Buffer[] = [];
    socket.on('data', (part: Buffer) => parts.push(part));
    await once(socket, 'close');
    return Buffer.concat(parts).toString();
  };
  const crowd = Array.from({ length: 60 }, () => from('127.0.0.2').resume());
  await until(() => crowd.filter((socket) => socket.closed).length >= 28);
  assert.match(await answerTo('127.0.0.1'), /^HTTP\/1\.1 200/);
  assert.equal(await answerTo('127.0.0.2'), '');
  // Their places are free again once they are gone.
  for (const one of crowd) one.destroy();
  await until(async () => (await answerTo('127.0.0.2')) !== '');
});

test('a request that does not come to its end is given up', async (t) => {
  const { from } = await bootServer(t);
  const socket = from('127.0.0.1');
  socket.write('GET /boot.ipxe HTTP/1.1\r\n');
  const timer = setInterval(() => socket.write('x: y\r\n'), 200);
  t.after(() => clearInterval(timer));
  socket.resume();
  await once(socket, 'close');
});

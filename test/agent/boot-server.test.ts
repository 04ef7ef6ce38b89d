/** The boot server against machines that break off, dawdle, or come in a crowd. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readlinkSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { text } from 'node:stream/consumers';
import { type TestContext, test } from 'node:test';
import { type BootHandler, startBootServer } from '../../agent/drivers/boot/boot-server.ts';
import { loaderFile } from '../../agent/drivers/boot/loaders.ts';
import { until } from './image/cache-support.ts';

async function bootServer(t: TestContext): Promise<{ from(address: string): Socket; path: string; directory: string }> {
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
  const firmware = { root: directory, bios: 'undionly.kpxe', uefi: 'ipxe.efi' };
  const loaderOf = (_socket: Socket, name: string): string | undefined => loaderFile(firmware, name);
  const server = startBootServer([{ listener, handlerOf, loaderOf }], (error) => assert.fail(String(error)));
  const sockets: Socket[] = [];
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
    rmSync(directory, { recursive: true });
  });
  const { port } = listener.address() as AddressInfo;
  return {
    path,
    directory,
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

test('firmware is sent its loader, after its length over the same connection, and nothing else that lies beside it', async (t) => {
  const { from, directory } = await bootServer(t);
  const path = join(directory, 'ipxe.efi');
  const socket = from('127.0.0.1');
  let heard = '';
  socket.on('data', (part: Buffer) => {
    heard += part.toString('latin1');
  });
  const ask = (method: string, place: string): void =>
    void socket.write(`${method} ${place} HTTP/1.1\r\nhost: boot\r\n\r\n`);
  writeFileSync(path, 'MZ and the rest of it');
  ask('HEAD', '/firmware/x64.efi');
  await until(() => heard.endsWith('\r\n\r\n'));
  assert.match(heard, /^HTTP\/1\.1 200 .*content-length: 21\r\ncontent-type: application\/efi\r\n/s);
  ask('GET', '/firmware/x64.efi');
  await once(socket, 'close');
  assert.match(heard, /\r\n\r\nHTTP\/1\.1 200 .*connection: close\r\n.*\r\n\r\nMZ and the rest of it$/s);

  const statusOf = async (method: string, place: string): Promise<string> => {
    const other = from('127.0.0.1');
    const whole = text(other);
    other.write(`${method} ${place} HTTP/1.1\r\nhost: boot\r\ncontent-length: 0\r\n\r\n`);
    return (await whole).slice(9, 12);
  };
  const refused = ['arm64.efi', 'ipxe.efi', 'initrd', '..%2Finitrd', '%2e%2e/initrd', ''];
  for (const name of refused) assert.equal(await statusOf('GET', `/firmware/${name}`), '404', name);
  for (const method of ['PUT', 'POST', 'DELETE'])
    assert.equal(await statusOf(method, '/firmware/x64.efi'), '404', method);
  // Neither is an error that is logged: a machine asks as often as it likes.
  truncateSync(path, (32 << 20) + 1);
  assert.equal(await statusOf('GET', '/firmware/x64.efi'), '404', 'no loader is so long');
  rmSync(path);
  assert.equal(await statusOf('HEAD', '/firmware/x64.efi'), '404');
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

/** The NBD server against clients that others wrote: libnbd's tools and QEMU's. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { RackCache } from '../../../agent/image/cache.ts';
import { type NbdServer, startNbdServer } from '../../../agent/image/nbd-server.ts';
import type { ExportedImage } from '../../../agent/image/nbd-session.ts';
import { descriptorBytes, digestOf } from '../../../agent/image/tree.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { seededRandom } from '../../../controller/runtime/random.ts';
import { needs } from '../../support/programs.ts';
import { until } from '../../support/until.ts';
import { kib, mib, noise, startOrigin, treeFileOf } from './support.ts';

const run = promisify(execFile);
const clients = needs('nbdinfo', 'nbdcopy', 'qemu-img', 'qemu-io');

/** An image of bytes in memory. */
function exported(image: Buffer, blockBytes = 64 * kib): ExportedImage {
  const zeros = Buffer.alloc(blockBytes);
  const zero = (start: number, end: number): boolean =>
    image.subarray(start, end).equals(zeros.subarray(0, end - start));
  const parts = (offset: number, length: number): { bytes: number; isZero: boolean; start: number }[] => {
    const found = [];
    for (let at = offset; at < offset + length; ) {
      const end = Math.min(offset + length, (Math.floor(at / blockBytes) + 1) * blockBytes);
      found.push({ bytes: end - at, isZero: zero(at, end), start: at });
      at = end;
    }
    return found;
  };
  return {
    sizeBytes: image.length,
    blockBytes,
    pieces: async (offset, length) =>
      parts(offset, length).map(({ bytes, isZero, start }) =>
        isZero ? { bytes } : { bytes, data: image.subarray(start, start + bytes) },
      ),
    extents: (offset, length) => parts(offset, length).map(({ bytes, isZero }) => ({ bytes, isZero })),
  };
}

interface Setup {
  readonly server: NbdServer;
  readonly directory: string;
  readonly socketPath: string;
  readonly errors: unknown[];
  uri(name: string): string;
}

async function setup(t: TestContext, options: { rateBytes?: number; stallMs?: number } = {}): Promise<Setup> {
  const directory = await mkdtemp(join(tmpdir(), 'nbd-'));
  const socketPath = join(directory, 'socket');
  const errors: unknown[] = [];
  const server = await startNbdServer({
    listen: { socketPath },
    clock: systemClock,
    onError: (error) => errors.push(error),
    ...options,
  });
  t.after(async () => {
    await server.close();
    await rm(directory, { recursive: true });
  });
  return { server, directory, socketPath, errors, uri: (name) => `nbd+unix:///${name}?socket=${socketPath}` };
}

function holed(bytes: number): Buffer {
  const image = noise(bytes, 21);
  image.fill(0, mib, 3 * mib);
  image.fill(0, bytes - 200 * kib);
  return image;
}

test('libnbd reads the image, its size, its zeros, and that it is read-only', clients, async (t) => {
  const image = holed(8 * mib + 512);
  const { server, directory, uri, errors } = await setup(t);
  server.add('n0-secret', { image: exported(image) });
  const info = JSON.parse((await run('nbdinfo', ['--json', uri('n0-secret')])).stdout);
  assert.equal(info.structured, true);
  assert.equal(info.exports[0]['export-size'], image.length);
  assert.equal(info.exports[0].is_read_only, true);
  assert.equal(info.exports[0].can_multi_conn, true);
  assert.equal(info.exports[0].block_size_preferred, 64 * kib);
  const map = JSON.parse((await run('nbdinfo', ['--map', '--json', uri('n0-secret')])).stdout);
  assert.deepEqual(
    map.slice(0, 3).map(({ offset, length, type }: Record<string, number>) => ({ offset, length, type })),
    [
      { offset: 0, length: mib, type: 0 },
      { offset: mib, length: 2 * mib, type: 3 },
      { offset: 3 * mib, length: 5 * mib - 192 * kib, type: 0 },
    ],
  );
  for (const extra of [
    [],
    ['--synchronous'],
    ['--connections=4', '--requests=32', '--request-size=2097152'],
    ['--no-extents'],
  ]) {
    await run('nbdcopy', [...extra, uri('n0-secret'), join(directory, 'copy')]);
    assert.ok((await readFile(join(directory, 'copy'))).equals(image), extra.join(' '));
  }
  assert.deepEqual(errors, []);
});

test(
  'names are not listed, an unknown one is refused, and the size of one is told to who knows it',
  clients,
  async (t) => {
    const { server, uri } = await setup(t);
    server.add('n0-secret', { image: exported(holed(4 * mib)) });
    await assert.rejects(run('nbdinfo', ['--list', uri('')]), /not listed|policy|list/i);
    await assert.rejects(run('nbdinfo', [uri('n1-guess')]), /No such file|no such export/);
    await assert.rejects(run('nbdinfo', [uri('')]), /No such file|no such export/);
    assert.equal((await run('nbdinfo', ['--size', uri('n0-secret')])).stdout.trim(), String(4 * mib));
  },
);

test('QEMU reads the image, finds its holes, and cannot write', clients, async (t) => {
  const image = holed(8 * mib);
  const { server, directory, uri } = await setup(t);
  server.add('n0', { image: exported(image) });
  const map = JSON.parse((await run('qemu-img', ['map', '--output=json', '-f', 'raw', uri('n0')])).stdout);
  assert.deepEqual(
    map.slice(0, 2).map(({ start, length, zero }: Record<string, unknown>) => ({ start, length, zero })),
    [
      { start: 0, length: mib, zero: false },
      { start: mib, length: 2 * mib, zero: true },
    ],
  );
  await run('qemu-img', ['convert', '-W', '-m', '16', '-f', 'raw', '-O', 'raw', uri('n0'), join(directory, 'copy')]);
  assert.ok((await readFile(join(directory, 'copy'))).equals(image));
  const bytes = image[5000] ?? 0;
  const { stdout } = await run('qemu-io', [
    '-r',
    '-f',
    'raw',
    '-c',
    `read -P ${bytes} 5000 1`,
    '-c',
    'read -P 0 1M 2M',
    uri('n0'),
  ]);
  assert.ok(!/Pattern verification failed/.test(stdout), stdout);
  await assert.rejects(run('qemu-io', ['-f', 'raw', '-c', 'write 0 512', uri('n0')]), /read-only|Read-only|permi/i);
});

test('an export that is removed drops its clients, and is gone when that is said', clients, async (t) => {
  const { server, uri } = await setup(t, { rateBytes: 8 * mib });
  server.add('n0', { image: exported(noise(64 * mib)) });
  server.add('n1', { image: exported(noise(mib)) });
  const copy = run('nbdcopy', [uri('n0'), 'null:']);
  const failed = assert.rejects(copy);
  await until('something is served', () => (server.state('n0')?.servedBytes ?? 0) > mib);
  assert.ok((server.state('n0')?.clients ?? 0) > 0);
  const served = server.servedBytes;
  await server.remove('n0');
  assert.equal(server.state('n0'), undefined);
  assert.ok(server.servedBytes >= served);
  await failed;
  await assert.rejects(run('nbdinfo', [uri('n0')]), /No such file|no such export/);
  await run('nbdcopy', [uri('n1'), 'null:']);
  assert.throws(() => server.add('n1', { image: exported(noise(mib)) }), /open already/);
});

test('a bandwidth is kept', clients, async (t) => {
  const rateBytes = 24 * mib;
  const { server, uri } = await setup(t, { rateBytes });
  server.add('n0', { image: exported(noise(12 * mib)) });
  server.add('n1', { image: exported(noise(12 * mib)), rateBytes: 100 * mib });
  const startedAt = performance.now();
  await Promise.all(['n0', 'n1'].map((name) => run('nbdcopy', ['--connections=4', uri(name), 'null:'])));
  const tookMs = performance.now() - startedAt;
  assert.ok(tookMs > 0.95 * 1000, `${tookMs} ms for what takes 1000 at this rate`);
});

test('the cache behind it serves eight clients for one image from the origin', clients, async (t) => {
  const image = holed(16 * mib);
  const treeFile = treeFileOf(image);
  const origin = await startOrigin({ '/image.raw': image, '/image.raw.fsverity': treeFile });
  const { server, directory, uri } = await setup(t);
  const cache = await RackCache.start({
    directory: join(directory, 'cache'),
    memoryBytes: 16 * mib,
    diskBytes: 64 * mib,
    clock: systemClock,
    random: seededRandom(1),
    policy: {},
  });
  t.after(async () => {
    await cache.close();
    await origin.stop();
  });
  const sha256 = digestOf(treeFile.subarray(0, descriptorBytes));
  const names = Array.from({ length: 8 }, (_, node) => `n${node}`);
  for (const name of names) {
    const { image: cached } = await cache.open({
      url: `${origin.url}/image.raw`,
      sha256,
      sizeBytes: image.length,
      format: 'Raw',
    });
    server.add(name, { image: cached });
  }
  await Promise.all(
    names.map(async (name) => {
      await run('nbdcopy', [uri(name), join(directory, name)]);
      assert.ok((await readFile(join(directory, name))).equals(image), name);
    }),
  );
  const sent = [...origin.sent.values()].reduce((sum, bytes) => sum + bytes, 0);
  assert.ok(sent < 1.1 * image.length, `${sent} bytes for an image of ${image.length}`);
});

test('over TCP an export answers its own address alone', async (t) => {
  const server = await startNbdServer({ listen: { host: '127.0.0.1', port: 0 }, clock: systemClock });
  t.after(() => server.close());
  server.add('n0', { image: exported(noise(mib)), from: '127.0.0.1' });
  server.add('n1', { image: exported(noise(mib)), from: '127.0.0.9' });
  const replyTo = async (name: string): Promise<number> => {
    const socket = createConnection(server.port, '127.0.0.1');
    socket.write(Buffer.concat([Buffer.from([0, 0, 0, 3]), go(name)]));
    const bytes = await received(socket, 38);
    socket.destroy();
    return bytes.readUInt32BE(18 + 12);
  };
  assert.equal(await replyTo('n0'), 3);
  assert.equal(await replyTo('n1'), 0x8000_0006);
});

test('a machine that opens connections and says nothing keeps no other machine out', async (t) => {
  const server = await startNbdServer({ listen: { host: '127.0.0.1', port: 0 }, clock: systemClock });
  t.after(() => server.close());
  server.add('n1', { image: exported(noise(mib)), from: '127.0.0.3' });
  const from = (localAddress: string): Socket =>
    createConnection({ port: server.port, host: '127.0.0.1', localAddress });
  const strangers = Array.from({ length: 100 }, () => from('127.0.0.2'));
  for (const stranger of strangers) void closed(stranger);
  await until('most strangers are sent away', () => strangers.filter((stranger) => stranger.closed).length >= 36);
  const socket = from('127.0.0.3');
  socket.write(Buffer.concat([Buffer.from([0, 0, 0, 3]), go('n1')]));
  assert.equal((await received(socket, 38)).readUInt32BE(18 + 12), 3);
  for (const one of [socket, ...strangers]) one.destroy();
});

test('a question about a gigabyte of small blocks gets a bounded answer', async (t) => {
  const { server, socketPath } = await setup(t);
  const asked: number[] = [];
  const image: ExportedImage = {
    ...{ sizeBytes: 1024 * mib, blockBytes: 4 * kib, pieces: async () => [] },
    extents(_offset, length) {
      asked.push(length / (4 * kib));
      return [{ bytes: length, isZero: true }];
    },
  };
  server.add('n0', { image });
  const name = Buffer.from('n0');
  const context = Buffer.concat([
    ...[Buffer.from([0, 0, 0, 2]), name, Buffer.from([0, 0, 0, 1, 0, 0, 0, 15]), Buffer.from('base:allocation')],
  ]);
  const socket = createConnection(socketPath);
  const options = [optionBytes(8, Buffer.alloc(0)), optionBytes(10, context), go('n0')];
  socket.write(Buffer.concat([Buffer.from([0, 0, 0, 3]), ...options, requestOf(7, 0, 1024 * mib)]));
  await until('it is asked', () => asked.length > 0);
  assert.deepEqual(asked, [16_384]);
  socket.destroy();
});

function optionBytes(of: number, data: Buffer): Buffer {
  const header = Buffer.alloc(16);
  header.write('IHAVEOPT');
  header.writeUInt32BE(of, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
}

function go(name: string): Buffer {
  const data = Buffer.alloc(6 + name.length);
  data.writeUInt32BE(name.length, 0);
  data.write(name, 4);
  return optionBytes(7, data);
}

function requestOf(type: number, offset: number, length: number, flags = 0): Buffer {
  const request = Buffer.alloc(28);
  request.writeUInt32BE(0x2560_9513, 0);
  request.writeUInt16BE(flags, 4);
  request.writeUInt16BE(type, 6);
  request.writeBigUInt64BE(BigInt(offset), 16);
  request.writeUInt32BE(length, 24);
  return request;
}

async function received(socket: Socket, atLeast: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of socket.iterator({ destroyOnReturn: false })) {
    parts.push(part);
    bytes += part.length;
    if (bytes >= atLeast) break;
  }
  return Buffer.concat(parts);
}

const closed = (socket: Socket): Promise<void> =>
  new Promise((resolve) => {
    socket.on('error', () => {});
    socket.once('close', () => resolve());
    socket.resume();
  });

test('clients that send nonsense are dropped or told so, and nobody else notices', async (t) => {
  const { server, socketPath, errors } = await setup(t);
  server.add('n0', { image: exported(noise(mib)) });
  const flags = Buffer.from([0, 0, 0, 3]);
  const dropped: readonly [string, Buffer][] = [
    ['unknown flags', Buffer.from([255, 0, 0, 3])],
    ['no option', Buffer.concat([flags, noise(64)])],
    ['an option without end', Buffer.concat([flags, optionBytes(7, Buffer.alloc(0)).fill(255, 12)])],
    [
      'options without end',
      Buffer.concat([flags, ...Array.from({ length: 100 }, () => optionBytes(8, Buffer.alloc(0)))]),
    ],
    ['an old-style name that is unknown', Buffer.concat([flags, optionBytes(1, Buffer.from('n1'))])],
    ['no request', Buffer.concat([flags, go('n0'), noise(28)])],
    ['a write without end', Buffer.concat([flags, go('n0'), requestOf(1, 0, 0xffff_ffff)])],
    ...Array.from({ length: 40 }, (_, seed): [string, Buffer] => [`noise ${seed}`, noise(4000, seed + 1)]),
    ...Array.from({ length: 40 }, (_, seed): [string, Buffer] => [
      `noise after go ${seed}`,
      Buffer.concat([flags, go('n0'), noise(4000, seed)]),
    ]),
  ];
  for (const [, bytes] of dropped) {
    const socket = createConnection(socketPath);
    socket.write(bytes);
    await closed(socket);
  }
  const answered: readonly [string, Buffer, number][] = [
    ['beyond the end', requestOf(0, mib - 1, 2), 22],
    ['far beyond the end', requestOf(0, 2 ** 52, 512), 22],
    ['nothing', requestOf(0, 0, 0), 22],
    ['a write', Buffer.concat([requestOf(1, 0, 512), Buffer.alloc(512)]), 1],
    ['a trim', requestOf(4, 0, 512), 1],
    ['an unknown command', requestOf(99, 0, 512), 22],
    ['unknown flags', requestOf(0, 0, 512, 0x80), 22],
    ['block status that was not negotiated', requestOf(7, 0, 512), 22],
    ['a flush', requestOf(3, 0, 0), 0],
    ['a read', requestOf(0, 0, 1), 0],
  ];
  for (const [what, bytes, error] of answered) {
    const socket = createConnection(socketPath);
    socket.write(Buffer.concat([flags, go('n0'), bytes]));
    // Greeting, two informations, acknowledgement, reply.
    const start = 18 + 32 + 34 + 20;
    const reply = await received(socket, start + 16);
    assert.equal(reply.readUInt32BE(start), 0x6744_6698, what);
    assert.equal(reply.readUInt32BE(start + 4), error, what);
    socket.destroy();
  }
  await until('nobody is connected', () => server.state('n0')?.clients === 0);
  assert.deepEqual(errors, []);
});

test('who reads slowly holds little and is dropped in the end; who says nothing is dropped, too', async (t) => {
  const { server, socketPath } = await setup(t, { stallMs: 200 });
  let given = 0;
  const image = exported(noise(64 * mib));
  server.add('n0', {
    image: {
      ...image,
      pieces: (offset, length) => {
        given += length;
        return image.pieces(offset, length);
      },
    },
  });
  const socket = createConnection(socketPath);
  socket.write(Buffer.concat([Buffer.from([0, 0, 0, 3]), optionBytes(8, Buffer.alloc(0)), go('n0')]));
  for (let request = 0; request < 32; request++) socket.write(requestOf(0, request * 2 * mib, 2 * mib));
  await until('a client is connected', () => server.state('n0')?.clients === 1);
  await until('nobody is connected', () => server.state('n0')?.clients === 0);
  assert.ok(given <= 16 * mib, `${given} bytes for who read none`);
  await closed(socket);
  const strangers = Array.from({ length: 70 }, () => createConnection(socketPath));
  await closed(strangers[69] as Socket);
  for (const stranger of strangers) stranger.destroy();
});

test('a socket that a killed process left is taken over, one that is served is not', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'nbd-'));
  t.after(() => rm(directory, { recursive: true }));
  const socketPath = join(directory, 'socket');
  await writeFile(socketPath, '');
  const server = await startNbdServer({ listen: { socketPath }, clock: systemClock });
  await assert.rejects(startNbdServer({ listen: { socketPath }, clock: systemClock }), /EADDRINUSE/);
  await server.close();
});

/** Origins that are away, lie, redirect, know no ranges, or are not allowed. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { ImageError, type ImageSpec } from '../../../agent/image/acquire.ts';
import { descriptorBytes, digestOf, sha256 } from '../../../agent/image/tree.ts';
import { bench, readWhole, until } from './cache-support.ts';
import { mib, noise, treeFileOf } from './support.ts';

test('a corrupted chunk on the way is refused, seen by nobody and fetched again', async (t) => {
  const image = noise(4 * mib);
  const { origin, start, spec, faults } = await bench(t, image);
  const cache = await start();
  const handle = await cache.open(spec());
  let corrupted = 0;
  origin.misbehave = (request, response, body) => {
    if (!request.headers.range || body.length < 1000 || ++corrupted % 2 === 0) return undefined;
    const bad = Buffer.from(body);
    bad[bad.length >> 1] = (bad[bad.length >> 1] ?? 0) ^ 0x40;
    const [, range] = request.headers.range.toString().split('=');
    response
      .writeHead(206, { 'content-length': bad.length, 'content-range': `bytes ${range}/${image.length}` })
      .end(bad);
    return 'Done';
  };
  assert.ok((await readWhole(handle)).equals(image));
  assert.ok(cache.counters.corruptFromOrigin >= 2, `${cache.counters.corruptFromOrigin} chunks`);
  assert.match(faults.join('\n'), /block \d+ from http:.*is not what the digest names/);
});

test('reads wait while the origin is away, and go on when it returns', async (t) => {
  const image = noise(6 * mib);
  const { origin, start, spec } = await bench(t, image);
  const cache = await start();
  const handle = await cache.open(spec());
  await handle.image.read(0, mib);
  await origin.stop();
  const waiting = readWhole(handle);
  await until(() => cache.counters.originFaults > 5);
  await origin.start();
  assert.ok((await waiting).equals(image));
});

test('answers that break off, 503 and other parts than asked for are asked for again', async (t) => {
  const image = noise(8 * mib);
  const { origin, start, spec } = await bench(t, image);
  const handle = await (await start()).open(spec());
  let asked = 0;
  origin.misbehave = (_request, response, body) => {
    asked++;
    if (asked % 5 === 1) {
      response.writeHead(503).end();
      return 'Done';
    }
    if (asked % 5 === 2) {
      response.writeHead(206, {
        'content-length': body.length,
        'content-range': `bytes 0-${body.length - 1}/${image.length}`,
      });
      response.write(body.subarray(0, body.length >> 1), () => response.destroy());
      return 'Done';
    }
    if (asked % 5 === 3) {
      response.writeHead(206, { 'content-length': 3, 'content-range': `bytes 512-514/${image.length}` }).end('abc');
      return 'Done';
    }
    return undefined;
  };
  assert.ok((await readWhole(handle)).equals(image));
});

test('a tree that the digest does not name is not trusted', async (t) => {
  const image = noise(2 * mib);
  const { origin, start, spec } = await bench(t, image);
  const other = noise(2 * mib, 77);
  origin.files.set('/image.raw.fsverity', treeFileOf(other));
  origin.files.set('/image.raw', other);
  const cache = await start();
  await assert.rejects(cache.open(spec()), (error: unknown) => {
    assert.ok(error instanceof ImageError);
    assert.equal(error.fault, 'DigestMismatch');
    assert.equal(error.found, sha256(other).toString('hex'));
    return true;
  });
  // The same by the digest of the bytes.
  await assert.rejects(cache.open(spec({ sha256: sha256(image).toString('hex') })), { fault: 'DigestMismatch' });
  assert.equal(cache.diskBytes, 0);
  origin.files.set('/image.raw', image);
  await (await cache.open(spec({ sha256: sha256(image).toString('hex') }))).close();
});

test('what cannot be served is refused with a sentence', async (t) => {
  const image = noise(2 * mib);
  const { origin, start, spec, directory } = await bench(t, image);
  const cache = await start({ patienceMs: 50 });
  const refused = async (change: Partial<ImageSpec>, message: RegExp): Promise<void> => {
    await assert.rejects(cache.open(spec(change)), (error: unknown) => {
      assert.ok(error instanceof ImageError, String(error));
      assert.match(error.message, message);
      return true;
    });
  };
  await refused({ url: `${origin.url}/none.raw` }, /none\.raw: the server answered 404/);
  await refused({ url: 'http://127.0.0.1:1/image.raw' }, /127\.0\.0\.1:1.*ECONNREFUSED/);
  await refused({ url: 'ftp://host/image.raw' }, /use http/);
  await refused({ url: 'http://me:secret@host/image.raw' }, /user name or a password/);
  await refused({ url: 'nothing' }, /no URL/);
  await refused({ format: 'Qcow2' }, /Raw, not Qcow2/);
  await refused({ sizeBytes: mib }, /2097152 bytes.*1048576/);
  await refused({ url: 'file:///etc/passwd' }, /not in a directory that this rack serves/);
  await refused({ url: `file://${directory}/../../etc/passwd` }, /not in a directory|does not exist/);
  await refused({ url: `file://${directory}/none` }, /does not exist/);
  origin.files.set('/odd.raw', noise(1000));
  await refused({ url: `${origin.url}/odd.raw` }, /no disk/);
  origin.misbehave = (request, response) => {
    response.writeHead(302, { location: request.url }).end();
    return 'Done';
  };
  await refused({}, /more than 5 redirects/);
});

test('redirects are followed, files are read by path, and prefixes hold', async (t) => {
  const image = noise(2 * mib);
  const { origin, start, spec, directory } = await bench(t, image);
  const cache = await start({ policy: { directories: [directory], prefixes: [`${origin.url}/`] } });
  origin.misbehave = (request, response) => {
    if (!request.url?.startsWith('/old')) return undefined;
    response.writeHead(307, { location: request.url.replace('/old', '/image') }).end();
    return 'Done';
  };
  origin.files.set('/old.raw', image);
  origin.files.set('/old.raw.fsverity', image);
  const handle = await cache.open(spec({ url: `${origin.url}/old.raw` }));
  assert.ok((await readWhole(handle)).equals(image));
  await handle.close();
  for (const url of [
    'http://127.0.0.2/image.raw',
    `${origin.url.slice(0, -1)}/image.raw`,
    'https://127.0.0.1.evil.example/image.raw',
  ]) {
    await assert.rejects(cache.open(spec({ url })), /takes images from http/, url);
  }
  const narrow = await start({ policy: { prefixes: [`${origin.url}/image`] } });
  await assert.rejects(narrow.open(spec()), /takes images from http/, 'a path is compared by its parts');
  await symlink('/etc/passwd', join(directory, 'link.raw'));
  await assert.rejects(
    cache.open(spec({ url: `file://${directory}/link.raw`, sha256: 'ab'.repeat(32) })),
    /not in a directory that this rack/,
  );
  const other = noise(mib, 5);
  await writeFile(join(directory, 'local.raw'), other);
  await writeFile(join(directory, 'local.raw.fsverity'), treeFileOf(other));
  const local = await cache.open({
    url: `file://${directory}/local.raw`,
    sha256: digestOf(treeFileOf(other).subarray(0, descriptorBytes)),
    sizeBytes: mib,
    format: 'Raw',
  });
  assert.ok((await readWhole(local)).equals(other));
});

test('a redirect leads only where an address may lead', async (t) => {
  const image = noise(2 * mib);
  const { origin, start, spec } = await bench(t, image);
  let asked = 0;
  const elsewhere = createServer((_request, response) => {
    asked++;
    response.end('what a tenant is not to see');
  });
  elsewhere.listen(0, '127.0.0.1');
  await once(elsewhere, 'listening');
  t.after(() => elsewhere.close());
  const inner = `http://127.0.0.1:${(elsewhere.address() as AddressInfo).port}`;
  const cache = await start({
    policy: { prefixes: [`${origin.url}/image`, `${origin.url}/image.raw`, `${origin.url}/image.raw.fsverity`] },
  });
  const leadsTo = (location: string): void => {
    origin.misbehave = (_request, response) => {
      response.writeHead(302, { location }).end();
      return 'Done';
    };
  };
  for (const location of [`${inner}/image.raw`, `${origin.url}/private.raw`, 'http://169.254.169.254/latest']) {
    leadsTo(location);
    await assert.rejects(cache.open(spec()), (error: unknown) => {
      assert.ok(error instanceof ImageError, String(error));
      assert.match(error.message, /image\.raw(\.fsverity)? redirects to http:.*: this rack takes images from http/);
      return true;
    });
  }
  assert.equal(asked, 0, 'not one byte was asked for');
  const free = await start({ policy: {} });
  leadsTo(`${inner}/image.raw`);
  await assert.rejects(free.open(spec()));
  assert.ok(asked > 0, 'where every server is allowed, so is the target of a redirect');
});

test('a server without ranges is read once, whole, where the disk has room', async (t) => {
  const image = noise(4 * mib);
  const { origin, start, spec } = await bench(t, image);
  origin.ranges = false;
  const cache = await start({ memoryBytes: 16 * mib });
  const handle = await cache.open(spec());
  assert.ok((await readWhole(handle)).equals(image));
  assert.equal(cache.counters.originBytes, image.length + treeFileOf(image).length);
  const named = await cache.open(spec({ sha256: sha256(image).toString('hex') }));
  assert.ok((await readWhole(named)).equals(image));
  await cache.close();
  await origin.stop();
  const second = await start();
  assert.ok((await readWhole(await second.open(spec()))).equals(image));
  await second.close();
  await origin.start();
  const small = await start({ diskBytes: mib });
  await assert.rejects(small.open(spec()), /takes no ranges, and the rack's disk has no room/);
});

test('another file under the same address is named by what it is, also with the tree still there', async (t) => {
  const image = noise(2 * mib);
  const { origin, start, spec } = await bench(t, image);
  const cache = await start();
  for (const other of [noise(2 * mib, 9), noise(mib, 9)]) {
    origin.files.set('/image.raw', other);
    await assert.rejects(cache.open(spec()), { fault: 'DigestMismatch', found: sha256(other).toString('hex') });
  }
  origin.files.set('/image.raw', image);
  const handle = await cache.open(spec());
  assert.ok((await readWhole(handle)).equals(image));
  assert.equal(handle.image.originBytes, image.length - 2 * 65_536, 'first and last block came with the opening');
});

test('a file that changes while it is read is noticed, told, and waited for', async (t) => {
  const image = noise(4 * mib);
  const { origin, start, spec, faults } = await bench(t, image);
  const handle = await (await start()).open(spec());
  origin.files.set('/image.raw', noise(4 * mib, 9));
  const waiting = readWhole(handle);
  await until(() => faults.length > 3);
  assert.match(faults.join('\n'), /block \d+ from .*image\.raw is not what the digest names/);
  origin.files.set('/image.raw', image);
  assert.ok((await waiting).equals(image));
});

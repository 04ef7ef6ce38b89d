/** `image pack`, `inspect` and `verify` as a person uses them. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { descriptorBytes, digestOf } from '../../agent/image/tree.ts';
import { mib, noise, startOrigin } from '../agent/image/support.ts';
import { sharedCa } from '../support/agent-network.ts';
import { run } from './program.ts';

const scratch = mkdtempSync(join(tmpdir(), 'bitvisor-image-'));
after(() => rmSync(scratch, { recursive: true, force: true }));
const path = (name: string): string => join(scratch, name);

function imageFile(name: string): string {
  writeFileSync(path(name), noise(3 * mib + 512));
  truncateSync(path(name), 5 * mib);
  return path(name);
}

test('what pack prints names the image for inspect, verify and a server', async (t) => {
  const file = imageFile('disk.raw');
  const packed = await run('image', 'pack', file);
  assert.equal(packed.code, 0, packed.stderr);
  const digest = /sha256: ([0-9a-f]{64})$/m.exec(packed.stdout)?.[1] ?? '';
  const tree = readFileSync(`${file}.fsverity`);
  assert.equal(digest, digestOf(tree.subarray(0, descriptorBytes)));
  assert.match(packed.stdout, /^ {4}size: "5Mi"$/m);
  const whole = createHash('sha256').update(readFileSync(file)).digest('hex');
  assert.ok(packed.stdout.includes(whole));
  const inspected = await run('image', 'inspect', file);
  assert.match(inspected.stdout, new RegExp(`digest +${digest}`));
  assert.match(inspected.stdout, /image +5Mi \(5,242,880 bytes\), 3\d\.\d % zeros/);
  for (const wanted of [digest, whole]) {
    const verified = await run('image', 'verify', file, '--digest', wanted);
    assert.equal(verified.code, 0, verified.stdout);
    assert.ok(verified.stdout.includes(`is what ${wanted} names`));
  }
  const origin = await startOrigin({ '/a.raw': readFileSync(file), '/a.raw.fsverity': tree });
  t.after(() => origin.stop());
  const remote = await run('image', 'verify', `${origin.url}/a.raw`, '--digest', digest);
  assert.equal(remote.code, 0, remote.stdout + remote.stderr);
  assert.equal((await run('image', 'inspect', `${origin.url}/a.raw`)).stdout, inspected.stdout);
});

test('an https:// server is believed by the authority that is named, and not without it', async (t) => {
  const file = imageFile('behind-tls.raw');
  assert.equal((await run('image', 'pack', file)).code, 0);
  const ca = await sharedCa();
  const files = { '/a.raw': readFileSync(file), '/a.raw.fsverity': readFileSync(`${file}.fsverity`) };
  const origin = await startOrigin(files, await ca.issue('images', ['localhost']));
  t.after(() => origin.stop());
  writeFileSync(path('images.crt'), ca.caPem);
  for (const command of ['inspect', 'verify']) {
    const believed = await run('image', command, `${origin.url}/a.raw`, '--ca', path('images.crt'));
    assert.equal(believed.code, 0, believed.stdout + believed.stderr);
    const refused = await run('image', command, `${origin.url}/a.raw`);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /^error: https:\/\/localhost:\d+\/a\.raw\.fsverity: .*certificate/);
  }
});

test('an image that is not what the digest names is found out, and where', async () => {
  const file = imageFile('changed.raw');
  assert.equal((await run('image', 'pack', file)).code, 0);
  const bytes = readFileSync(file);
  bytes[mib] = (bytes[mib] ?? 0) ^ 1;
  writeFileSync(file, bytes);
  const verified = await run('image', 'verify', file);
  assert.equal(verified.code, 1);
  assert.match(verified.stdout, /block 16 \(bytes 1048576 to 1114111\) differs/);
  assert.match(verified.stdout, /1 of 80 blocks differ/);
  const other = await run('image', 'verify', file, '--digest', 'ab'.repeat(32));
  assert.equal(other.code, 1);
  assert.match(other.stdout, /no tree of that digest is beside it/);
  // Its tree is not replaced unasked.
  const before = readFileSync(`${file}.fsverity`);
  const again = await run('image', 'pack', file);
  assert.equal(again.code, 1);
  assert.match(again.stderr, /is of another image .*--force/);
  assert.ok(readFileSync(`${file}.fsverity`).equals(before));
  assert.equal((await run('image', 'pack', file, '--force')).code, 0);
  assert.equal((await run('image', 'verify', file)).code, 0);
});

const mistakes: readonly [string, () => string[], RegExp][] = [
  ['a missing file', () => ['pack', path('none.raw')], /none\.raw/],
  [
    'a qcow2 file',
    () => {
      writeFileSync(path('a.qcow2'), Buffer.concat([Buffer.from('QFI\xfb', 'latin1'), Buffer.alloc(1020)]));
      return ['pack', path('a.qcow2')];
    },
    /qemu-img convert -O raw/,
  ],
  [
    'a file that is no disk',
    () => {
      writeFileSync(path('odd.raw'), noise(1000));
      return ['pack', path('odd.raw')];
    },
    /multiple of 512/,
  ],
  ['a block size that is none', () => ['pack', '--block-size', '5Ki', 'x'], /'--block-size <size>'.*power of two/],
  ['a digest that is none', () => ['verify', '--digest', 'abc', 'x'], /'--digest <sha256>'.*64 lower-case/],
  [
    'a file of authorities that holds none',
    () => {
      writeFileSync(path('no.crt'), 'no certificate');
      return ['verify', '--ca', path('no.crt'), 'https://localhost:1/a.raw'];
    },
    /^error: --ca \S+no\.crt: it holds no certificate in PEM$/m,
  ],
  [
    'a file of authorities that is not there',
    () => ['inspect', '--ca', path('none.crt'), 'https://localhost:1/a.raw'],
    /^error: --ca \S+none\.crt: ENOENT/m,
  ],
  ['an image without a tree', () => ['verify', imageFile('treeless.raw')], /treeless\.raw\.fsverity does not exist/],
  ['a server that is not there', () => ['inspect', 'http://127.0.0.1:1/a.raw'], /127\.0\.0\.1:1/],
  ['a tree that is none', () => ['inspect', imageFile('x.fsverity')], /no digest tree of version 1|no tree/],
];
for (const [what, words, expected] of mistakes) {
  test(`${what} is named`, async () => {
    const { code, stderr } = await run('image', ...words());
    assert.equal(code, 1);
    assert.match(stderr, expected);
    assert.doesNotMatch(stderr, /^\s+at /m, 'a mistake of the person shows no stack');
  });
}

/**
 * The agent's side of the trusted image against a machine that lies, is late, or is not the one that was started.
 */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { TrustedBoots, type TrustedStart } from '../../agent/drivers/boot/trusted.ts';
import { trustedSide } from '../../agent/drivers/boot/trusted-boot.ts';
import { systemClock } from '../../controller/runtime/clock.ts';
import { seededRandom } from '../../controller/runtime/random.ts';

interface Answer {
  readonly status: number;
  readonly text: string;
}

async function room(t: TestContext): Promise<{
  boots: TrustedBoots;
  send(start: TrustedStart, method: string, path: string, body?: string, token?: string): Promise<Answer>;
}> {
  const boots = new TrustedBoots({ clock: systemClock, random: seededRandom(7), onChange: () => {} });
  const server = createServer((request, response) => {
    boots.handle(request, response).then(
      (was) => was || response.writeHead(404).end(),
      () => response.destroy(),
    );
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    boots.end('n0');
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return {
    boots,
    async send(start, method, path, body = '', token = tokenOf(start)) {
      const mac = createHmac('sha256', Buffer.from(token, 'hex')).update(`${method} ${path}\n${body}`).digest('hex');
      const answer = await fetch(`http://127.0.0.1:${port}/trusted/${start.bootId}${path}`, {
        method,
        headers: { authorization: `BitVisor-MAC ${mac}` },
        ...(method === 'POST' ? { body } : {}),
      });
      return { status: answer.status, text: await answer.text() };
    },
  };
}

const tokenOf = ({ kernelArguments }: TrustedStart): string =>
  kernelArguments.find((argument) => argument.startsWith('bitvisor.token='))?.slice(15) ?? '';
const upWith = (...serials: string[]): string =>
  ['cores=1', 'memory-kib=1000', ...serials.map((serial) => `disk=vda 1048576 ${serial}`), ''].join('\n');

test('nothing counts without the token of this very boot', async (t) => {
  const { boots, send } = await room(t);
  const first = boots.begin('n0');
  assert.equal((await send(first, 'POST', '/up', upWith('A'), 'ab'.repeat(32))).status, 403);
  assert.equal(boots.read('n0').up, false);
  const second = boots.begin('n0');
  assert.notEqual(tokenOf(second), tokenOf(first));
  assert.equal((await send(first, 'POST', '/up', upWith('A'))).status, 403, 'the earlier start of the node');
  assert.equal((await send(second, 'POST', '/up', upWith('A'), tokenOf(first))).status, 403);
  assert.equal((await send(second, 'POST', '/up', upWith('A'))).status, 200);
  assert.equal(boots.read('n0').up, true);
  boots.end('n0');
  assert.equal(boots.read('n0').up, false);
});

test('a wipe counts the disks that the boot named, once, and only for its own job', async (t) => {
  const { boots, send } = await room(t);
  const start = boots.begin('n0');
  await send(start, 'POST', '/up', upWith('A', 'B'));
  const notWiped = assert.rejects(boots.wipe('n0', 'Quick'), /not wiped: B/);
  assert.match((await send(start, 'GET', '/jobs/0')).text, /^job=1\nkind=wipe\nerase=Quick\n$/);
  await assert.rejects(boots.check('n0', {}), /busy/);
  await send(start, 'POST', '/results/7', 'wiped=B\n');
  await send(start, 'POST', '/results/1', 'wiped=A\nwiped=A\nwiped=C\n');
  assert.deepEqual(boots.read('n0').wiped, ['A']);
  await send(start, 'POST', '/results/1', 'done=wipe\n');
  await notWiped;
  await send(start, 'POST', '/results/1', 'wiped=B\ndone=wipe\n');
  assert.deepEqual(boots.read('n0').wiped, ['A'], 'a late message of a job that is over');
});

test('a boot that ends takes its jobs with it, and a new nonce starts anew', async (t) => {
  const { boots, send } = await room(t);
  const start = boots.begin('n0');
  await send(start, 'POST', '/up', upWith('A'));
  const refused = assert.rejects(boots.attest('n0', 'n1'), /another nonce/);
  await send(start, 'POST', '/results/1', 'nonce=n0\ndone=attest\n');
  await refused;
  const again = boots.attest('n0', 'n1');
  await send(start, 'POST', '/results/2', 'nonce=n1\ndone=attest\n');
  await again;
  assert.deepEqual(boots.read('n0'), {
    ...{ up: true, nonce: 'n1', wiped: [], checked: false },
    attestation: { method: 'Token' },
  });
  const ended = assert.rejects(boots.wipe('n0', 'Full'), /ended/);
  boots.begin('n0');
  await ended;
});

test('what a machine sends is bounded and has to have the form', async (t) => {
  const { boots, send } = await room(t);
  const start = boots.begin('n0');
  const isRefused = await send(start, 'POST', '/up', 'x'.repeat(1 << 20)).then(
    ({ status }) => status === 413,
    () => true,
  );
  assert.equal(isRefused, true);
  assert.equal((await send(start, 'POST', '/up', 'a=b\n'.repeat(1000))).status, 413);
  assert.equal((await send(start, 'POST', '/elsewhere')).status, 404);
  assert.equal(boots.read('n0').up, false);
  await send(
    start,
    'POST',
    '/up',
    `cores=-1\nmemory-kib=1e99\ndisk=../x 12 S\ndisk=vda ${'9'.repeat(40)} S\nlink=zz 1\n`,
  );
  const { cores, memoryBytes, disks, links } = boots.facts('n0') ?? assert.fail('not up');
  assert.deepEqual({ cores, memoryBytes, disks, links }, { cores: 0, memoryBytes: 0, disks: [], links: [] });
});

test('a job waits for the machine to ask, and the machine for a job', async (t) => {
  const { boots, send } = await room(t);
  const start = boots.begin('n0');
  await send(start, 'POST', '/up', upWith('A'));
  const asked = send(start, 'GET', '/jobs/0');
  const attested = boots.attest('n0', 'n1');
  assert.match((await asked).text, /^job=1\nkind=attest\nnonce=n1\n$/);
  assert.match((await send(start, 'GET', '/jobs/0')).text, /^job=1\n/, 'the answer was lost: it asks again');
  await send(start, 'POST', '/results/1', 'nonce=n1\n');
  await send(start, 'POST', '/results/1', 'done=attest\n');
  await attested;
});

test('a machine that cannot boot what it is given asks again, and does not fall through to its disk', async (t) => {
  const { boots } = await room(t);
  const { bootId, script } = trustedSide(boots, { baselines: new Map() }).begin('n0', {
    server: 'http://10.77.0.1:8080',
    control: '52:54:00:00:07:02',
  });
  const lines = script.trimEnd().split('\n');
  const again = lines.indexOf(':again');
  assert.ok(again > 0);
  for (const line of lines.slice(0, again)) assert.match(line, / \|\| goto again$/);
  assert.equal(lines.at(-1), 'chain --replace --autofree http://10.77.0.1:8080/boot.ipxe');
  assert.ok(
    lines[0]?.startsWith(
      `kernel http://10.77.0.1:8080/boot/${bootId}/kernel initrd=initrd console=ttyS0 quiet panic=10 `,
    ),
  );
});

test('what one boot proved is not noted for the next', async (t) => {
  const attestation = { method: 'Token' } as const;
  const { boots, send } = await room(t);
  const first = boots.begin('n0');
  await send(first, 'POST', '/up');
  const second = boots.begin('n0');
  await send(second, 'POST', '/up');
  assert.throws(() => boots.attested('n0', { nonce: 'nonce', bootId: first.bootId, attestation }), /started anew/);
  assert.deepEqual([boots.read('n0').nonce, boots.read('n0').attestation], ['', undefined]);
  boots.attested('n0', { nonce: 'nonce', bootId: second.bootId, attestation });
  assert.deepEqual([boots.read('n0').nonce, boots.read('n0').attestation], ['nonce', attestation]);
});

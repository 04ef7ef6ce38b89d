/**
 * Hostile and unlucky clients: who may enter, what may be sent, who is cut off.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect } from 'node:tls';
import { Agent, request } from 'undici';
import { systemClock } from '../../controller/runtime/clock.ts';
import { systemRandom } from '../../controller/runtime/random.ts';
import { type Standalone, startStandalone } from '../../controller/standalone/server.ts';
import type { Json } from '../support/api-target.ts';
import { gadgetCrd } from '../support/widget-crds.ts';

const gadgets = '/apis/test.bitvisor.io/v1/gadgets';

describe('limits', () => {
  let directory = '';
  let server: Standalone;
  let stranger: Standalone;
  let admin: Agent;
  let identity: { keyPem: string; certificatePem: string };

  before(async () => {
    directory = mkdtempSync(join(tmpdir(), 'bitvisor-limits-'));
    const options = { port: 0, clock: systemClock, random: systemRandom, crds: [gadgetCrd] };
    const tokens = new Map([['a-secret-token', { user: 'robot', groups: ['robots'] }]]);
    const history = { events: 50, bytes: 1024 * 1024 * 1024 };
    server = await startStandalone({ ...options, dataDir: join(directory, 'a'), tokens, history });
    stranger = await startStandalone({ ...options, dataDir: join(directory, 'b') });
    identity = await server.issueClientCertificate('alice', ['tenants', 'people']);
    admin = new Agent({ connect: { ca: server.caPem, key: identity.keyPem, cert: identity.certificatePem } });
  });
  after(async () => {
    await admin.destroy();
    await server.close();
    await stranger.close();
    rmSync(directory, { recursive: true, force: true });
  });

  const call = async (
    method: string,
    path: string,
    options: { body?: string; type?: string; agent?: Agent; token?: string } = {},
  ): Promise<{ status: number; body: Json }> => {
    const response = await request(server.url + path, {
      dispatcher: options.agent ?? admin,
      method: method as 'GET',
      headers: {
        'content-type': options.type ?? 'application/json',
        ...(options.token === undefined ? {} : { authorization: `Bearer ${options.token}` }),
      },
      ...(options.body === undefined ? {} : { body: options.body }),
    });
    const text = await response.body.text();
    return { status: response.statusCode, body: text.startsWith('{') ? JSON.parse(text) : text };
  };

  test('without an identity there is health and version, nothing else', async () => {
    const agent = new Agent({ connect: { ca: server.caPem } });
    for (const path of ['/healthz', '/livez', '/readyz', '/version'])
      assert.equal((await call('GET', path, { agent })).status, 200);
    for (const path of ['/', '/api', '/apis', gadgets, '/openapi/v3', '/nothing']) {
      assert.deepEqual((await call('GET', path, { agent })).body.reason, 'Unauthorized');
    }
    await agent.destroy();
  });

  test('a certificate of another authority is no identity; a token is one when it is right', async () => {
    const other = await stranger.issueClientCertificate('alice', ['system:masters']);
    const agent = new Agent({ connect: { ca: server.caPem, key: other.keyPem, cert: other.certificatePem } });
    assert.equal((await call('GET', gadgets, { agent })).status, 401);
    assert.equal((await call('GET', gadgets, { agent, token: 'a-wrong-token' })).status, 401);
    assert.equal((await call('GET', gadgets, { agent, token: 'a-secret-token' })).status, 200);
    await agent.destroy();
  });

  test('the identity is that of the certificate', async () => {
    const review = { apiVersion: 'authentication.k8s.io/v1', kind: 'SelfSubjectReview' };
    const answer = await call('POST', '/apis/authentication.k8s.io/v1/selfsubjectreviews', {
      body: JSON.stringify(review),
    });
    assert.deepEqual(answer.body.status.userInfo, { username: 'alice', groups: ['tenants', 'people'] });
  });

  test('bodies are bounded in size and depth', async () => {
    const large = JSON.stringify({ metadata: { name: 'x' }, spec: { color: 'x'.repeat(3 * 1024 * 1024) } });
    assert.equal((await call('POST', gadgets, { body: large })).status, 413);
    const huge = await call('POST', gadgets, { body: 'x'.repeat(64 * 1024 * 1024) });
    assert.match(huge.body.message, /^Request entity too large: limit is 3145728/);
    const deep = await call('POST', gadgets, { body: '['.repeat(100_000) });
    assert.match(deep.body.message, /nests deeper than 100 levels/);
    const bomb = `a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n`;
    assert.equal((await call('POST', gadgets, { body: bomb, type: 'application/yaml' })).status, 400);
  });

  test('a client that sends a large body to its end before it reads is told why it was refused', async () => {
    const length = 32 * 1024 * 1024;
    const { hostname, port } = new URL(server.url);
    const socket = connect({
      host: hostname,
      port: Number(port),
      ca: server.caPem,
      key: identity.keyPem,
      cert: identity.certificatePem,
    });
    await once(socket, 'secureConnect');
    socket.on('error', () => undefined);
    socket.pause();
    const head = `POST ${gadgets} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${length}\r\n\r\n`;
    const write = (bytes: string | Buffer): Promise<void> =>
      new Promise((resolve, reject) => {
        socket.write(bytes, (error) => (error ? reject(error) : resolve()));
      });
    await write(head);
    const chunk = Buffer.alloc(1024 * 1024, 'x');
    for (let sent = 0; sent < length; sent += chunk.length) await write(chunk);
    let answer = '';
    for await (const bytes of socket) answer += bytes;
    assert.match(answer, /^HTTP\/1\.1 413 /);
    assert.match(answer, /Request entity too large: limit is 3145728/);
  });

  test('names that reach into prototypes are refused', async () => {
    const metadata = '{"name":"p"}';
    for (const body of [
      `{"apiVersion":"test.bitvisor.io/v1","kind":"Gadget","metadata":${metadata},"__proto__":{"x":1}}`,
      `{"apiVersion":"test.bitvisor.io/v1","kind":"Gadget","metadata":{"name":"p","labels":{"__pr\\u006fto__":"x"}}}`,
    ]) {
      assert.equal((await call('POST', gadgets, { body })).status, 400);
    }
    const type = 'application/json-patch+json';
    await call('POST', gadgets, {
      body: `{"apiVersion":"test.bitvisor.io/v1","kind":"Gadget","metadata":${metadata}}`,
    });
    const patch = JSON.stringify([{ op: 'add', path: '/__proto__/polluted', value: true }]);
    assert.equal((await call('PATCH', `${gadgets}/p`, { body: patch, type })).status, 422);
    assert.equal(({} as Json).polluted, undefined);
  });

  test('a database failure or a broken path is an answer, not the end of the server', async () => {
    assert.equal((await call('GET', '/apis/%E0%A4%A')).status, 400);
    assert.equal((await call('GET', `${gadgets}/${'x'.repeat(5000)}`)).status, 404);
    assert.equal((await call('GET', '/healthz')).body, 'ok');
  });

  test('a watcher that does not read is cut off, and holds nobody up', async () => {
    const socket = connect({
      host: '127.0.0.1',
      port: server.port,
      ca: server.caPem,
      key: identity.keyPem,
      cert: identity.certificatePem,
      servername: 'localhost',
    });
    await new Promise((resolve) => socket.once('secureConnect', resolve));
    const { resourceVersion } = (await call('GET', gadgets)).body.metadata;
    socket.write(`GET ${gadgets}?watch=1&resourceVersion=${resourceVersion} HTTP/1.1\r\nhost: localhost\r\n\r\n`);
    await new Promise((resolve) => socket.once('data', resolve));
    socket.pause();
    const annotations = { large: 'x'.repeat(200_000) };
    for (let i = 0; i < 120; i++) {
      const body = { apiVersion: 'test.bitvisor.io/v1', kind: 'Gadget', metadata: { name: `big-${i}`, annotations } };
      assert.equal((await call('POST', gadgets, { body: JSON.stringify(body) })).status, 201);
    }
    let text = '';
    socket.on('data', (chunk) => {
      text = (text + chunk.toString('latin1')).slice(-2000);
    });
    const ended = new Promise((resolve) => socket.once('end', resolve));
    socket.resume();
    while (!text.includes('"ERROR"'))
      await Promise.race([ended, new Promise((resolve) => socket.once('data', resolve))]);
    assert.match(text, /"type":"ERROR".*"reason":"Expired".*"code":410/);
    socket.destroy();
  });

  test('a list that takes longer than history reaches back is told so, with a token to go on', async () => {
    const first = (await call('GET', `${gadgets}?limit=2`)).body;
    for (let i = 0; i < 60; i++) {
      const body = JSON.stringify({ metadata: { labels: { turn: String(i) } } });
      await call('PATCH', `${gadgets}/p`, { body, type: 'application/merge-patch+json' });
    }
    const token = encodeURIComponent(first.metadata.continue);
    const answer = await call('GET', `${gadgets}?limit=2&continue=${token}`);
    assert.deepEqual([answer.status, answer.body.reason], [410, 'Expired']);
    const rest = await call(
      'GET',
      `${gadgets}?limit=500&continue=${encodeURIComponent(answer.body.metadata.continue)}`,
    );
    assert.equal(rest.status, 200);
    assert.ok(rest.body.items.length > 100);
  });

  test('CRDs are read-only, and it is said why; pods are elsewhere', async () => {
    const path = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gadgets.test.bitvisor.io';
    const refused = await call('DELETE', path);
    assert.equal(refused.status, 405);
    assert.match(refused.body.message, /takes its CustomResourceDefinitions from the program when it starts/);
    const established = (await call('GET', path)).body.status.conditions.find(
      (item: Json) => item.type === 'Established',
    );
    assert.equal(established.status, 'True');
    assert.match((await call('GET', '/api/v1/namespaces/default/pods')).body.message, /runs no pods/);
    const type = 'application/apply-patch+yaml';
    const apply = await call('PATCH', `${gadgets}/p?fieldManager=x`, { body: '{}', type });
    assert.match(apply.body.message, /server-side apply is not served/);
  });
});

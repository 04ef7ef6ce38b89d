/**
 * The network client against a server that misbehaves in every way a network can.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { type CallReport, createKubeClient } from '../../controller/kube/client.ts';
import { leaseKind } from '../../controller/kube/lease.ts';
import { type KubeClient, KubeError, type KubeErrorReason } from '../../controller/kube/port.ts';
import { systemClock } from '../../controller/runtime/clock.ts';
import { configMapKind } from '../support/kube-kinds.ts';

const key = { namespace: 'n', name: 'a' };
const object = { metadata: { ...key, resourceVersion: '7', uid: 'u', managedFields: [{}] } };
const merge = { type: 'merge' } as const;

type Handler = (request: IncomingMessage, response: ServerResponse, body: string) => void;

const json = (response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void => {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
};

async function reasonOf(work: Promise<unknown>): Promise<KubeErrorReason | 'ok'> {
  try {
    await work;
    return 'ok';
  } catch (error) {
    assert.ok(error instanceof KubeError, String(error));
    assert.ok(!error.message.includes('s3cret'), error.message);
    return error.reason;
  }
}

describe('network client', () => {
  let folder: string;
  let handler: Handler;
  let client: KubeClient;
  const reports: CallReport[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => handler(request, response, Buffer.concat(chunks).toString()));
  });

  const kubeconfig = async (url: string, token: string): Promise<string> => {
    const path = join(folder, 'kubeconfig');
    const tokenFile = join(folder, 'token');
    await writeFile(tokenFile, `${token}\n`);
    const config = {
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'c', cluster: { server: url, 'insecure-skip-tls-verify': true } }],
      users: [{ name: 'u', user: { 'auth-provider': { name: 'tokenFile', config: { tokenFile } } } }],
      contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
      'current-context': 'x',
    };
    await writeFile(path, JSON.stringify(config));
    return path;
  };
  const open = async (
    options: { timeoutMs?: number; maxInFlight?: number; url?: string } = {},
  ): Promise<KubeClient> => {
    const { port } = server.address() as AddressInfo;
    const kubeconfigPath = await kubeconfig(options.url ?? `http://127.0.0.1:${port}/prefix`, 's3cret-1');
    const { timeoutMs = 5_000, maxInFlight = 4 } = options;
    return createKubeClient({
      kubeconfigPath,
      clock: systemClock,
      userAgent: 'test',
      timeoutMs,
      maxInFlight,
      onCall: (report) => reports.push(report),
    });
  };

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'kube-transport-'));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    client = await open();
  });
  after(async () => {
    await client.close();
    server.closeAllConnections();
    server.close();
    await rm(folder, { recursive: true });
  });
  beforeEach(() => {
    reports.length = 0;
  });

  it('speaks the paths, queries and media types of the API, with preconditions inside the patch', async () => {
    const seen: string[] = [];
    handler = (request, response, body) => {
      seen.push(`${request.method} ${request.url} ${request.headers['content-type'] ?? ''} ${body}`);
      json(
        response,
        200,
        request.url?.includes('limit') === true ? { metadata: { resourceVersion: '9' }, items: [object] } : object,
      );
    };
    const read = await client.get(configMapKind, key);
    assert.deepEqual(read, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { ...key, resourceVersion: '7', uid: 'u' },
    });
    await client.list(configMapKind, { limit: 5, labelSelector: 'a in (b,c)' });
    await client.patch(configMapKind, key, { data: { x: '1' } }, { ...merge, uid: 'u', resourceVersion: '7' });
    await client.patch(leaseKind, key, [{ op: 'remove', path: '/spec' }], { type: 'json', uid: 'u', dryRun: true });
    await client.delete(configMapKind, key, { resourceVersion: '7', propagation: 'Orphan' });
    const root = '/prefix/api/v1';
    assert.deepEqual(seen, [
      `GET ${root}/namespaces/n/configmaps/a  `,
      `GET ${root}/configmaps?limit=5&labelSelector=a+in+%28b%2Cc%29  `,
      `PATCH ${root}/namespaces/n/configmaps/a application/merge-patch+json {"data":{"x":"1"},"metadata":{"uid":"u","resourceVersion":"7"}}`,
      'PATCH /prefix/apis/coordination.k8s.io/v1/namespaces/n/leases/a?dryRun=All application/json-patch+json ' +
        '[{"op":"test","path":"/metadata/uid","value":"u"},{"op":"remove","path":"/spec"}]',
      `DELETE ${root}/namespaces/n/configmaps/a application/json {"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"resourceVersion":"7"},"propagationPolicy":"Orphan"}`,
    ]);
    assert.deepEqual(
      reports.map(({ verb, kind, outcome }) => `${verb} ${kind} ${outcome}`),
      ['get ConfigMap ok', 'list ConfigMap ok', 'patch ConfigMap ok', 'patch Lease ok', 'delete ConfigMap ok'],
    );
  });

  it('never addresses a collection by an empty name', async () => {
    handler = (_request, response) => json(response, 200, {});
    assert.equal(await reasonOf(client.delete(configMapKind, { namespace: 'n', name: '' })), 'Invalid');
    assert.equal(await reasonOf(client.delete(configMapKind, { name: 'a' })), 'Invalid');
    assert.equal(await reasonOf(client.get(configMapKind, { namespace: 'n', name: '../secrets/x' })), 'Invalid');
  });

  const answers: [number, string, Record<string, unknown>, KubeErrorReason, KubeErrorReason][] = [
    [400, 'BadRequest', {}, 'Invalid', 'Invalid'],
    [403, 'Forbidden', {}, 'Forbidden', 'Forbidden'],
    [404, 'NotFound', {}, 'NotFound', 'NotFound'],
    [409, 'AlreadyExists', {}, 'AlreadyExists', 'AlreadyExists'],
    [409, 'Conflict', {}, 'Conflict', 'Conflict'],
    [410, 'Expired', {}, 'Gone', 'Gone'],
    [422, 'Invalid', { causes: [{ field: 'spec.replicas' }] }, 'Invalid', 'Invalid'],
    [422, 'Invalid', { causes: [{ field: 'metadata.uid' }] }, 'Conflict', 'Conflict'],
    [429, 'TooManyRequests', {}, 'TooManyRequests', 'TooManyRequests'],
    [500, 'InternalError', {}, 'Unavailable', 'Unknown'],
    [503, 'ServiceUnavailable', {}, 'Unavailable', 'Unavailable'],
    [504, 'Timeout', {}, 'Unavailable', 'Unknown'],
  ];
  for (const [status, reason, details, ofRead, ofWrite] of answers) {
    it(`takes ${status} ${reason} ${JSON.stringify(details)} as ${ofRead} of a read, ${ofWrite} of a write`, async () => {
      handler = (_request, response) =>
        json(response, status, { kind: 'Status', status: 'Failure', code: status, reason, details, message: 'no' });
      assert.equal(await reasonOf(client.get(configMapKind, key)), ofRead);
      assert.equal(await reasonOf(client.patch(configMapKind, key, {}, merge)), ofWrite);
    });
  }

  it('hands on Retry-After, and understands an answer that is no Status', async () => {
    handler = (_request, response) => response.writeHead(503, { 'retry-after': '7' }).end('<html>bad gateway</html>');
    await assert.rejects(client.get(configMapKind, key), { reason: 'Unavailable', status: 503, retryAfterMs: 7_000 });
  });

  it('tells a refused connection from a lost answer', async () => {
    const nobody = await open({ url: 'http://127.0.0.1:1' });
    assert.equal(await reasonOf(nobody.patch(configMapKind, key, {}, merge)), 'Unavailable');
    await nobody.close();
    handler = (request) => request.socket.destroy();
    assert.equal(await reasonOf(client.patch(configMapKind, key, {}, merge)), 'Unknown');
    assert.equal(await reasonOf(client.create(configMapKind, { metadata: key }, { dryRun: true })), 'Unavailable');
    assert.equal(await reasonOf(client.get(configMapKind, key)), 'Unavailable');
  });

  it('gives up on a server that accepts and says nothing, and on an answer that breaks off', async () => {
    const hasty = await open({ timeoutMs: 100 });
    handler = () => {};
    assert.equal(await reasonOf(hasty.patch(configMapKind, key, {}, merge)), 'Unknown');
    handler = (_request, response) => response.writeHead(200, { 'content-length': '100' }).write('{"metadata"');
    assert.equal(await reasonOf(hasty.patch(configMapKind, key, {}, merge)), 'Unknown');
    handler = (_request, response) => response.end('not json');
    assert.equal(await reasonOf(hasty.patch(configMapKind, key, {}, merge)), 'Unknown');
    assert.equal(await reasonOf(hasty.get(configMapKind, key)), 'Unavailable');
    await hasty.close();
  });

  it('reads its token again after a 401, once', async () => {
    const tokens: (string | undefined)[] = [];
    handler = (request, response) => {
      tokens.push(request.headers.authorization);
      if (request.headers.authorization === 'Bearer s3cret-2') json(response, 200, object);
      else json(response, 401, { message: 'Unauthorized' });
    };
    const rotating = await open();
    assert.equal(await reasonOf(rotating.get(configMapKind, key)), 'Unauthorized');
    await writeFile(join(folder, 'token'), 's3cret-2');
    assert.equal(await reasonOf(rotating.patch(configMapKind, key, {}, merge)), 'ok');
    assert.deepEqual(tokens, ['Bearer s3cret-1', 'Bearer s3cret-1', 'Bearer s3cret-1', 'Bearer s3cret-2']);
    await rotating.close();
  });

  it('keeps few calls under way, and lets a Lease pass them all', async () => {
    const held: ServerResponse[] = [];
    let leases = 0;
    handler = (request, response) => {
      if (request.url?.includes('leases') === true) {
        leases += 1;
        json(response, 200, object);
      } else held.push(response);
    };
    const patches = Array.from({ length: 200 }, () => client.patch(configMapKind, key, {}, merge));
    await client.patch(leaseKind, key, {}, merge);
    assert.equal(leases, 1);
    assert.ok(held.length <= 4, `${held.length} calls at once`);
    handler = (_request, response) => json(response, 200, object);
    for (const response of held) json(response, 200, object);
    await Promise.all(patches);
  });

  it('reads a watch whatever the chunks are, and takes only what it knows', async () => {
    const event = (type: string, body: unknown): string => `${JSON.stringify({ type, object: body })}\n`;
    const text =
      event('ADDED', { metadata: { name: 'é', resourceVersion: '1' } }) +
      event('BOOKMARK', { metadata: { resourceVersion: '5' } }) +
      event('ERROR', { kind: 'Status', code: 410, reason: 'Expired', message: 'too old' });
    let url = '';
    handler = (request, response) => {
      url = request.url ?? '';
      response.writeHead(200);
      const bytes = Buffer.from(text);
      let at = 0;
      const next = (): void => {
        if (at >= bytes.length) return void response.end();
        at += 7;
        response.write(bytes.subarray(at - 7, at), next);
      };
      next();
    };
    const seen: string[] = [];
    for await (const each of client.watch(configMapKind, { namespace: 'n', resourceVersion: '0', timeoutSeconds: 9 })) {
      if (each.type === 'ERROR') seen.push(`ERROR ${each.error.reason} ${each.error.status}`);
      else
        seen.push(
          each.type === 'BOOKMARK' ? `BOOKMARK ${each.resourceVersion}` : `${each.type} ${each.object.metadata.name}`,
        );
    }
    assert.deepEqual(seen, ['ADDED é', 'BOOKMARK 5', 'ERROR Gone 410']);
    assert.match(url, /watch=true&allowWatchBookmarks=true&resourceVersion=0&timeoutSeconds=9$/);
  });

  it('fails a watch that cannot start, breaks off, or sends what is no event', async () => {
    const read = async (): Promise<void> => {
      for await (const _event of client.watch(configMapKind, { resourceVersion: '1' }));
    };
    handler = (_request, response) => json(response, 429, { message: 'slow' }, { 'retry-after': '3' });
    await assert.rejects(read(), { reason: 'TooManyRequests', retryAfterMs: 3_000 });
    handler = (_request, response) => response.writeHead(200).end('{"type":"ADD');
    assert.equal(await reasonOf(read()), 'Unavailable');
    handler = (_request, response) => response.writeHead(200).end('{"type":"SURPRISE","object":{}}\n');
    assert.equal(await reasonOf(read()), 'Unavailable');
    handler = (_request, response) => response.writeHead(200).write('{}', () => response.destroy());
    assert.equal(await reasonOf(read()), 'Unavailable');
  });

  it('fails what is under way when it is closed, and ends watches', async () => {
    const closing = await open();
    let arrived = (): void => {};
    const both = new Promise<void>((resolve) => {
      let count = 0;
      arrived = () => void (++count === 2 && resolve());
    });
    handler = (request, response) => {
      if (request.url?.includes('watch') === true) {
        response.writeHead(200);
        response.flushHeaders();
      }
      arrived();
    };
    const patch = reasonOf(closing.patch(configMapKind, key, {}, merge));
    const watch = (async () => {
      for await (const _event of closing.watch(configMapKind, { resourceVersion: '1' }));
    })();
    await both;
    await closing.close();
    assert.equal(await patch, 'Unknown');
    await watch;
    assert.equal(await reasonOf(closing.get(configMapKind, key)), 'Unavailable');
  });

  it('says what is wrong with a kubeconfig and shows nothing of it', async () => {
    const path = join(folder, 'broken');
    const options = { kubeconfigPath: path, clock: systemClock, userAgent: 'test' };
    await assert.rejects(createKubeClient(options), /cannot read .*broken.*ENOENT/);
    await writeFile(path, 'users: [{token: s3cret\n  - ]');
    await assert.rejects(createKubeClient(options), (error: Error) => {
      return /cannot read .*broken/.test(error.message) && !error.message.includes('s3cret');
    });
    await kubeconfig('http://127.0.0.1:1', 's3cret');
    const other = { ...options, kubeconfigPath: join(folder, 'kubeconfig'), context: 'elsewhere' };
    await assert.rejects(createKubeClient(other), /no context "elsewhere"; it has: x/);
  });
});

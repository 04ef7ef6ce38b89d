/** Images of known contents, and a server that gives them and misbehaves on demand. */
import { createCipheriv } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { encodeDescriptor, hashBlock, TreeBuilder, TreeLayout } from '../../../agent/image/tree.ts';
import type { TestIdentity } from '../../support/test-ca.ts';

export const kib = 1024;
export const mib = 1_048_576;

/** Bytes that follow from the seed, none of their blocks zero. */
export function noise(bytes: number, seed = 1): Buffer {
  const key = Buffer.alloc(16);
  key.writeUInt32LE(seed);
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(bytes));
}

/** The file beside an image, made in memory. */
export function treeFileOf(image: Buffer, blockBytes = 65_536): Buffer {
  const layout = new TreeLayout({ sizeBytes: image.length, blockBytes });
  const tree = Buffer.alloc(layout.treeBytes);
  const builder = new TreeBuilder(layout);
  for (let block = 0; block < layout.dataBlocks; block++) {
    const bytes = image.subarray(block * blockBytes, block * blockBytes + layout.lengthOf(block));
    for (const done of builder.push(hashBlock(bytes, blockBytes))) done.bytes.copy(tree, done.index * blockBytes);
  }
  const { root, blocks } = builder.finish();
  for (const done of blocks) done.bytes.copy(tree, done.index * blockBytes);
  return Buffer.concat([encodeDescriptor({ ...layout, root }), tree]);
}

/** What the server does instead of answering rightly; `undefined` goes on as if nothing was. */
export type Misbehaviour = (request: IncomingMessage, response: ServerResponse, body: Buffer) => 'Done' | undefined;

export interface TestOrigin {
  readonly url: string;
  /** Contents by path, such as "/image.raw". */
  readonly files: Map<string, Buffer>;
  /** Bytes of bodies that were sent, by path. */
  readonly sent: Map<string, number>;
  misbehave: Misbehaviour | undefined;
  ranges: boolean;
  /** Closes the port and every connection. */
  stop(): Promise<void>;
  /** Listens again on the same port. */
  start(): Promise<void>;
}

function answer(origin: TestOrigin, request: IncomingMessage, response: ServerResponse): void {
  const path = (request.url ?? '').split('?')[0] ?? '';
  const file = origin.files.get(path);
  if (file === undefined) return void response.writeHead(404).end();
  const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
  const isPart = origin.ranges && range !== null;
  const first = isPart ? Number(range[1]) : 0;
  const last = isPart ? Math.min(Number(range[2]), file.length - 1) : file.length - 1;
  const body = file.subarray(first, last + 1);
  if (origin.misbehave?.(request, response, body) === 'Done') return;
  origin.sent.set(path, (origin.sent.get(path) ?? 0) + body.length);
  const headers = { 'content-length': body.length };
  if (isPart) response.writeHead(206, { ...headers, 'content-range': `bytes ${first}-${last}/${file.length}` });
  else response.writeHead(200, headers);
  response.end(body);
}

/** @param tls with it the address is https://, of the host localhost */
export async function startOrigin(files: Record<string, Buffer>, tls?: TestIdentity): Promise<TestOrigin> {
  let server: Server | undefined;
  let port = 0;
  const origin: TestOrigin = {
    get url() {
      return tls === undefined ? `http://127.0.0.1:${port}` : `https://localhost:${port}`;
    },
    files: new Map(Object.entries(files)),
    sent: new Map(),
    misbehave: undefined,
    ranges: true,
    async start() {
      const answers = (request: IncomingMessage, response: ServerResponse): void => answer(origin, request, response);
      server =
        tls === undefined ? createServer(answers) : createTlsServer({ cert: tls.certPem, key: tls.keyPem }, answers);
      await new Promise<void>((resolve) => server?.listen(port, '127.0.0.1', resolve));
      port = (server.address() as AddressInfo).port;
    },
    async stop() {
      const closed = new Promise((resolve) => server?.close(resolve));
      server?.closeAllConnections();
      await closed;
    },
  };
  await origin.start();
  return origin;
}

/**
 * Bodies in and answers out.
 *
 * Invariant: nothing that a client sends is kept beyond fixed bounds of size, nesting and time.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { parse as parseYaml, stringify as toYaml } from 'yaml';
import { decodeProtobuf } from './protobuf.ts';
import { isObject, type JsonObject, type JsonValue } from './schema/types.ts';
import { ApiError, badRequest, unsupportedMediaType } from './status.ts';

/** As kube-apiserver's limit for request bodies. */
const mostBodyBytes = 3 * 1024 * 1024;
/** Of a body that is refused unread, what is thrown away so that its client comes to read the answer. */
const mostDiscardedBytes = 256 * 1024 * 1024;
/** No object of ours nests deeper than a quarter of this. */
const deepestNesting = 100;

export async function readBody(request: IncomingMessage): Promise<Buffer> {
  const tooLarge = (): ApiError =>
    new ApiError(413, 'RequestEntityTooLarge', `Request entity too large: limit is ${mostBodyBytes}`);
  if (Number(request.headers['content-length'] ?? 0) > mostBodyBytes) throw tooLarge();
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > mostBodyBytes) throw tooLarge();
    chunks.push(chunk);
  }
  return chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks);
}

/** Counts brackets outside of strings: nesting is known before anything recurses into it. */
function checkNesting(text: string): void {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (inString) {
      if (code === 0x5c) i++;
      else if (code === 0x22) inString = false;
    } else if (code === 0x22) inString = true;
    else if (code === 0x7b || code === 0x5b) {
      depth++;
      if (depth > deepestNesting) throw badRequest(`the body nests deeper than ${deepestNesting} levels`);
    } else if (code === 0x7d || code === 0x5d) depth--;
  }
}

/** A key that would reach an object's prototype has no use in the API. */
function checkKeys(value: JsonValue | undefined): void {
  if (Array.isArray(value)) value.forEach(checkKeys);
  else if (isObject(value)) {
    for (const key of Object.keys(value)) {
      if (key === '__proto__') throw badRequest('a field may not be called "__proto__"');
      checkKeys(value[key]);
    }
  }
}

/** Parses a JSON (or YAML, or for some kinds protobuf) body. @throws ApiError 400 that says where it breaks, 415 for other media types. */
export function parseBody(bytes: Buffer, contentType: string | undefined): JsonValue {
  const type = (contentType ?? 'application/json').split(';')[0]?.trim() ?? '';
  if (type === 'application/vnd.kubernetes.protobuf') return decodeProtobuf(bytes);
  const text = bytes.toString('utf8');
  let value: JsonValue;
  if (type.endsWith('yaml')) {
    try {
      value = parseYaml(text, { maxAliasCount: 0 }) as JsonValue;
      checkNesting(JSON.stringify(value) ?? '');
    } catch (cause) {
      if (cause instanceof ApiError) throw cause;
      throw badRequest(`the body is not valid YAML: ${(cause as Error).message.split('\n')[0]}`);
    }
    checkKeys(value);
    return value;
  }
  if (!type.endsWith('json')) {
    throw unsupportedMediaType(
      `the body of the request was in an unknown format - accepted media types include: application/json, application/yaml (got ${type.slice(0, 100)})`,
    );
  }
  checkNesting(text);
  try {
    value = JSON.parse(text) as JsonValue;
  } catch (cause) {
    throw badRequest(`the body is not valid JSON: ${(cause as Error).message}`);
  }
  if (text.includes('__proto__') || text.includes('\\u00')) checkKeys(value);
  return value;
}

export function parseObject(bytes: Buffer, contentType: string | undefined): JsonObject {
  const value = parseBody(bytes, contentType);
  if (!isObject(value)) throw badRequest('the body must be an object');
  return value;
}

export function send(response: ServerResponse, code: number, type: string, body: string | Buffer): void {
  if (response.headersSent || response.destroyed) return;
  const bytes = typeof body === 'string' ? Buffer.from(body) : body;
  response.writeHead(code, {
    'content-type': type,
    'content-length': bytes.length,
    'cache-control': 'no-cache, private',
  });
  response.end(bytes);
}

/** Sends JSON text, or the same as YAML where that was asked for. */
export function sendJson(response: ServerResponse, code: number, json: string, asYaml = false): void {
  if (asYaml) send(response, code, 'application/yaml', toYaml(JSON.parse(json), { aliasDuplicateObjects: false }));
  else send(response, code, 'application/json', json);
}

/** Warnings that kubectl prints above its result (RFC 7234, code 299). */
export function addWarnings(response: ServerResponse, warnings: readonly string[]): void {
  if (warnings.length === 0 || response.headersSent) return;
  const values = warnings.slice(0, 16).map((text) => {
    const plain = text.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, 512);
    return `299 - "${plain.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`;
  });
  response.setHeader('warning', values);
}

export function sendError(response: ServerResponse, error: ApiError): void {
  if (error.details?.retryAfterSeconds !== undefined && !response.headersSent) {
    response.setHeader('retry-after', String(error.details.retryAfterSeconds));
  }
  sendJson(response, error.code, JSON.stringify(error.toStatus()));
}

/** Answers while the client still sends: closing at once would reset the connection, and the answer would be lost with it. */
export function refuseBody(request: IncomingMessage, response: ServerResponse, error: ApiError): void {
  const bytes = Buffer.from(JSON.stringify(error.toStatus()));
  response.writeHead(error.code, { 'content-type': 'application/json', 'content-length': bytes.length });
  response.write(bytes);
  const close = (): void => void response.end();
  let discarded = 0;
  request.on('data', (chunk: Buffer) => {
    discarded += chunk.length;
    if (discarded > mostDiscardedBytes) close();
  });
  for (const event of ['end', 'close', 'error'] as const) request.once(event, close);
}

/**
 * Reading Kubernetes' protobuf bodies: kubectl sends `create namespace`, `create configmap` and `create secret` in this form and
 * takes no other for an answer to "unsupported". Answers are always JSON, which every client accepts.
 *
 * The numbers of the fields are those of k8s.io/api and k8s.io/apimachinery (generated.proto), which never change them. A field
 * that is not listed is skipped; a kind that is not listed is refused.
 */
import { isObject, type JsonObject, type JsonValue } from './schema/types.ts';
import { badRequest, unsupportedMediaType } from './status.ts';

type FieldType = 'string' | 'bytes' | 'integer' | 'boolean' | 'time' | 'stringMap' | 'bytesMap' | MessageType;
interface Field {
  readonly name: string;
  readonly type: FieldType;
  readonly repeated?: boolean;
}
type MessageType = ReadonlyMap<number, Field>;

function message(fields: Record<number, readonly [string, FieldType, 'repeated'?]>): MessageType {
  const entries = Object.entries(fields).map(([tag, [name, type, repeated]]): [number, Field] => {
    return [Number(tag), { name, type, ...(repeated === undefined ? {} : { repeated: true }) }];
  });
  return new Map(entries);
}

const ownerReference = message({
  1: ['kind', 'string'],
  3: ['name', 'string'],
  4: ['uid', 'string'],
  5: ['apiVersion', 'string'],
  6: ['controller', 'boolean'],
  7: ['blockOwnerDeletion', 'boolean'],
});
const objectMeta = message({
  1: ['name', 'string'],
  2: ['generateName', 'string'],
  3: ['namespace', 'string'],
  5: ['uid', 'string'],
  6: ['resourceVersion', 'string'],
  7: ['generation', 'integer'],
  8: ['creationTimestamp', 'time'],
  9: ['deletionTimestamp', 'time'],
  10: ['deletionGracePeriodSeconds', 'integer'],
  11: ['labels', 'stringMap'],
  12: ['annotations', 'stringMap'],
  13: ['ownerReferences', ownerReference, 'repeated'],
  14: ['finalizers', 'string', 'repeated'],
});
const kinds: Record<string, MessageType> = {
  Namespace: message({
    1: ['metadata', objectMeta],
    2: ['spec', message({ 1: ['finalizers', 'string', 'repeated'] })],
    3: ['status', message({ 1: ['phase', 'string'] })],
  }),
  ConfigMap: message({
    1: ['metadata', objectMeta],
    2: ['data', 'stringMap'],
    3: ['binaryData', 'bytesMap'],
    4: ['immutable', 'boolean'],
  }),
  Secret: message({
    1: ['metadata', objectMeta],
    2: ['data', 'bytesMap'],
    3: ['type', 'string'],
    4: ['stringData', 'stringMap'],
    5: ['immutable', 'boolean'],
  }),
  DeleteOptions: message({
    1: ['gracePeriodSeconds', 'integer'],
    2: ['preconditions', message({ 1: ['uid', 'string'], 2: ['resourceVersion', 'string'] })],
    3: ['orphanDependents', 'boolean'],
    4: ['propagationPolicy', 'string'],
    5: ['dryRun', 'string', 'repeated'],
  }),
  // Reviews are answered from who asks, whatever they ask.
  SelfSubjectAccessReview: message({}),
  SelfSubjectRulesReview: message({}),
  SelfSubjectReview: message({}),
};

const magic = Buffer.from('k8s\0', 'latin1');
const envelope = message({
  1: ['typeMeta', message({ 1: ['apiVersion', 'string'], 2: ['kind', 'string'] })],
  2: ['raw', 'bytes'],
});

class Reader {
  readonly #bytes: Buffer;
  #at = 0;
  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }
  get done(): boolean {
    return this.#at >= this.#bytes.length;
  }
  varint(): bigint {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.#bytes[this.#at++];
      if (byte === undefined) break;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return BigInt.asIntN(64, value);
    }
    throw badRequest('the protobuf body is broken: a number does not end');
  }
  block(length = Number(this.varint())): Buffer {
    const end = this.#at + length;
    if (length < 0 || end > this.#bytes.length) throw badRequest('the protobuf body is broken: it ends too soon');
    const block = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return block;
  }
  skip(wireType: number): void {
    if (wireType === 0) this.varint();
    else if (wireType === 1) this.block(8);
    else if (wireType === 2) this.block();
    else if (wireType === 5) this.block(4);
    else throw badRequest(`the protobuf body is broken: wire type ${wireType}`);
  }
}

/** Seconds and nanoseconds as RFC 3339; the zero time is absent. */
function decodeTime(block: Buffer): JsonValue | undefined {
  const { seconds } = decodeMessage(block, message({ 1: ['seconds', 'integer'] }));
  return typeof seconds === 'number' && seconds > 0
    ? `${new Date(seconds * 1000).toISOString().slice(0, 19)}Z`
    : undefined;
}

function decodeEntry(block: Buffer, type: 'string' | 'bytes', into: JsonValue | undefined): JsonObject {
  const entry = decodeMessage(block, message({ 1: ['key', 'string'], 2: ['value', type] }));
  const map = isObject(into) ? into : {};
  if (entry.key === '__proto__') throw badRequest('a field may not be called "__proto__"');
  map[String(entry.key ?? '')] = entry.value ?? '';
  return map;
}

function decodeField(
  reader: Reader,
  wireType: number,
  type: FieldType,
  before: JsonValue | undefined,
): JsonValue | undefined {
  if (type === 'integer' || type === 'boolean') {
    if (wireType !== 0) throw badRequest('the protobuf body is broken: a number was expected');
    const value = reader.varint();
    return type === 'boolean' ? value !== 0n : Number(value);
  }
  if (wireType !== 2) throw badRequest('the protobuf body is broken: a block was expected');
  const block = reader.block();
  switch (type) {
    case 'string':
      return block.toString('utf8');
    case 'bytes':
      return block.toString('base64');
    case 'time':
      return decodeTime(block);
    case 'stringMap':
      return decodeEntry(block, 'string', before);
    case 'bytesMap':
      return decodeEntry(block, 'bytes', before);
    default:
      return decodeMessage(block, type);
  }
}

function decodeMessage(bytes: Buffer, type: MessageType): JsonObject {
  const object: JsonObject = {};
  const reader = new Reader(bytes);
  while (!reader.done) {
    const tag = Number(reader.varint());
    const field = type.get(tag >> 3);
    if (field === undefined) {
      reader.skip(tag & 7);
      continue;
    }
    const before = object[field.name];
    const value = decodeField(reader, tag & 7, field.type, before);
    if (value === undefined) continue;
    object[field.name] = field.repeated ? [...(Array.isArray(before) ? before : []), value] : value;
  }
  return object;
}

/** Empty text stands for "not given" in these messages. */
function dropEmpty(object: JsonObject): JsonObject {
  for (const [key, value] of Object.entries(object)) {
    if (value === '') delete object[key];
    else if (isObject(value) && key !== 'data' && key !== 'stringData' && key !== 'labels' && key !== 'annotations') {
      dropEmpty(value);
    }
  }
  return object;
}

/** Decodes a body. @throws ApiError 400 when it is broken, 415 for kinds that are only taken as JSON. */
export function decodeProtobuf(bytes: Buffer): JsonObject {
  if (!bytes.subarray(0, 4).equals(magic)) throw badRequest('the body is not protobuf as Kubernetes writes it');
  const { typeMeta, raw } = decodeMessage(bytes.subarray(4), envelope);
  const { apiVersion, kind } = isObject(typeMeta) ? typeMeta : {};
  const type = typeof kind === 'string' && Object.hasOwn(kinds, kind) ? kinds[kind] : undefined;
  if (type === undefined) {
    throw unsupportedMediaType(
      `the embedded API server takes ${String(kind)} as application/json only, not as application/vnd.kubernetes.protobuf`,
    );
  }
  const object = dropEmpty(decodeMessage(Buffer.from(String(raw ?? ''), 'base64'), type));
  return { ...(apiVersion === undefined ? {} : { apiVersion }), kind, ...object };
}

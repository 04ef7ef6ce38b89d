/**
 * The API-server port over the network.
 *
 * Invariants: those of port.ts, and
 * 1. Every call goes through the limiter; Leases in the urgent lane, lists and Events in the bulk lane.
 * 2. What the server sends is checked for the shape that this file relies on, and for size, before it is believed.
 */
import type { Clock } from '../runtime/clock.ts';
import { type CredentialSource, loadCredentials } from './credentials.ts';
import { apiVersion } from './gvk.ts';
import { isJsonObject } from './json.ts';
import { type Lane, Limiter, urgentPlaces } from './limiter.ts';
import {
  type GroupVersionKind,
  type KubeClient,
  KubeError,
  type KubeErrorReason,
  type KubeObject,
  type ListOptions,
  type ListPage,
  type ObjectKey,
  type PatchOptions,
  type Preconditions,
  type WatchEvent,
  type WatchOptions,
  type WriteOptions,
} from './port.ts';
import { type CallRequest, createTransport, type Transport } from './transport.ts';
import { errorFromWatch } from './transport-errors.ts';

export type Verb = 'get' | 'list' | 'watch' | 'create' | 'patch' | 'patch-status' | 'delete';

/** For metrics: one finished call (a watch: its opening and end). */
export interface CallReport {
  readonly verb: Verb;
  readonly kind: string;
  readonly outcome: 'ok' | KubeErrorReason;
  readonly seconds: number;
}

export interface KubeClientOptions extends CredentialSource {
  readonly clock: Clock;
  /** `name/version (purpose)`: what an administrator finds in the audit log. */
  readonly userAgent: string;
  /** Calls at once, leases and watches aside. Default 32. */
  readonly maxInFlight?: number;
  /** For one call. Default 30 s. */
  readonly timeoutMs?: number;
  readonly onCall?: (report: CallReport) => void;
}

/** One object and its event's envelope; etcd's own limit is 1.5 MiB. */
const longestWatchLine = 8 * 1024 * 1024;

function collection(gvk: GroupVersionKind, namespace: string | undefined): string {
  const root = gvk.group === '' ? `/api/${gvk.version}` : `/apis/${gvk.group}/${gvk.version}`;
  const scope = namespace === undefined ? '' : `/namespaces/${encodeURIComponent(namespace)}`;
  return `${root}${scope}/${gvk.plural}`;
}

function query(parameters: Readonly<Record<string, string | number | undefined>>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== '') search.set(name, String(value));
  }
  return search.size === 0 ? '' : `?${search}`;
}

function item(gvk: GroupVersionKind, key: ObjectKey, subresource = ''): string {
  // An empty name would address the collection: a DELETE there deletes everything.
  if (key.name === '') throw new KubeError('Invalid', `${gvk.kind}: the name is empty`);
  if (key.name === '.' || key.name === '..' || /[/%]/.test(key.name)) {
    throw new KubeError('Invalid', `${gvk.kind}: ${JSON.stringify(key.name)} cannot be a name`);
  }
  if (gvk.namespaced && (key.namespace ?? '') === '') {
    throw new KubeError('Invalid', `${gvk.kind} ${JSON.stringify(key.name)}: the namespace is missing`);
  }
  const namespace = gvk.namespaced ? key.namespace : undefined;
  return `${collection(gvk, namespace)}/${encodeURIComponent(key.name)}${subresource === '' ? '' : `/${subresource}`}`;
}

/** @param reason of the error when it is not JSON: after a change, nobody knows what was stored */
function parseJson(text: string, reason: 'Unavailable' | 'Unknown'): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new KubeError(reason, 'the server sent something that is not JSON');
  }
}

/** Drops managedFields (half of an object's bytes) and names the kind where a list leaves it out. */
function asObject<T extends KubeObject>(
  gvk: GroupVersionKind,
  value: unknown,
  reason: 'Unavailable' | 'Unknown' = 'Unavailable',
): T {
  if (!isJsonObject(value) || !isJsonObject(value.metadata)) {
    throw new KubeError(reason, `the server sent something that is not a ${gvk.kind}`);
  }
  delete value.metadata.managedFields;
  value.apiVersion ??= apiVersion(gvk);
  value.kind ??= gvk.kind;
  return value as unknown as T;
}

/** Puts the preconditions into the patch itself, where the server compares them in the transaction that stores it. */
function withPreconditions(patch: unknown, options: PatchOptions): unknown {
  const { type, uid, resourceVersion } = options;
  if (uid === undefined && resourceVersion === undefined) return patch;
  if (type === 'json') {
    const tests = Object.entries({ uid, resourceVersion })
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => ({ op: 'test', path: `/metadata/${name}`, value }));
    return Array.isArray(patch) ? [...tests, ...patch] : patch;
  }
  if (!isJsonObject(patch)) return patch;
  const metadata = isJsonObject(patch.metadata) ? patch.metadata : {};
  return {
    ...patch,
    metadata: {
      ...metadata,
      ...(uid === undefined ? {} : { uid }),
      ...(resourceVersion === undefined ? {} : { resourceVersion }),
    },
  };
}

function laneOf(gvk: GroupVersionKind, verb: Verb): Lane {
  if (gvk.kind === 'Lease') return 'urgent';
  return verb === 'list' || gvk.kind === 'Event' ? 'bulk' : 'normal';
}

class NetworkClient implements KubeClient {
  readonly #transport: Transport;
  readonly #limiter: Limiter;
  readonly #options: KubeClientOptions;

  constructor(transport: Transport, limiter: Limiter, options: KubeClientOptions) {
    this.#transport = transport;
    this.#limiter = limiter;
    this.#options = options;
  }

  async get<T extends KubeObject>(gvk: GroupVersionKind, key: ObjectKey): Promise<T> {
    const path = item(gvk, key);
    return asObject<T>(gvk, await this.#call(gvk, 'get', { method: 'GET', path, changes: false }));
  }

  async list<T extends KubeObject>(gvk: GroupVersionKind, options: ListOptions = {}): Promise<ListPage<T>> {
    const { namespace, signal, limit, labelSelector, fieldSelector } = options;
    const path =
      collection(gvk, namespace) + query({ limit, labelSelector, fieldSelector, continue: options.continue });
    const request = { method: 'GET', path, changes: false, ...(signal === undefined ? {} : { signal }) } as const;
    const page = await this.#call(gvk, 'list', request);
    const metadata = isJsonObject(page) && isJsonObject(page.metadata) ? page.metadata : undefined;
    const resourceVersion = metadata?.resourceVersion;
    const token = metadata?.continue;
    if (!isJsonObject(page) || typeof resourceVersion !== 'string') {
      throw new KubeError('Unavailable', `the server sent something that is not a list of ${gvk.plural}`);
    }
    const items = Array.isArray(page.items) ? page.items : [];
    return {
      items: items.map((each) => asObject<T>(gvk, each)),
      resourceVersion,
      ...(typeof token === 'string' && token !== '' ? { continue: token } : {}),
    };
  }

  async *watch<T extends KubeObject>(
    gvk: GroupVersionKind,
    options: WatchOptions,
  ): AsyncGenerator<WatchEvent<T>, void, undefined> {
    const { namespace, labelSelector, resourceVersion, timeoutSeconds, signal } = options;
    const parameters = { resourceVersion, labelSelector, timeoutSeconds };
    const path = collection(gvk, namespace) + query({ watch: 'true', allowWatchBookmarks: 'true', ...parameters });
    const report = this.#reporter(gvk, 'watch');
    try {
      for await (const line of lines(this.#transport.stream(path, signal))) yield watchEvent<T>(gvk, line);
      report('ok');
    } catch (error) {
      report(error);
      throw error;
    }
  }

  async create<T extends KubeObject>(gvk: GroupVersionKind, object: T, options: WriteOptions = {}): Promise<T> {
    const namespace = gvk.namespaced ? object.metadata.namespace : undefined;
    if (gvk.namespaced && (namespace ?? '') === '') {
      throw new KubeError('Invalid', `${gvk.kind} ${JSON.stringify(object.metadata.name)}: the namespace is missing`);
    }
    const { dryRun, fieldManager } = options;
    const answer = await this.#call(gvk, 'create', {
      method: 'POST',
      path: collection(gvk, namespace) + query({ fieldManager, dryRun: dryRun === true ? 'All' : undefined }),
      body: JSON.stringify({ ...object, apiVersion: apiVersion(gvk), kind: gvk.kind }),
      contentType: 'application/json',
      changes: dryRun !== true,
    });
    return asObject<T>(gvk, answer, 'Unknown');
  }

  async patch<T extends KubeObject>(
    gvk: GroupVersionKind,
    key: ObjectKey,
    patch: unknown,
    options: PatchOptions,
  ): Promise<T> {
    const { dryRun, fieldManager, subresource, type } = options;
    const answer = await this.#call(gvk, subresource === 'status' ? 'patch-status' : 'patch', {
      method: 'PATCH',
      path: item(gvk, key, subresource) + query({ fieldManager, dryRun: dryRun === true ? 'All' : undefined }),
      body: JSON.stringify(withPreconditions(patch, options)),
      contentType: type === 'json' ? 'application/json-patch+json' : 'application/merge-patch+json',
      changes: dryRun !== true,
    });
    return asObject<T>(gvk, answer, 'Unknown');
  }

  async delete(
    gvk: GroupVersionKind,
    key: ObjectKey,
    options: Preconditions & { propagation?: 'Foreground' | 'Background' | 'Orphan'; dryRun?: boolean } = {},
  ): Promise<void> {
    const { uid, resourceVersion, propagation, dryRun } = options;
    const body = {
      apiVersion: 'v1',
      kind: 'DeleteOptions',
      ...(uid === undefined && resourceVersion === undefined ? {} : { preconditions: { uid, resourceVersion } }),
      ...(propagation === undefined ? {} : { propagationPolicy: propagation }),
      ...(dryRun === true ? { dryRun: ['All'] } : {}),
    };
    await this.#call(gvk, 'delete', {
      method: 'DELETE',
      path: item(gvk, key),
      body: JSON.stringify(body),
      contentType: 'application/json',
      changes: dryRun !== true,
    });
  }

  close(): Promise<void> {
    return this.#transport.close();
  }

  async #call(gvk: GroupVersionKind, verb: Verb, request: CallRequest): Promise<unknown> {
    const report = this.#reporter(gvk, verb);
    try {
      const answer = await this.#limiter.run(laneOf(gvk, verb), () => this.#transport.call(request));
      const parsed = parseJson(answer.toString(), request.changes ? 'Unknown' : 'Unavailable');
      report('ok');
      return parsed;
    } catch (error) {
      report(error);
      throw error;
    }
  }

  #reporter(gvk: GroupVersionKind, verb: Verb): (outcome: unknown) => void {
    const { clock, onCall } = this.#options;
    const startedAt = clock.monotonic();
    return (outcome) => {
      const reason = outcome instanceof KubeError ? outcome.reason : outcome === 'ok' ? 'ok' : 'Unavailable';
      onCall?.({ verb, kind: gvk.kind, outcome: reason, seconds: (clock.monotonic() - startedAt) / 1000 });
    };
  }
}

async function* lines(chunks: AsyncIterable<Buffer>): AsyncGenerator<string, void, undefined> {
  let rest: Buffer[] = [];
  let restBytes = 0;
  for await (const chunk of chunks) {
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      const line = chunk.subarray(start, end);
      yield (restBytes === 0 ? line : Buffer.concat([...rest, line])).toString();
      rest = [];
      restBytes = 0;
      start = end + 1;
    }
    if (start < chunk.length) {
      rest.push(chunk.subarray(start));
      restBytes += chunk.length - start;
      if (restBytes > longestWatchLine) {
        throw new KubeError('Unavailable', `the server sent a watch event of more than ${longestWatchLine} bytes`);
      }
    }
  }
  if (restBytes > 0) throw new KubeError('Unavailable', 'the watch broke off in the middle of an event');
}

function watchEvent<T extends KubeObject>(gvk: GroupVersionKind, line: string): WatchEvent<T> {
  const event = parseJson(line, 'Unavailable');
  if (!isJsonObject(event)) throw new KubeError('Unavailable', 'the server sent a watch event that is not an object');
  const { type, object } = event;
  switch (type) {
    case 'ERROR':
      return { type, error: errorFromWatch(object) };
    case 'BOOKMARK': {
      const { resourceVersion } = asObject(gvk, object).metadata;
      if (resourceVersion === undefined)
        throw new KubeError('Unavailable', 'the server sent a bookmark without a version');
      return { type, resourceVersion };
    }
    case 'ADDED':
    case 'MODIFIED':
    case 'DELETED':
      return { type, object: asObject<T>(gvk, object) };
    default:
      throw new KubeError('Unavailable', `the server sent a watch event of type ${JSON.stringify(type)}`);
  }
}

/** @throws Error when the source of credentials is not usable; nothing is sent yet */
export async function createKubeClient(options: KubeClientOptions): Promise<KubeClient> {
  const { clock, userAgent, timeoutMs } = options;
  const credentials = await loadCredentials(options, clock);
  const maxInFlight = options.maxInFlight ?? 32;
  const transport = createTransport({
    credentials,
    clock,
    userAgent,
    connections: maxInFlight + urgentPlaces,
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  });
  return new NetworkClient(transport, new Limiter(maxInFlight), options);
}

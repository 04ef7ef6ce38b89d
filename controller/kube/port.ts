/**
 * What the rest of the operator needs of a Kubernetes API server, split by capability: accept the narrowest you use.
 *
 * Invariants of every adapter (held by the contract suite in test/contract/kube.ts):
 * 1. A failed call throws a `KubeError` whose `reason` is the server's; a call whose outcome is not known throws
 *    reason `Unknown`, and the caller reads again before it acts.
 * 2. Objects that come out are the caller's to read and never to change.
 * 3. A write that names uid or resourceVersion is refused with `Conflict` when the stored object has another; so is a JSON
 *    patch that does not apply to what is stored (a `test` that fails, a path that is not there).
 * 4. A read is never `Unknown`: it changes nothing, so a lost answer is `Unavailable`.
 */

export interface GroupVersionKind {
  readonly group: string;
  readonly version: string;
  readonly kind: string;
  /** Plural, lower case, as it stands in a path. */
  readonly plural: string;
  readonly namespaced: boolean;
}

export interface OwnerReference {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
  blockOwnerDeletion?: boolean;
}

export interface ObjectMeta {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generation?: number;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  deletionGracePeriodSeconds?: number;
  finalizers?: string[];
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: OwnerReference[];
  generateName?: string;
}

export interface KubeObject {
  apiVersion?: string;
  kind?: string;
  metadata: ObjectMeta;
}

export interface ObjectKey {
  readonly namespace?: string;
  readonly name: string;
}

/** The closed set of failures, each with what a caller does about it. */
export type KubeErrorReason =
  | 'NotFound' // the object is not there
  | 'AlreadyExists' // create: read it, then decide
  | 'Conflict' // somebody wrote in between: read again, decide again
  | 'Invalid' // the server's validation refused it: do not retry unchanged
  | 'Forbidden' // permissions or admission: do not retry soon
  | 'Unauthorized'
  | 'Gone' // 410: list again
  | 'TooManyRequests' // retry after `retryAfterMs`
  | 'Unavailable' // 5xx, refused or reset before the request was sent: retry
  | 'Unknown'; // sent and unanswered: it may have happened

export class KubeError extends Error {
  override readonly name = 'KubeError';
  readonly reason: KubeErrorReason;
  /** HTTP status, 0 where there was no answer. */
  readonly status: number;
  readonly retryAfterMs: number | undefined;
  constructor(
    reason: KubeErrorReason,
    message: string,
    options: { status?: number; retryAfterMs?: number; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.reason = reason;
    this.status = options.status ?? 0;
    this.retryAfterMs = options.retryAfterMs;
  }
}

export interface Preconditions {
  uid?: string;
  resourceVersion?: string;
}

export interface WriteOptions {
  dryRun?: boolean;
  fieldManager?: string;
}

export interface PatchOptions extends WriteOptions, Preconditions {
  /** `merge`: RFC 7386. `json`: RFC 6902. */
  type: 'merge' | 'json';
  subresource?: 'status' | 'scale';
}

export interface ListPage<T> {
  items: T[];
  /** The version a watch may start from. */
  resourceVersion: string;
  /** Absent on the last page. */
  continue?: string;
}

export interface ListOptions {
  namespace?: string;
  labelSelector?: string;
  fieldSelector?: string;
  /** Objects per page; the server may return fewer. */
  limit?: number;
  continue?: string;
  signal?: AbortSignal;
}

export type WatchEvent<T> =
  | { type: 'ADDED' | 'MODIFIED' | 'DELETED'; object: T }
  | { type: 'BOOKMARK'; resourceVersion: string }
  | { type: 'ERROR'; error: KubeError };

export interface WatchOptions {
  namespace?: string;
  labelSelector?: string;
  resourceVersion: string;
  /** The server ends the watch after this many seconds. */
  timeoutSeconds?: number;
  signal?: AbortSignal;
}

export interface KubeReader {
  get<T extends KubeObject>(gvk: GroupVersionKind, key: ObjectKey): Promise<T>;
  /** One page. `managedFields` are dropped from every item. */
  list<T extends KubeObject>(gvk: GroupVersionKind, options?: ListOptions): Promise<ListPage<T>>;
  /** Ends without an error when the server closes the stream; bookmarks are always asked for. */
  watch<T extends KubeObject>(gvk: GroupVersionKind, options: WatchOptions): AsyncIterable<WatchEvent<T>>;
}

export interface KubeWriter {
  create<T extends KubeObject>(gvk: GroupVersionKind, object: T, options?: WriteOptions): Promise<T>;
  patch<T extends KubeObject>(gvk: GroupVersionKind, key: ObjectKey, patch: unknown, options: PatchOptions): Promise<T>;
  /** Resolves once the server accepted the deletion; finalizers may keep the object for longer. */
  delete(
    gvk: GroupVersionKind,
    key: ObjectKey,
    options?: Preconditions & { propagation?: 'Foreground' | 'Background' | 'Orphan'; dryRun?: boolean },
  ): Promise<void>;
}

export interface KubeClient extends KubeReader, KubeWriter {
  /** Releases connections; calls under way fail with `Unknown`. */
  close(): Promise<void>;
}

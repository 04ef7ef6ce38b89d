/**
 * Faults and a record of calls around any adapter of the API-server port; the adapter itself stays clean.
 *
 * Invariant: a fault `before` a call means that the adapter never saw it; a fault `after` means that it did its work and the
 * answer was lost.
 */
import type { GroupVersionKind, KubeClient, KubeError, ObjectKey } from '../../controller/kube/port.ts';

export interface RecordedCall {
  readonly verb: 'get' | 'list' | 'watch' | 'create' | 'patch' | 'delete';
  readonly kind: string;
  readonly key?: ObjectKey;
  readonly subresource?: 'status' | 'scale';
  readonly body?: unknown;
}

export interface Faults {
  /** Return an error to fail the call before it reaches the adapter, or a promise to hold it up. */
  before?: (call: RecordedCall) => KubeError | Promise<KubeError | undefined> | undefined;
  /** Return an error to lose the answer of a call that was carried out. */
  after?: (call: RecordedCall) => KubeError | Promise<KubeError | undefined> | undefined;
}

export interface FaultyKube extends KubeClient {
  /** Every call in order, whether it failed or not. */
  readonly calls: RecordedCall[];
  /** Replace at any time. */
  faults: Faults;
}

export function faultyKube(client: KubeClient, faults: Faults = {}): FaultyKube {
  const calls: RecordedCall[] = [];
  const through = async <R>(call: RecordedCall, work: () => Promise<R>): Promise<R> => {
    calls.push(call);
    const refused = await faulty.faults.before?.(call);
    if (refused !== undefined) throw refused;
    const result = await work();
    const lost = await faulty.faults.after?.(call);
    if (lost !== undefined) throw lost;
    return result;
  };
  const named = (verb: RecordedCall['verb'], gvk: GroupVersionKind, key?: ObjectKey): RecordedCall => ({
    verb,
    kind: gvk.kind,
    ...(key === undefined ? {} : { key }),
  });
  const faulty: FaultyKube = {
    calls,
    faults,
    get: (gvk, key) => through(named('get', gvk, key), () => client.get(gvk, key)),
    list: (gvk, options) => through(named('list', gvk), () => client.list(gvk, options)),
    async *watch(gvk, options) {
      await through(named('watch', gvk), async () => {});
      yield* client.watch(gvk, options);
    },
    create: (gvk, object, options) =>
      through({ ...named('create', gvk, { name: object.metadata.name }), body: object }, () =>
        client.create(gvk, object, options),
      ),
    patch: (gvk, key, patch, options) => {
      const { subresource } = options;
      const call = { ...named('patch', gvk, key), body: patch, ...(subresource === undefined ? {} : { subresource }) };
      return through(call, () => client.patch(gvk, key, patch, options));
    },
    delete: (gvk, key, options) => through(named('delete', gvk, key), () => client.delete(gvk, key, options)),
    close: () => client.close(),
  };
  return faulty;
}

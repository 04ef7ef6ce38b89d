/**
 * The client of a leader: it writes only while the process leads.
 *
 * Invariant: no write is sent after leadership has ended, not even by a process that stood still and has not noticed yet. One that had been
 * sent, or decided on what was read before, names versions and meets a conflict; decided again after the reading that follows, it ends here.
 */
import { type KubeClient, KubeError } from './port.ts';

/** @param isLeader looks at the clock: a timer that tells of the end may be late */
export function whileLeading(client: KubeClient, isLeader: () => boolean): KubeClient {
  const write = async <T>(send: () => Promise<T>): Promise<T> => {
    if (isLeader()) return send();
    throw new KubeError('Unavailable', 'not sent: this process no longer leads');
  };
  return {
    get: (gvk, key) => client.get(gvk, key),
    list: (gvk, options) => client.list(gvk, options),
    watch: (gvk, options) => client.watch(gvk, options),
    create: (gvk, object, options) => write(() => client.create(gvk, object, options)),
    patch: (gvk, key, patch, options) => write(() => client.patch(gvk, key, patch, options)),
    delete: (gvk, key, options) => write(() => client.delete(gvk, key, options)),
    close: () => client.close(),
  };
}

/**
 * Comparing resourceVersions of objects of one kind.
 *
 * Since KEP-5504 (Kubernetes 1.35, "comparable resource version") they are decimal integers without leading zeros that
 * grow with every write of a resource, up to 128 bits long; every etcd-backed server before it did the same, and so does
 * the standalone server. They are compared only within one kind, never across kinds and never with a time.
 * A server whose versions are anything else is refused with an error rather than guessed about.
 */

const form = /^(?:0|[1-9][0-9]{0,38})$/;

/** @returns a negative number when `a` is older than `b`, 0 when equal, a positive number when newer */
export function compareResourceVersions(a: string, b: string): number {
  if (!form.test(a) || !form.test(b)) {
    throw new Error(
      `resourceVersion ${JSON.stringify(form.test(a) ? b : a)} is not a decimal integer: this API server does not ` +
        'offer comparable resource versions (Kubernetes KEP-5504), which this operator needs',
    );
  }
  if (a.length !== b.length) return a.length - b.length;
  return a < b ? -1 : a > b ? 1 : 0;
}

/**
 * What the operator wrote to the API server, by its own count of finished calls, refused ones included.
 */

/** Calls that change something, by `verb kind`, for example `patch-status PhysicalNode`. */
export type Writes = Readonly<Record<string, number>>;

const line = /^bitvisor_api_calls_total\{([^}]*)\} (\d+)$/gm;
const changing = new Set(['create', 'patch', 'patch-status', 'delete']);

/** @param metrics in Prometheus' text format */
export function readWrites(metrics: string): Writes {
  const writes: Record<string, number> = {};
  for (const [, labels = '', value] of metrics.matchAll(line)) {
    const label = (name: string): string => new RegExp(`${name}="([^"]*)"`).exec(labels)?.[1] ?? '';
    if (!changing.has(label('verb'))) continue;
    const outcome = label('outcome') === 'ok' ? '' : ` (${label('outcome')})`;
    const key = `${label('verb')} ${label('kind')}${outcome}`;
    writes[key] = (writes[key] ?? 0) + Number(value);
  }
  return writes;
}

export function difference(after: Writes, before: Writes): Writes {
  const keys = Object.keys(after).filter((key) => (after[key] ?? 0) > (before[key] ?? 0));
  return Object.fromEntries(keys.map((key) => [key, (after[key] ?? 0) - (before[key] ?? 0)]));
}

/** Those to nodes; with `undefined`, all, except the Lease, which is written as time passes and not as nodes are used. */
export function sum(writes: Writes, kind?: 'PhysicalNode'): number {
  return Object.entries(writes)
    .filter(([key]) => (kind === undefined ? !key.includes(' Lease') : key.split(' ')[1] === kind))
    .reduce((total, [, count]) => total + count, 0);
}

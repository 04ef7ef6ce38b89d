/**
 * The durable record of what a sync applied: ConfigMaps `<sync>-inventory-<k>` in the operator's namespace.
 *
 * Invariants:
 * 1. An entry is written before its object is created (without uid) and again with the uid: what was applied is never forgotten.
 * 2. Shards only ever double, and the new ones are written first: a write cut off in between leaves entries twice, never lost.
 * 3. What cannot be understood is an error, never an empty inventory.
 * 4. What was pruned is remembered for as long as a request to create it may still be on its way: it would come back as nobody's.
 * 5. A write names the resourceVersion that was read: two writers cannot both succeed.
 */
import { createHash } from 'node:crypto';
import { configMaps } from '../api/meta.ts';
import { deepEqual } from '../kube/json.ts';
import { type KubeClient, KubeError, type KubeObject } from '../kube/port.ts';
import { isObject } from '../standalone/schema/index.ts';

export interface InventoryEntry {
  readonly key: string;
  readonly group: string;
  readonly version: string;
  readonly kind: string;
  readonly plural: string;
  readonly namespace?: string;
  readonly name: string;
  /** Absent from the intent to create it until the server's answer. */
  readonly uid?: string;
  /** The file that defined it last. */
  readonly file: string;
  /** SHA-256 of what was last applied, in hexadecimal. */
  readonly hash: string;
  /** It is missing, and may only be deleted once a person confirmed it; absent: not so. See PrunePlan.waiting. */
  readonly held?: boolean;
  /** Since when it is pruned, in wall-clock milliseconds; absent: it is not. Such an entry stands in `Inventory.pruned` alone. */
  readonly prunedAtMs?: number;
}

export interface Inventory {
  readonly entries: readonly InventoryEntry[];
  /** Pruned a short while ago, or there again since; absent: nothing. */
  readonly pruned?: readonly InventoryEntry[];
  /** The commit that was applied last, or that a pass which was cut off had begun to apply. */
  readonly commit: string | undefined;
  /** See PrunePlan.unread. */
  readonly unread: Readonly<Record<string, string>>;
}

export interface ConfigMap extends KubeObject {
  data?: Record<string, string>;
}

export const hashOf = (text: string): string => createHash('sha256').update(text).digest('hex');

/** A ConfigMap holds 1 MiB. */
const fullestShardBytes = 900_000;
const mostShards = 64;

export class InventoryError extends Error {
  override readonly name = 'InventoryError';
}

const isText = (value: unknown): value is string => typeof value === 'string';

function isEntry(value: unknown): value is InventoryEntry {
  if (!isObject(value)) return false;
  const required = ['key', 'group', 'version', 'kind', 'plural', 'name', 'file', 'hash'].every((name) =>
    isText(value[name]),
  );
  const isHeldSound = value.held === undefined || typeof value.held === 'boolean';
  const isPrunedSound = value.prunedAtMs === undefined || Number.isFinite(value.prunedAtMs);
  return (
    required &&
    isHeldSound &&
    isPrunedSound &&
    ['namespace', 'uid'].every((name) => value[name] === undefined || isText(value[name]))
  );
}

export class InventoryStore {
  readonly #kube: KubeClient;
  readonly #namespace: string;
  readonly #sync: string;
  #shards: ConfigMap[] = [];

  constructor(kube: KubeClient, namespace: string, sync: string) {
    this.#kube = kube;
    this.#namespace = namespace;
    this.#sync = sync;
  }

  #name(index: number): string {
    return `${this.#sync}-inventory-${index}`;
  }

  async #shard(index: number): Promise<ConfigMap | undefined> {
    try {
      return await this.#kube.get<ConfigMap>(configMaps, { namespace: this.#namespace, name: this.#name(index) });
    } catch (error) {
      if (error instanceof KubeError && error.reason === 'NotFound') return undefined;
      throw error;
    }
  }

  /** @throws InventoryError when what is stored cannot be understood; KubeError */
  async read(): Promise<Inventory> {
    this.#shards = [];
    const entries = new Map<string, InventoryEntry>();
    for (let index = 0; index < mostShards; index++) {
      const shard = await this.#shard(index);
      if (shard === undefined) break;
      this.#shards.push(shard);
      for (const entry of this.#parse(
        shard,
        'objects',
        '[]',
        (value): value is InventoryEntry[] => Array.isArray(value) && value.every(isEntry),
      )) {
        // A write cut off while shards doubled leaves one key twice.
        if (entry.prunedAtMs === undefined || !entries.has(entry.key)) entries.set(entry.key, entry);
      }
    }
    const [first] = this.#shards;
    if (first === undefined) return { entries: [], commit: undefined, unread: {} };
    const isUnread = (value: unknown): value is Record<string, string> =>
      isObject(value) && Object.values(value).every(isText);
    const unread = this.#parse(first, 'unread', '{}', isUnread);
    const all = [...entries.values()];
    const pruned = all.filter((entry) => entry.prunedAtMs !== undefined);
    return {
      entries: all.filter((entry) => entry.prunedAtMs === undefined),
      pruned,
      commit: first.data?.commit || undefined,
      unread,
    };
  }

  #parse<T>(shard: ConfigMap, field: string, absent: string, is: (value: unknown) => value is T): T {
    let value: unknown;
    try {
      value = JSON.parse(shard.data?.[field] ?? absent);
    } catch {
      value = undefined;
    }
    if (is(value)) return value;
    const place = `ConfigMap ${this.#namespace}/${shard.metadata.name}`;
    throw new InventoryError(
      `${place}: data.${field} is damaged; restore it, or delete the ConfigMap to start without a record (nothing is then pruned)`,
    );
  }

  /** Writes what differs from what was read or written last. */
  async write(inventory: Inventory): Promise<void> {
    const keys = new Set(inventory.entries.map((entry) => entry.key));
    const all = [...inventory.entries, ...(inventory.pruned ?? []).filter((entry) => !keys.has(entry.key))];
    const count = this.#shardCount(all);
    const buckets: InventoryEntry[][] = Array.from({ length: count }, () => []);
    for (const entry of all.sort((a, b) => (a.key < b.key ? -1 : 1))) {
      buckets[Number.parseInt(hashOf(entry.key).slice(0, 8), 16) % count]?.push(entry);
    }
    for (let index = count - 1; index >= 0; index--) {
      const data: Record<string, string> = { objects: JSON.stringify(buckets[index] ?? []) };
      if (index === 0)
        Object.assign(data, { commit: inventory.commit ?? '', unread: JSON.stringify(inventory.unread) });
      await this.#put(index, data);
    }
  }

  #shardCount(entries: readonly InventoryEntry[]): number {
    const bytes = Buffer.byteLength(JSON.stringify(entries));
    let count = 1;
    while (count < this.#shards.length || bytes > count * fullestShardBytes * 0.6) count *= 2;
    if (count > mostShards) throw new InventoryError(`more objects than ${mostShards} ConfigMaps can list`);
    return count;
  }

  async #put(index: number, data: Record<string, string>): Promise<void> {
    const old = this.#shards[index];
    const name = this.#name(index);
    if (old === undefined) {
      const metadata = { name, namespace: this.#namespace, labels: { 'bitvisor.io/sync': this.#sync } };
      this.#shards[index] = await this.#kube.create<ConfigMap>(configMaps, {
        apiVersion: 'v1',
        kind: 'ConfigMap',
        metadata,
        data,
      });
      return;
    }
    if (deepEqual(old.data, data)) return;
    const { uid, resourceVersion } = old.metadata;
    const options = {
      type: 'merge' as const,
      ...(uid === undefined ? {} : { uid }),
      ...(resourceVersion === undefined ? {} : { resourceVersion }),
    };
    this.#shards[index] = await this.#kube.patch<ConfigMap>(
      configMaps,
      { namespace: this.#namespace, name },
      { data },
      options,
    );
  }
}

/**
 * Which allocation's committed status names which node: the link from a decision on an allocation to the nodes that act
 * on it.
 *
 * Invariants:
 * 1. Only what stands in a stored status counts; nothing is assigned by intention.
 * 2. A hostlist is parsed once for each time that it changes, whatever else changes in the status.
 */
import { parseHostlist } from '../api/hostlist.ts';
import type { NodeAllocation, NodeAllocationStatus } from '../api/types.generated.ts';

export interface Assignment {
  /** `namespace/name` of the allocation. */
  readonly allocation: string;
  readonly uid: string;
  readonly role: 'Placed' | 'Ending' | 'Replaced';
  readonly endReason?: string;
  readonly updating: boolean;
}

class HostField {
  #text: string | undefined;
  names: ReadonlySet<string> = new Set();

  /** Adds to `changed` what came or went. */
  set(text: string | undefined, changed: Set<string>): void {
    if (text === this.#text) return;
    const next = new Set(text ? parseHostlist(text) : []);
    for (const name of this.names) if (!next.has(name)) changed.add(name);
    for (const name of next) if (!this.names.has(name)) changed.add(name);
    this.#text = text;
    this.names = next;
  }
}

class Listing {
  uid = '';
  readonly nodes = new HostField();
  readonly replaced = new HostField();
  readonly updating = new HostField();
  readonly ending = new Map<string, HostField>();

  update(uid: string, status: NodeAllocationStatus | undefined): Set<string> {
    const changed = new Set<string>();
    const uidChanged = uid !== this.uid;
    this.uid = uid;
    this.nodes.set(status?.nodes, changed);
    this.replaced.set(status?.replaced, changed);
    this.updating.set(status?.updating, changed);
    const texts = new Map(status?.ending?.map((entry) => [entry.reason as string, entry.nodes]));
    for (const [reason, field] of this.ending) if (!texts.has(reason)) field.set(undefined, changed);
    for (const [reason, text] of texts) {
      const field = this.ending.get(reason) ?? new HostField();
      this.ending.set(reason, field);
      field.set(text, changed);
    }
    if (uidChanged) for (const name of this.all()) changed.add(name);
    return changed;
  }

  *all(): Iterable<string> {
    yield* this.nodes.names;
    yield* this.replaced.names;
    for (const field of this.ending.values()) yield* field.names;
  }

  roleOf(name: string): { role: Assignment['role']; endReason?: string } | undefined {
    for (const [endReason, field] of this.ending) if (field.names.has(name)) return { role: 'Ending', endReason };
    if (this.replaced.names.has(name)) return { role: 'Replaced' };
    if (this.nodes.names.has(name)) return { role: 'Placed' };
    return undefined;
  }
}

const noKeys: ReadonlySet<string> = new Set();

export class Assignments {
  readonly #listings = new Map<string, Listing>();
  readonly #byNode = new Map<string, Set<string>>();

  /** Takes in a changed or deleted (undefined) allocation. @returns names of the nodes whose assignment changed */
  update(key: string, allocation: NodeAllocation | undefined): Set<string> {
    const listing = this.#listings.get(key) ?? new Listing();
    this.#listings.set(key, listing);
    const changed = listing.update(allocation?.metadata.uid ?? '', allocation?.status);
    for (const name of changed) {
      const keys = this.#byNode.get(name) ?? new Set<string>();
      if (listing.roleOf(name)) keys.add(key);
      else keys.delete(key);
      if (keys.size > 0) this.#byNode.set(name, keys);
      else this.#byNode.delete(name);
    }
    if (allocation === undefined) this.#listings.delete(key);
    return changed;
  }

  /** Keys of the allocations that name the node. More than one only after a race, until one of them lets go. */
  allocationsOf(nodeName: string): ReadonlySet<string> {
    return this.#byNode.get(nodeName) ?? noKeys;
  }

  /** What the allocation says of the node; undefined when it does not name it. */
  get(allocationKey: string, nodeName: string): Assignment | undefined {
    const listing = this.#listings.get(allocationKey);
    const found = listing?.roleOf(nodeName);
    if (listing === undefined || found === undefined) return undefined;
    return { allocation: allocationKey, uid: listing.uid, ...found, updating: listing.updating.names.has(nodeName) };
  }

  /** Every node that the allocation names. */
  nodesOf(allocationKey: string): Iterable<string> {
    return this.#listings.get(allocationKey)?.all() ?? [];
  }
}

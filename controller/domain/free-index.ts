/**
 * The free nodes, kept so that a placement costs per class and rack, never per node.
 *
 * Nodes that are equal in everything a placement may ask for (labels, inventory, the agent's capabilities) share a class.
 * Labels that differ from node to node make a class of each node: then a placement costs as much as there are nodes.
 *
 * Invariants:
 * 1. A node stands in exactly one class, under exactly one rack, or is not here at all.
 * 2. No class and no rack is empty.
 * 3. Adding and removing cost as much as the node's own facts, whatever the number of nodes.
 */
import type { Inventory } from '../api/protocol.generated.ts';
import type { Labels } from './selector.ts';

/** What a placement may ask of a node; equal within a class. */
export interface ClassFacts {
  readonly labels: Labels;
  readonly inventory: {
    readonly architecture: string;
    readonly cores: number;
    readonly memoryBytes: number;
    readonly disks: readonly {
      readonly media: Inventory['disks'][number]['media'] | string;
      readonly sizeBytes: number;
    }[];
  };
  /** Of the agent that speaks for the node: "format:Raw", ... */
  readonly capabilities: readonly string[];
}

/** Where a node stands. A rack's name counts within its site. */
export interface Location {
  readonly site: string;
  readonly rack: string;
}

export interface FreeNode extends Location, ClassFacts {
  readonly name: string;
}

/** One object a rack, so that racks can be compared by identity. */
export interface Rack extends Location {
  free: number;
}

export interface NodeClass {
  readonly key: string;
  readonly facts: ClassFacts;
  /** Free nodes of the class. */
  free: number;
  /** Their names, by rack. */
  readonly racks: Map<Rack, Set<string>>;
}

const byText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

function classKey({ labels, inventory, capabilities }: ClassFacts): string {
  return JSON.stringify([
    Object.entries(labels).sort(([a], [b]) => byText(a, b)),
    inventory.architecture,
    inventory.cores,
    inventory.memoryBytes,
    inventory.disks.map(({ media, sizeBytes }) => `${media} ${sizeBytes}`).sort(),
    [...capabilities].sort(),
  ]);
}

const rackKey = ({ site, rack }: Location): string => JSON.stringify([site, rack]);

export class FreeIndex {
  readonly #classes = new Map<string, NodeClass>();
  readonly #racks = new Map<string, Rack>();
  readonly #nodes = new Map<string, { nodeClass: NodeClass; rack: Rack }>();

  /** How many nodes are free. */
  get size(): number {
    return this.#nodes.size;
  }

  has(name: string): boolean {
    return this.#nodes.has(name);
  }

  /** Every class that has a free node. */
  classes(): Iterable<NodeClass> {
    return this.#classes.values();
  }

  /** The rack, while it has a free node. */
  rackAt(location: Location): Rack | undefined {
    return this.#racks.get(rackKey(location));
  }

  /** Where a free node stands in the index. */
  find(name: string): { readonly nodeClass: NodeClass; readonly rack: Rack } | undefined {
    return this.#nodes.get(name);
  }

  /** Makes a node free, or brings what is known of a free node up to date. */
  add(node: FreeNode): void {
    this.remove(node.name);
    const key = classKey(node);
    const nodeClass = this.#classes.get(key) ?? { key, facts: node, free: 0, racks: new Map<Rack, Set<string>>() };
    this.#classes.set(key, nodeClass);
    const location = rackKey(node);
    const rack = this.#racks.get(location) ?? { site: node.site, rack: node.rack, free: 0 };
    this.#racks.set(location, rack);
    const names = nodeClass.racks.get(rack);
    if (names === undefined) nodeClass.racks.set(rack, new Set([node.name]));
    else names.add(node.name);
    nodeClass.free++;
    rack.free++;
    this.#nodes.set(node.name, { nodeClass, rack });
  }

  /** Takes a node out; false when it was not free. */
  remove(name: string): boolean {
    const found = this.#nodes.get(name);
    if (found === undefined) return false;
    const { nodeClass, rack } = found;
    this.#nodes.delete(name);
    const names = nodeClass.racks.get(rack);
    names?.delete(name);
    if (names?.size === 0) nodeClass.racks.delete(rack);
    if (--nodeClass.free === 0) this.#classes.delete(nodeClass.key);
    if (--rack.free === 0) this.#racks.delete(rackKey(rack));
    return true;
  }
}

/**
 * The block graph of a disk: what lies between the guest's disk and the file that is its medium. QEMU's block layer plays the
 * hypervisor's storage mediator.
 *
 * Plain:    top (raw) → file. What bare metal has.
 * Empty:    top (raw) → nothing but zeros. From a network boot's power-on until the boot server has answered, so that firmware which finds
 *           no network cannot start what lies on the disk.
 * Mediated: top (raw) → local (qcow2: the map of filled blocks, its data in file) → image (raw) → net (NBD).
 *
 * Invariant: the nodes of a disk are named by the disk alone, so a graph that was mediated and is plain again equals one that
 * never was.
 */
import type { DiskShape } from './shape.ts';

export type GraphKind = 'Plain' | 'Empty' | 'Mediated' | 'Other';

export interface NodeNames {
  readonly top: string;
  readonly file: string;
  readonly empty: string;
  readonly local: string;
  readonly map: string;
  readonly image: string;
  readonly net: string;
}

export const nodeNames = (disk: string): NodeNames => ({
  top: `${disk}-top`,
  file: `${disk}-file`,
  empty: `${disk}-empty`,
  local: `${disk}-local`,
  map: `${disk}-map`,
  image: `${disk}-image`,
  net: `${disk}-net`,
});

export const fileNode = (disk: string, path: string): object => ({
  driver: 'file',
  'node-name': nodeNames(disk).file,
  filename: path,
  discard: 'unmap',
});

export const emptyNode = ({ name, sizeBytes }: DiskShape): object => ({
  driver: 'null-co',
  'node-name': nodeNames(name).empty,
  size: sizeBytes,
  'read-zeroes': true,
});

export const topNode = (disk: string, below: string): object => ({
  driver: 'raw',
  'node-name': nodeNames(disk).top,
  file: below,
  discard: 'unmap',
});

/** Of `x-debug-query-block-graph`, as far as it is looked at. */
export interface BlockGraph {
  readonly nodes: readonly { readonly id: number; readonly name: string; readonly type: string }[];
  readonly edges: readonly { readonly parent: number; readonly child: number; readonly name: string }[];
}

/** The graph below each disk's top as lines "parent -role-> child", in order: two equal texts are equal graphs. */
export function graphText(graph: BlockGraph, disk: string): string {
  const byId = new Map(graph.nodes.map((node) => [node.id, node.name]));
  const belongs = (name: string | undefined): boolean => name?.startsWith(`${disk}-`) === true;
  return graph.edges
    .map(({ parent, child, name }) => [byId.get(parent), name, byId.get(child)] as const)
    .filter(([parent, , child]) => belongs(parent) && belongs(child))
    .map(([parent, role, child]) => `${parent} -${role}-> ${child}`)
    .sort()
    .join('\n');
}

/** What lies below the disk's top. */
export function graphKind(graph: BlockGraph, disk: string): GraphKind {
  const names = nodeNames(disk);
  const nodes = new Map(graph.nodes.map((node) => [node.id, node.name]));
  const top = graph.nodes.find(({ name }) => name === names.top)?.id;
  const below = (parent: number | undefined): number[] =>
    graph.edges.filter((edge) => edge.parent === parent).map(({ child }) => child);
  let [child, ...more] = below(top);
  // The copy reads through a filter of its own, which has no name that we gave it and one child.
  if (child !== undefined && nodes.get(child)?.startsWith('#') === true) [child, ...more] = below(child);
  const found = child === undefined || more.length > 0 ? undefined : nodes.get(child);
  const present = new Set(nodes.values());
  const mediates = [names.local, names.map, names.image, names.net].some((name) => present.has(name));
  if (found === names.file) return mediates ? 'Other' : 'Plain';
  if (found === names.empty) return 'Empty';
  return found === names.local ? 'Mediated' : 'Other';
}

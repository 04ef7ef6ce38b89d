/**
 * The machine hall of the benchmark, and the manifests that declare it: the TSUBAME2 example, grown.
 */
import { readFileSync } from 'node:fs';
import { parseAllDocuments, stringify } from 'yaml';
import type { RackSpec } from '../agent/main.ts';
import type { ComputeEnvironment, NodeAllocation } from '../controller/api/types.generated.ts';

export const tenant = 'cfd';
const exampleFile = new URL('../examples/tsubame2/cfd.yaml', import.meta.url);
/** Manifests in one file. */
const agentsPerFile = 100;

const padded = (number: number): string => String(number).padStart(3, '0');
const rackName = (index: number): string => `k${padded(index)}`;

/** Nodes k000n000 to, for 864 racks of 102, k863n101. */
export function hall(racks: number, nodesPerRack: number): (RackSpec & { readonly storeId: string })[] {
  return Array.from({ length: racks }, (_, index) => {
    const rack = rackName(index);
    const nodes = Array.from({ length: nodesPerRack }, (_none, node) => `${rack}n${padded(node)}`);
    return { name: rack, site: 'bench', rack, nodes, storeId: `${rack}-store` };
  });
}

/** The site as files of a repository: agents, the tenant's namespace and environment. */
export function siteFiles(
  racks: number,
  nodesPerRack: number,
  endpoints: Readonly<Record<string, string>>,
): Map<string, string> {
  const agents = hall(racks, nodesPerRack).map(({ name, site, rack, storeId }) => {
    const nodes = `${rack}n[000-${padded(nodesPerRack - 1)}]`;
    return stringify({
      apiVersion: 'bitvisor.io/v1alpha1',
      kind: 'BitVisorAgent',
      metadata: { name },
      spec: { endpoint: endpoints[name], location: { site, rack }, nodes, commission: { storeId, nodes } },
    });
  });
  const files = new Map<string, string>();
  for (let first = 0; first < agents.length; first += agentsPerFile)
    files.set(`agents-${padded(first)}.yaml`, agents.slice(first, first + agentsPerFile).join('---\n'));
  const { environment } = example();
  const namespace = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: tenant } };
  files.set('environment.yaml', [namespace, environment].map((object) => stringify(object)).join('---\n'));
  return files;
}

/** The example's allocation with another name and size; its owner is not warned before nodes are taken back, which is but waiting. */
export function allocationManifest(name: string, replicas: number): string {
  const { allocation } = example();
  return stringify({
    ...allocation,
    metadata: { ...allocation.metadata, name },
    spec: { ...allocation.spec, replicas, reclaim: { erase: 'Quick', gracePeriod: '0s' } },
  });
}

function example(): { environment: ComputeEnvironment; allocation: NodeAllocation } {
  const documents = parseAllDocuments(readFileSync(exampleFile, 'utf8'));
  const objects = documents.map((document): { kind: string } => document.toJS());
  const find = (kind: string): unknown => {
    const found = objects.find((object) => object.kind === kind);
    if (found === undefined) throw new Error(`${exampleFile.pathname} has no ${kind}`);
    return found;
  };
  return {
    environment: find('ComputeEnvironment') as ComputeEnvironment,
    allocation: find('NodeAllocation') as NodeAllocation,
  };
}

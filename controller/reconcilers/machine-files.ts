/**
 * Machine files of an allocation, as ConfigMaps beside it: hosts, machinefile and known_hosts of the nodes that run.
 *
 * Invariants:
 * 1. A ConfigMap is written when its text differs from what this process last wrote or read; at rest nothing is written.
 * 2. They are owned by the allocation and go with it; one that bears the name and is not the allocation's, nor of an earlier one
 *    of its name, is left alone: neither written nor deleted.
 */
import { createHash } from 'node:crypto';
import { apiGroup, apiVersion, configMaps, nodeAllocations } from '../api/meta.ts';
import type { NodeAllocation } from '../api/types.generated.ts';
import { machineFiles } from '../domain/machine-files.ts';
import { type KubeClient, KubeError, type KubeObject } from '../kube/port.ts';
import type { Fleet } from './fleet.ts';

interface ConfigMap extends KubeObject {
  data?: Record<string, string>;
}

export class MachineFileWriter {
  readonly #client: KubeClient;
  readonly #fleet: Fleet;
  /** Hash of what stands in each ConfigMap, by allocation uid and part. */
  readonly #written = new Map<string, { readonly seen: string; readonly hashes: readonly string[] }>();

  constructor(client: KubeClient, fleet: Fleet) {
    this.#client = client;
    this.#fleet = fleet;
  }

  async write(allocation: NodeAllocation): Promise<void> {
    const { uid = '', deletionTimestamp, name, namespace = '' } = allocation.metadata;
    if (deletionTimestamp !== undefined) {
      this.#written.delete(uid);
      return;
    }
    const { replicas: wanted = 0, ready = 0, nodes: list } = allocation.status ?? {};
    // A file that grows line by line serves nobody: it is written once all committed nodes run, and kept true afterwards.
    const known = this.#written.get(uid);
    if (known === undefined && (wanted === 0 || ready < wanted)) return;
    // Views of a large allocation are not made again for a commit that changed neither its nodes nor how many of them run.
    const seen = `${ready} ${list}`;
    if (known?.seen === seen) return;
    const running = [...this.#fleet.assignments.nodesOf(`${namespace}/${name}`)]
      .map((nodeName) => this.#fleet.member(allocation, nodeName))
      .filter((view) => view.ready);
    const parts = machineFiles(
      running.map((view) => {
        const facts = this.#fleet.lastFactsOf(view.name);
        return {
          name: view.name,
          address: facts?.guest.address,
          hostKey: facts?.guest.hostKey,
          cores: facts?.inventory.cores ?? this.#fleet.nodes.getByKey(view.name)?.status?.inventory?.cores ?? 1,
        };
      }),
    );
    const hashes: string[] = [];
    for (const [part, files] of parts.entries()) {
      const data = { ...files };
      const hash = createHash('sha256').update(JSON.stringify(data)).digest('hex');
      if (known?.hashes[part] !== hash) await this.#put(allocation, partName(name, part), data);
      hashes.push(hash);
    }
    for (let part = parts.length; part < (known?.hashes.length ?? 0); part++)
      await this.#drop(allocation, partName(name, part));
    this.#written.set(uid, { seen, hashes });
  }

  async #put(allocation: NodeAllocation, name: string, data: Record<string, string>): Promise<void> {
    const { namespace = '', uid = '' } = allocation.metadata;
    const owner = {
      apiVersion: `${apiGroup}/${apiVersion}`,
      kind: nodeAllocations.kind,
      name: allocation.metadata.name,
      uid,
      controller: true,
    };
    const object: ConfigMap = {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: {
        name,
        namespace,
        labels: { 'bitvisor.io/allocation': allocation.metadata.name },
        ownerReferences: [owner],
      },
      data,
    };
    try {
      await this.#client.create<ConfigMap>(configMaps, object);
      return;
    } catch (error) {
      if (!(error instanceof KubeError) || error.reason !== 'AlreadyExists') throw error;
    }
    const present = await this.#client.get<ConfigMap>(configMaps, { namespace, name });
    if (!isOf(allocation, present) || JSON.stringify(present.data) === JSON.stringify(data)) return;
    const { uid: presentUid, resourceVersion } = present.metadata;
    await this.#client.patch(
      configMaps,
      { namespace, name },
      { metadata: { ownerReferences: [owner] }, data },
      { type: 'merge', ...(presentUid ? { uid: presentUid } : {}), ...(resourceVersion ? { resourceVersion } : {}) },
    );
  }

  async #drop(allocation: NodeAllocation, name: string): Promise<void> {
    const { namespace = '' } = allocation.metadata;
    try {
      const present = await this.#client.get<ConfigMap>(configMaps, { namespace, name });
      if (!isOf(allocation, present)) return;
      const { uid, resourceVersion } = present.metadata;
      await this.#client.delete(
        configMaps,
        { namespace, name },
        { ...(uid ? { uid } : {}), ...(resourceVersion ? { resourceVersion } : {}) },
      );
    } catch (error) {
      if (!(error instanceof KubeError) || error.reason !== 'NotFound') throw error;
    }
  }
}

/** An allocation that was made again under its name has another uid. */
const isOf = ({ metadata: { name, uid } }: NodeAllocation, { metadata }: ConfigMap): boolean =>
  metadata.ownerReferences?.some(
    (owner) =>
      owner.uid === uid ||
      (owner.kind === nodeAllocations.kind && owner.apiVersion.startsWith(`${apiGroup}/`) && owner.name === name),
  ) === true;

const partName = (allocation: string, part: number): string => `${allocation}-machines-${part}`;

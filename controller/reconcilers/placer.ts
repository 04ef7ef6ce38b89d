/**
 * The free nodes of the fleet, kept up to date, and the choice among them.
 *
 * Invariant: a node is free when its record says Available with nobody's claim on it, its agent is connected, no committed
 * placement names it and no decision under way has reserved it.
 */
import type { ComputeEnvironment, NodeAllocation, PhysicalNode } from '../api/types.generated.ts';
import type { MemberView, PlaceRequest, PlaceResult } from '../domain/allocation-draft.ts';
import { FreeIndex } from '../domain/free-index.ts';
import { place } from '../domain/placement.ts';
import { mismatchOf } from '../domain/requirements.ts';
import { type EnvironmentDefinition, environmentFrom } from '../domain/revision.ts';
import { isReclaiming } from '../domain/states.ts';
import { chooseVictims } from '../domain/victims.ts';
import type { Placer } from './allocation.ts';
import type { Fleet } from './fleet.ts';

export class FleetPlacer implements Placer {
  readonly #fleet: Fleet;
  readonly #index = new FreeIndex();
  readonly #reserved = new Set<string>();

  constructor(fleet: Fleet) {
    this.#fleet = fleet;
  }

  get free(): number {
    return this.#index.size;
  }

  /** Looks at one node again. @returns whether it became free */
  refresh(name: string): boolean {
    const node = this.#fleet.nodes.getByKey(name);
    if (node === undefined || !this.#isFree(node)) {
      this.#index.remove(name);
      return false;
    }
    const was = this.#index.has(name);
    const { inventory, location } = node.status ?? {};
    this.#index.add({
      name,
      site: location?.site ?? '',
      rack: location?.rack ?? '',
      labels: node.metadata.labels ?? {},
      inventory: {
        architecture: inventory?.architecture ?? '',
        cores: inventory?.cores ?? 0,
        memoryBytes: inventory?.memoryBytes ?? 0,
        disks: (inventory?.disks ?? []).map(({ media = '', sizeBytes }) => ({ media, sizeBytes })),
      },
      capabilities: this.#fleet.linkOf(name)?.state().hello?.capabilities ?? [],
    });
    return !was;
  }

  #isFree(node: PhysicalNode): boolean {
    const { name, deletionTimestamp } = node.metadata;
    const { status } = node;
    return (
      status?.state === 'Available' &&
      status.claim === undefined &&
      status.end === undefined &&
      deletionTimestamp === undefined &&
      node.spec?.maintenance === undefined &&
      !this.#reserved.has(name) &&
      this.#fleet.assignments.allocationsOf(name).size === 0 &&
      this.#fleet.factsOf(name) !== undefined &&
      this.#fleet.stateOf(name) === 'Available'
    );
  }

  reserve(names: readonly string[]): void {
    for (const name of names) {
      this.#reserved.add(name);
      this.#index.remove(name);
    }
  }

  release(names: readonly string[]): void {
    for (const name of names) {
      this.#reserved.delete(name);
      this.refresh(name);
    }
  }

  chooseVictims(held: readonly MemberView[], count: number, first: ReadonlySet<string>): readonly string[] {
    return chooseVictims({ held, count, releaseFirst: first });
  }

  place(allocation: NodeAllocation, environment: ComputeEnvironment | undefined, request: PlaceRequest): PlaceResult {
    const { selector, topology } = allocation.spec.placement;
    const revision = allocation.status?.revision;
    const definition: EnvironmentDefinition =
      revision !== undefined && allocation.status?.environment?.definition === request.definition
        ? environmentFrom({ revision, definition: request.definition })
        : (JSON.parse(request.definition) as EnvironmentDefinition);
    const requirements = environment?.spec.requirements ?? {};
    const result = place(this.#index, {
      replicas: request.replicas,
      minReplicas: request.minReplicas,
      mismatch: mismatchOf({ definition, requirements, selector }),
      topology,
      held: request.held.map((name) => {
        const location = this.#fleet.nodes.getByKey(name)?.status?.location;
        return { site: location?.site ?? '', rack: location?.rack ?? '' };
      }),
      elsewhere: this.#elsewhere(),
    });
    if (result.kind === 'refused') return { kind: 'refused', reason: result.reason };
    const fewest = Math.ceil(result.nodes.length / Math.max(1, this.#fleet.largestRack()));
    return { kind: 'placed', nodes: result.nodes, scattered: result.racks > fewest };
  }

  /** For the sentence of a refusal only: counted over all nodes, whether they match or not. */
  #elsewhere(): { inUse: number; reclaiming: number; heldBack: number } {
    const counts = { inUse: 0, reclaiming: 0, heldBack: 0 };
    for (const { metadata, status } of this.#fleet.nodes.values()) {
      const state = this.#fleet.stateOf(metadata.name);
      if (state === 'Quarantined' || state === 'Orphaned' || state === 'Maintenance') counts.heldBack++;
      else if (isReclaiming(state) || status?.end !== undefined) counts.reclaiming++;
      else if (status?.claim !== undefined) counts.inUse++;
    }
    return counts;
  }
}

/**
 * A judge of tenancies from outside: reads what machines did (their own record) and what the API server stores, and says which
 * promise was broken. Knows isolation domains by their form `allocation/UID` alone.
 *
 * It promises nothing about allocations in groups: their members share a domain.
 */
import assert from 'node:assert/strict';
import type { RoomEvent } from '../../agent/drivers/simulated/store.ts';
import { parseHostlist } from '../../controller/api/hostlist.ts';
import type { NodeAllocation, PhysicalNode } from '../../controller/api/types.generated.ts';

interface Machine {
  readonly domains: Map<string, string>;
  /** UID of the allocation whose image went onto it last. */
  owner: string | undefined;
  revision: string;
  readonly wipedSince: Set<string>;
}

const disksOfMachine = 2;

export class Judge {
  /** Machines whose records a person deleted. */
  readonly touched = new Set<string>();
  /** Machines that a person said to end. */
  readonly ended = new Set<string>();
  /** UIDs of allocations that were to keep their nodes when deleted. */
  readonly retained = new Set<string>();
  readonly #machines = new Map<string, Machine>();
  readonly #judged = new Map<string, number>();
  readonly #nameOf = new Map<string, string>();
  readonly #asked = new Map<string, Set<string>>();
  #listed = new Map<string, string>();

  /** Call after every step of time, with the whole record of each rack. */
  look(
    histories: ReadonlyMap<string, readonly RoomEvent[]>,
    allocations: readonly NodeAllocation[],
    nodes: readonly PhysicalNode[],
  ): void {
    const before = this.#listed;
    this.#listed = this.#listings(allocations, nodes);
    const keeps = (node: string): string | undefined =>
      before.get(node) === this.#listed.get(node) ? before.get(node) : undefined;
    for (const [rack, history] of histories) {
      for (const event of history.slice(this.#judged.get(rack) ?? 0)) this.#judge(event, keeps(event.node));
      this.#judged.set(rack, history.length);
    }
  }

  /** Node to the UID of the living allocation that lists and claims it, where no end was decided. */
  #listings(allocations: readonly NodeAllocation[], nodes: readonly PhysicalNode[]): Map<string, string> {
    const claims = new Map(
      nodes.flatMap(({ metadata, status }) =>
        status?.claim && !status.end ? [[metadata.name, status.claim.allocation.uid] as const] : [],
      ),
    );
    const listed = new Map<string, string>();
    for (const { metadata, spec, status } of allocations) {
      const { uid = '' } = metadata;
      this.#nameOf.set(uid, metadata.name);
      if (spec.deletionPolicy === 'Retain') this.retained.add(uid);
      const asked = this.#asked.get(uid) ?? new Set<string>();
      this.#asked.set(uid, asked);
      if (spec.update.revision) asked.add(spec.update.revision);
      if (spec.update.policy === 'Rolling') asked.add('any');
      for (const name of status?.nodes ? parseHostlist(status.nodes) : []) {
        if (claims.get(name) === uid) listed.set(name, uid);
      }
    }
    return listed;
  }

  #judge({ node, event, detail }: RoomEvent, keptBy: string | undefined): void {
    const machine = this.#machines.get(node) ?? {
      domains: new Map(),
      owner: undefined,
      revision: '',
      wipedSince: new Set(),
    };
    this.#machines.set(node, machine);
    switch (event) {
      case 'port':
        machine.domains.set(String(detail.port), String(detail.to));
        break;
      case 'imaged':
        this.#imaged(node, machine, String(detail.revision));
        break;
      case 'guest':
        this.#guest(node, machine, detail);
        break;
      case 'wiped':
        assert.equal(
          keptBy,
          undefined,
          `${node} was wiped while ${this.#nameOf.get(keptBy ?? '')} lists and claims it`,
        );
        machine.wipedSince.add(String(detail.disk));
        break;
      default:
        break;
    }
  }

  #imaged(node: string, machine: Machine, revision: string): void {
    const domain = machine.domains.get('eth0') ?? '';
    assert.match(domain, /^allocation\//, `${node} was imaged with its port in ${domain}`);
    const owner = domain.slice('allocation/'.length);
    const clean = machine.wipedSince.size >= disksOfMachine;
    if (machine.owner !== undefined && !clean) {
      const adopted =
        this.#nameOf.get(owner) === this.#nameOf.get(machine.owner) &&
        (this.retained.has(machine.owner) || this.touched.has(node));
      assert.ok(
        machine.owner === owner || adopted,
        `${node}: an image of ${this.#nameOf.get(owner)} over data of ${this.#nameOf.get(machine.owner)}`,
      );
      assert.notEqual(machine.revision, revision, `${node} was re-imaged with the revision that it ran`);
      const asked = this.#asked.get(owner);
      assert.ok(
        asked?.has('any') || asked?.has(revision),
        `${node} was re-imaged to ${revision}, and its owner ${this.#nameOf.get(owner)} never asked`,
      );
    }
    machine.owner = owner;
    machine.revision = revision;
    machine.wipedSince.clear();
  }

  #guest(node: string, machine: Machine, detail: RoomEvent['detail']): void {
    const ports = detail.ports as readonly { readonly domain: string; readonly state: string }[];
    const fenced = detail.throughVmm === false && ports.every(({ domain }) => domain === 'quarantine');
    for (const { domain, state } of ports) {
      const own = domain.startsWith('allocation/') && this.#mayRun(domain.slice('allocation/'.length), machine);
      assert.ok((own || fenced) && state === 'Ready', `a guest ran on ${node} with a port ${state} in ${domain}`);
    }
  }

  /** The data on the machine is of this allocation, or of one that it took over. */
  #mayRun(uid: string, machine: Machine): boolean {
    return machine.owner === uid || this.#nameOf.get(uid) === this.#nameOf.get(machine.owner ?? '');
  }
}

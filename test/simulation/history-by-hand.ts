/**
 * A history made by hand, for the checkers to judge: one rack of one machine, n0, with two disks, and two allocations of one tenant.
 *
 * Invariant: what happens is told to the truth alone; nothing here runs code that is tested.
 */
import type { RoomEvent } from '../../agent/drivers/simulated/store.ts';
import { freshRow } from '../../agent/row.ts';
import { nodeAllocations, physicalNodes } from '../../controller/api/meta.ts';
import type { Instruction } from '../../controller/api/protocol.generated.ts';
import type { NodeAllocation, PhysicalNode } from '../../controller/api/types.generated.ts';
import { Truth } from './truth.ts';

const disks = [
  { name: 'sda', serial: 'disk-a' },
  { name: 'sdb', serial: 'disk-b' },
];

export class History {
  nowMs = 0;
  plan: unknown;
  /** Tokens of changes that can still take effect. */
  pending: string[] = [];
  faults: object = {};
  /** As the switch shows them. */
  shown: object[] = [];
  readonly truth: Truth;
  #nodes = new Map<string, PhysicalNode>();
  #allocations = new Map<string, NodeAllocation>();

  constructor() {
    this.truth = new Truth({
      clock: { now: () => this.nowMs, monotonic: () => this.nowMs },
      trace: { add: () => {} },
      machine: () => ({ disks, plan: this.plan, faults: this.faults, changes: {}, systemUuid: 'u' }) as never,
      repository: () => undefined,
      tenantObjects: () => new Map(),
      syncStatus: () => undefined,
      shownPorts: () => this.shown as never,
      pendingTokens: () => this.pending,
    });
    this.allocation('one', {});
    this.allocation('two', {});
  }

  allocation(name: string, { spec = {}, status, metadata = {} }: Record<string, object | undefined>): void {
    const old = this.#allocations.get(name);
    const object = {
      metadata: { name, namespace: 'cfd', uid: name, ...metadata },
      spec: {
        environmentRef: { name: 'env' },
        replicas: 1,
        isolation: { egress: 'None' },
        access: { sshKeys: [`key of ${name}`] },
        update: { policy: 'OnDemand', maxUnavailable: 1 },
        reclaim: { erase: 'Quick', gracePeriod: '5m' },
        deletionPolicy: 'Release',
        ...spec,
      },
      status,
    } as unknown as NodeAllocation;
    this.#allocations.set(name, object);
    this.truth.apiWrite(nodeAllocations, old === undefined ? 'ADDED' : 'MODIFIED', object, old);
  }

  node(name: string, status: object): void {
    const old = this.#nodes.get(name);
    const object = { metadata: { name }, spec: {}, status } as unknown as PhysicalNode;
    this.#nodes.set(name, object);
    this.truth.apiWrite(physicalNodes, old === undefined ? 'ADDED' : 'MODIFIED', object, old);
  }

  /** Somebody drops the finalizer and deletes it. */
  forces(name: string): void {
    const object = this.#allocations.get(name);
    this.#allocations.delete(name);
    if (object !== undefined) this.truth.apiWrite(nodeAllocations, 'DELETED', object, object);
  }

  claims(uid: string): void {
    const claim = { epoch: 2, revision: 'r1', allocation: { namespace: 'cfd', name: 'one', uid } };
    this.node('n0', { state: 'Resident', epoch: 2, claim });
  }

  happens(event: RoomEvent['event'], detail: Record<string, unknown> = {}): void {
    this.truth.roomEvent('r0', { atMs: this.nowMs, node: 'n0', event, detail: { recordedAs: 'n0', ...detail } });
  }

  accepts(
    verb: 'isolate' | 'fence' | 'attest' | 'power',
    epoch: number,
    { term = 1, allocation = 'one', nonce = `nonce-${epoch}` } = {},
  ): void {
    const args = verb === 'attest' ? { nonce } : { domain: `allocation/${allocation}`, allocation };
    const instruction = { operationId: `n0.${epoch}.x`, node: 'n0', epoch, verb, args } as unknown as Instruction;
    this.truth.accepted('r0', instruction, term);
  }

  /** Its log has a newer epoch: the agent may die before it says so. */
  opens(verb: 'isolate' | 'drain', epoch: number): void {
    const instruction = { operationId: `n0.${epoch}.x`, node: 'n0', epoch, verb } as unknown as Instruction;
    const operation = { instruction, term: 1, status: 'Running', phase: 'Preparing' } as const;
    this.truth.logWritten('r0', [{ ...freshRow('n0'), epoch, operation }]);
  }

  /** The agent asks its drivers for this, under epoch 2, while the switch shows a data port in this domain. */
  acts(command: 'power.set' | 'vmm.devirtualize', what: 'on' | 'commit', domain: string): void {
    this.shown = [{ name: 'eth0', role: 'Data', state: 'Ready', domain }];
    const token = `n0.2.Booting.reimage.1.0/${what}`;
    this.truth.acted('r0', 'n0', { command, arguments: ['On'], token });
  }

  ports(domain: string): void {
    for (const port of ['eth0', 'ib0']) this.happens('port', { port, from: '', to: domain, cause: 'asked' });
  }

  wipe(): void {
    this.happens('attested', { nonce: 'n' });
    for (const { name: disk, serial } of disks) this.happens('wiped', { disk, serial, erase: 'Quick' });
  }

  /** From a clean machine to a running guest of this allocation. */
  runs(allocation = 'one', epoch = 2): void {
    this.wipe();
    this.happens('power', { to: 'Off' });
    this.accepts('isolate', epoch, { allocation });
    this.ports(`allocation/${allocation}`);
    this.happens('imaged', { epoch, revision: 'r1', disk: 'sda' });
    this.guest(epoch, `allocation/${allocation}`);
  }

  guest(epoch: number, domain: string): void {
    this.happens('guest', { epoch, throughVmm: true, ports: [{ name: 'eth0', domain, state: 'Ready' }] });
  }

  broken(): number[] {
    return [...new Set(this.truth.violations.map(({ rule }) => rule))];
  }
}

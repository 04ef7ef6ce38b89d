/**
 * What truly happened to one machine, as its events tell it.
 *
 * Invariant: nothing here comes from an operator's or an agent's memory, only from what the machine did and what was asked of it.
 */
import type { RoomEvent } from '../../agent/drivers/simulated/store.ts';
import type { PhysicalNode } from '../../controller/api/types.generated.ts';
import type { Truth } from './truth.ts';

export interface GuestTruth {
  /** UID of the allocation whose epoch it is; undefined when no instruction ever named one. */
  readonly owner: string | undefined;
  readonly epoch: number;
  readonly throughVmm: boolean;
}

export interface MachineTruth {
  readonly name: string;
  rack: string;
  /** Domain of each port by its name, as the switch has it. */
  readonly domains: Map<string, string>;
  /** Since its newest boot; undefined while none runs. */
  guest: GuestTruth | undefined;
  /** Whose data may stand on its disks: since the first instruction of a guest, until every disk was wiped. */
  data: { owner: string; epoch: number; revision: string; sinceMs: number } | undefined;
  /** Disks (serial numbers) wiped since a guest last ran, in an attested boot that is still up. */
  readonly wiped: Set<string>;
  /** Why its disks may hold something; undefined once all of them were wiped in one attested boot. */
  dirty: string | undefined;
  /** The newest tenancy in which somebody exchanged a disk: what stood on it then nobody could know. */
  swappedUnder: number | undefined;
  /** The trusted image is up and proved itself. */
  attested: boolean;
  /** Counts losses of the agent's log: what it knew before, nobody can hold it to. */
  generation: number;
  /** Of the log of the agent that speaks or acts now. */
  storeId: string;
  /** Data ports that a fault moved, until they were moved again. */
  readonly moved: Set<string>;
  /** Its firmware does not do what its BMC shows. */
  orderUntrue: boolean;
  /** Its BMC said that it was off while the guest that runs now ran. */
  offUntrue: boolean;
  /** Epoch to the uid of the allocation that an accepted instruction named under it. */
  readonly epochs: Map<number, string>;
  /** Operations that were accepted, with the generation of the agent's log that knows them. */
  readonly operations: Set<string>;
  /** Of those epochs, what no agent's log and what no operator's record may know any more. An epoch of both is given out again. */
  readonly forgotten: { readonly byAgent: Set<number>; readonly byOperator: Set<number> };
  /** Of its claims, the revision by epoch. */
  readonly revisions: Map<number, string>;
  devirtualizedEpoch: number | undefined;
  /** A person, a backup or a fault took records away: conflicts that are shown are expected. */
  tampered: string | undefined;
  /** A fault broke it for good: nobody waits for it. */
  broken: string | undefined;
}

export function newMachine(node: string, rack: string): MachineTruth {
  return {
    name: node,
    rack,
    domains: new Map(),
    guest: undefined,
    data: undefined,
    wiped: new Set(),
    dirty: 'never wiped',
    swappedUnder: undefined,
    attested: false,
    generation: 0,
    storeId: '',
    moved: new Set(),
    orderUntrue: false,
    offUntrue: false,
    epochs: new Map(),
    operations: new Set(),
    forgotten: { byAgent: new Set(), byOperator: new Set() },
    revisions: new Map(),
    devirtualizedEpoch: undefined,
    tampered: undefined,
    broken: undefined,
  };
}

/** A record that speaks of an older epoch, or is gone, knows nothing of the later ones; a claim under one of those does not either. */
export function operatorKnows(
  { epochs, forgotten }: MachineTruth,
  { status }: Pick<PhysicalNode, 'status'> = {},
): void {
  for (const epoch of epochs.keys()) {
    if (epoch > (status?.epoch ?? 0)) forgotten.byOperator.add(epoch);
    else if (epoch !== status?.claim?.epoch) forgotten.byOperator.delete(epoch);
  }
}

const faultsOfPorts: ReadonlySet<unknown> = new Set(['cable', 'defaults', 'late']);

export function takeIn(truth: Truth, machine: MachineTruth, { event, detail, atMs }: RoomEvent): void {
  switch (event) {
    case 'port':
      machine.domains.set(String(detail.port), String(detail.to));
      // An order for another machine's port moves whoever's cable is in it.
      if (faultsOfPorts.has(detail.cause) || detail.recordedAs !== machine.name) machine.moved.add(String(detail.port));
      else machine.moved.delete(String(detail.port));
      break;
    case 'power':
      bootEnded(machine);
      break;
    case 'guest':
      guestStarted(machine, Number(detail.epoch), detail.throughVmm === true, atMs);
      break;
    case 'imaged': {
      const epoch = Number(detail.epoch);
      const revision = String(detail.revision);
      machine.data = { owner: machine.epochs.get(epoch) ?? '', epoch, revision, sinceMs: atMs };
      machine.dirty = `imaged under epoch ${epoch}`;
      machine.wiped.clear();
      break;
    }
    case 'devirtualized':
      machine.devirtualizedEpoch = Number(detail.epoch);
      if (machine.guest !== undefined) machine.guest = { ...machine.guest, throughVmm: false };
      break;
    case 'attested':
      bootEnded(machine);
      machine.attested = true;
      break;
    case 'wiped':
      wiped(truth, machine, String(detail.serial));
      break;
    default:
      otherEvent(machine, event, detail);
  }
}

function otherEvent(machine: MachineTruth, event: string, detail: RoomEvent['detail']): void {
  if (event === 'reset' || event === 'boot' || event === 'crashed') bootEnded(machine);
  if (event === 'fault' && detail.kind === 'bmcLiesOff') machine.offUntrue = machine.guest !== undefined;
  if (event === 'diskSwapped') {
    machine.dirty = 'a disk was swapped';
    machine.swappedUnder = Math.max(0, ...machine.epochs.keys());
  }
  if (event === 'order') machine.orderUntrue = detail.shown !== undefined && detail.shown !== detail.to;
  if (event === 'boot') machine.orderUntrue ||= detail.got === 'Disk' && detail.shown === 'Network';
}

function bootEnded(machine: MachineTruth): void {
  machine.guest = undefined;
  machine.offUntrue = false;
  machine.attested = false;
  machine.wiped.clear();
}

function guestStarted(machine: MachineTruth, epoch: number, throughVmm: boolean, atMs: number): void {
  const owner = machine.epochs.get(epoch);
  bootEnded(machine);
  machine.guest = { owner, epoch, throughVmm };
  machine.dirty = `a guest ran under epoch ${epoch}`;
  if (owner !== undefined && machine.data?.epoch !== epoch) {
    machine.data = { owner, epoch, revision: machine.data?.revision ?? '', sinceMs: atMs };
  }
}

function wiped(truth: Truth, machine: MachineTruth, serial: string): void {
  machine.wiped.add(serial);
  const disks = truth.ground.machine(machine.name)?.disks ?? [];
  if (!machine.attested || disks.length === 0 || !disks.every((disk) => machine.wiped.has(disk.serial))) return;
  machine.dirty = undefined;
  machine.data = undefined;
  machine.epochs.clear();
  machine.forgotten.byAgent.clear();
  machine.forgotten.byOperator.clear();
  machine.revisions.clear();
  machine.devirtualizedEpoch = undefined;
}

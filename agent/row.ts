/**
 * A node's row in the agent's durable log: all that must survive a restart, and nothing that can be read back.
 *
 * Invariants:
 * 1. `epoch`, `seenEpoch` and `term` only grow.
 * 2. `guestStarted` is set before the power-on that could make it true, and reset by the certificate alone.
 * 3. `certificate` and `guestStarted` are never both present.
 * 4. `reclaim.attestation` belongs to `reclaim.attestedNonce`: both come of one reading, and go together.
 */
import type {
  Attestation,
  Certificate,
  Failure,
  Instruction,
  NodeObservation,
  Record as NodeRecord,
  Operation,
  Reimage,
} from '../controller/api/protocol.generated.ts';
import type { Egress, Erase, MachineFacts, Readings } from './drivers/port.ts';

/** Operation ids of the epoch that the agent remembers; a repeated instruction is recognised by them. */
export const rememberedOperations = 32;

export interface RowOperation {
  readonly instruction: Instruction;
  readonly term: number;
  readonly status: Operation['status'];
  readonly failure?: Failure;
  /** Operations with a point of no return have two phases: what precedes it, and what follows. */
  readonly phase: 'Preparing' | 'Acting';
  /** It was under way when the agent started: it asks for nothing until it is instructed again. `Awaited`: there is something to ask for. */
  readonly resumed?: 'Unsaid' | 'Awaited';
}

export interface Isolation {
  readonly operationId: string;
  readonly domain: string;
  readonly egress: Egress;
  readonly status: Operation['status'];
  /** As of an operation. */
  readonly resumed?: 'Unsaid';
}

export interface Row {
  readonly node: string;
  readonly term: number;
  readonly epoch: number;
  /** Highest epoch of any instruction that was valid; above `epoch` while an older operation is being cancelled. */
  readonly seenEpoch: number;
  readonly kind: 'None' | 'Tenancy' | 'Reclaim';
  readonly allocation?: string;
  readonly guestStarted: boolean;
  readonly commitSent: boolean;
  readonly ended: boolean;
  readonly certificate?: Certificate;
  readonly isolation?: Isolation;
  /** Of the newest reimage under this epoch; holds secrets, so fencing drops it. */
  readonly plan?: Reimage['args'];
  /** Revision that the guest runs or is to run; outlives the plan. */
  readonly revision?: string;
  /** Bytes a second, of the newest throttle under this epoch. */
  readonly maxRateBytes?: number;
  /** A valid map of this epoch was seen: from now on its absence is a failure. */
  readonly mapSeen: boolean;
  /** Of the certificate that the first start of this tenancy used up; counts, over its epochs, until its first guest began. */
  readonly cleanDisks?: readonly string[];
  /** Serial numbers of the disks that were there when the first guest of the tenancy began: its end must find them again. */
  readonly disksInUse?: readonly string[];
  /** The guest began, its hypervisor should be there, and was not seen for the time of a boot. */
  readonly silent?: boolean;
  readonly starts: number;
  /** Devirtualization was prepared, under this epoch, and nothing since undid it. */
  readonly preparing: boolean;
  /** The copy as it was when it was first seen to be complete; once the VMM is gone nobody can read it. */
  readonly finalCopy?: NodeObservation['copy'];
  readonly reclaim: {
    readonly drained: boolean;
    readonly attestedNonce: string;
    /** How, as it was read with the nonce; absent where nobody says. */
    readonly attestation?: Attestation;
    readonly wiped: readonly string[];
    /** A wipe came to its end in this attested boot, with every disk that inventory, image or tenancy knew of. */
    readonly isWiped?: boolean;
    readonly checked: boolean;
    readonly erase?: Erase;
  };
  readonly operation?: RowOperation;
  /** Newest last. */
  readonly recent: readonly string[];
}

const nothingReclaimed: Row['reclaim'] = { drained: false, attestedNonce: '', wiped: [], checked: false };

/** No boot of the machine is attested, and nothing that one did counts. */
export function notAttested({ attestation: _over, ...reclaim }: Row['reclaim']): Row['reclaim'] {
  return { ...reclaim, attestedNonce: '', wiped: [], isWiped: false };
}

export function freshRow(node: string): Row {
  return {
    node,
    term: 0,
    epoch: 0,
    seenEpoch: 0,
    kind: 'None',
    guestStarted: false,
    commitSent: false,
    ended: false,
    mapSeen: false,
    starts: 0,
    preparing: false,
    reclaim: nothingReclaimed,
    recent: [],
  };
}

/** The row as an agent that starts goes on from it: its log may be of a time before the last instructions, and nobody says so. */
export function resumedRow(row: Row): Row {
  const { operation, isolation } = row;
  return {
    ...row,
    ...(operation?.status === 'Running' ? { operation: { ...operation, resumed: 'Unsaid' } } : {}),
    ...(isolation?.status === 'Running' ? { isolation: { ...isolation, resumed: 'Unsaid' } } : {}),
  };
}

/** The row once this operation was instructed again. */
export function saidAgain(row: Row, operationId: string): Row {
  const { operation, isolation } = row;
  const isOperation = operation?.resumed !== undefined && operation.instruction.operationId === operationId;
  const isIsolation = isolation?.resumed !== undefined && isolation.operationId === operationId;
  if (!isOperation && !isIsolation) return row;
  return {
    ...row,
    ...(isOperation ? { operation: withoutDoubt(operation) } : {}),
    ...(isIsolation ? { isolation: withoutDoubt(isolation) } : {}),
  };
}

/** Whether an operation is under way that may ask for changes. */
export const isAsking = ({ operation }: Row): boolean =>
  operation?.status === 'Running' && operation.resumed !== 'Awaited';

function withoutDoubt<T extends { readonly resumed?: unknown }>({ resumed: _over, ...rest }: T): Omit<T, 'resumed'> {
  return rest;
}

/** The row at the begin of a newer epoch: what belongs to the machine stays, what belongs to the epoch starts over. */
export function openEpoch(row: Row, epoch: number, kind: 'Tenancy' | 'Reclaim', allocation: string | undefined): Row {
  return {
    ...freshRow(row.node),
    term: row.term,
    epoch,
    seenEpoch: Math.max(epoch, row.seenEpoch),
    kind,
    ...(allocation === undefined ? {} : { allocation }),
    guestStarted: row.guestStarted,
    ended: row.ended,
    ...(row.certificate === undefined ? {} : { certificate: row.certificate }),
    ...(row.cleanDisks === undefined || row.mapSeen || kind === 'Reclaim' ? {} : { cleanDisks: row.cleanDisks }),
    // A second reclaim is a person's, who looked at what is missing.
    ...(row.disksInUse === undefined || row.kind === 'Reclaim' ? {} : { disksInUse: row.disksInUse }),
    ...carriedIsolation(row, kind),
  };
}

/** In a reclaim it says where the guest's ports belong until the fence, and nothing is done about it; the next tenant's is another. */
function carriedIsolation({ kind, isolation }: Row, next: 'Tenancy' | 'Reclaim'): Pick<Row, 'isolation'> {
  if (isolation === undefined || (kind === 'Reclaim' && next === 'Tenancy')) return {};
  return next === 'Reclaim' && isolation.status === 'Running'
    ? { isolation: { ...isolation, status: 'Cancelled' } }
    : { isolation };
}

/** A wipe that goes on, or failed for a disk that the inventory lacks, has not wiped all of them, however many it names. */
function wipedCount({ reclaim: { wiped, isWiped } }: Row, { inventory: { disks } }: MachineFacts): number {
  return isWiped === true ? wiped.length : Math.max(0, Math.min(wiped.length, disks.length - 1));
}

/** Disks of the machine that are not among those that were wiped. Those without a serial number are counted. */
export function notWiped({ inventory: { disks } }: MachineFacts, wiped: readonly string[]): number {
  const named = disks.filter(({ serial }) => serial !== undefined && !wiped.includes(serial)).length;
  return Math.max(named, disks.length - wiped.length);
}

export function dataPortsIn(readings: Readings, domain: string, egress?: Egress): boolean {
  let dataPorts = 0;
  for (const port of readings.fabric.ports) {
    if (port.role !== 'Data') continue;
    dataPorts++;
    if (port.state !== 'Ready' || port.domain !== domain) return false;
    if (egress !== undefined && port.egress !== egress) return false;
  }
  return dataPorts > 0;
}

/** Every data port was read back where the isolation of this epoch wants it. */
export function isolated(row: Row, readings: Readings): boolean {
  const { isolation } = row;
  return (
    isolation !== undefined &&
    readings.fabric.dataChange?.status !== 'Pending' &&
    dataPortsIn(readings, isolation.domain, isolation.egress)
  );
}

export const copyComplete = (copy: NodeObservation['copy']): boolean =>
  copy.map === 'Valid' &&
  copy.totalBytes > 0 &&
  copy.localBytes >= copy.totalBytes &&
  copy.flushed &&
  copy.inFlight === 0;

export function isPrepared(row: Row, readings: Readings): boolean {
  const { images, power, vmm } = readings;
  return (
    row.preparing &&
    row.finalCopy !== undefined &&
    vmm.failure === undefined &&
    (vmm.vmm !== 'Resident' || (vmm.epoch === row.epoch && copyComplete(vmm.copy))) &&
    images.exported === 'Closed' &&
    images.serving === 'Nothing' &&
    power.order === 'Disk' &&
    isolated(row, readings)
  );
}

function recordOf(row: Row): NodeRecord {
  return {
    term: row.term,
    epoch: row.epoch,
    ...(row.seenEpoch > row.epoch ? { seenEpoch: row.seenEpoch } : {}),
    ...(row.allocation === undefined ? {} : { allocation: row.allocation }),
    ...(row.revision === undefined ? {} : { revision: row.revision }),
    guestStarted: row.guestStarted,
    commitSent: row.commitSent,
    ended: row.ended,
    ...(row.certificate === undefined ? {} : { certificate: row.certificate }),
  };
}

function operationOf(operation: RowOperation): Operation {
  const { instruction, term, status, failure, resumed } = operation;
  return {
    id: instruction.operationId,
    verb: instruction.verb,
    term,
    epoch: instruction.epoch,
    status,
    ...(status === 'Running' && resumed === 'Awaited' ? { awaitsWord: true } : {}),
    ...(failure === undefined ? {} : { failure }),
  };
}

const noCopy: NodeObservation['copy'] = { totalBytes: 0, localBytes: 0, flushed: false, inFlight: 0, map: 'None' };

/** While the machine boots again its map cannot be read; what was said of it under this epoch then still stands. */
function copyOf(row: Row, { vmm }: Readings, before: NodeObservation | undefined): NodeObservation['copy'] {
  if (row.kind !== 'Tenancy') return noCopy;
  if (vmm.epoch === row.epoch && vmm.copy.map !== 'None') return vmm.copy;
  if (row.finalCopy !== undefined) return row.finalCopy;
  if (before === undefined || before.record.epoch !== row.epoch || before.copy.map !== 'Valid') {
    // After a restart nothing but the log says that there is one.
    return row.mapSeen ? { ...noCopy, map: 'Valid' } : noCopy;
  }
  return before.copy.inFlight === 0 ? before.copy : { ...before.copy, inFlight: 0 };
}

function silence({ silent }: Row, { power, vmm }: Readings): Failure | undefined {
  if (silent !== true) return undefined;
  const message = `its hypervisor should run and is ${vmm.vmm}; power is ${power.state}`;
  return { code: 'VmmFailed', message, retryable: true };
}

/**
 * What is said about the node: the row and the readings, those of an older epoch hidden.
 * @param before what was said last
 */
export function observationOf(row: Row, readings: Readings, before: NodeObservation | undefined): NodeObservation {
  const { machine, power, fabric, images, vmm } = readings;
  const ofThisEpoch = row.kind === 'Tenancy' && vmm.epoch === row.epoch;
  const failure = (ofThisEpoch ? (vmm.failure ?? vmm.guest.failure) : undefined) ?? silence(row, readings);
  const { address, hostKey } = ofThisEpoch ? vmm.guest : {};
  return {
    name: row.node,
    systemUuid: machine.systemUuid,
    inventory: machine.inventory,
    record: recordOf(row),
    power: power.state,
    vmm: vmm.vmm,
    ports: fabric.ports as NodeObservation['ports'],
    boot: { order: power.order, serving: images.serving },
    guest: {
      state: row.commitSent && vmm.vmm !== 'Resident' ? 'Unknown' : vmm.guest.state,
      starts: row.starts,
      ...(address === undefined ? {} : { address }),
      ...(hostKey === undefined ? {} : { hostKey }),
      ...(failure === undefined ? {} : { failure }),
    },
    copy: copyOf(row, readings, before),
    ...(row.preparing ? { prepared: isPrepared(row, readings) } : {}),
    reclaim: {
      drained: row.reclaim.drained,
      attestedNonce: row.reclaim.attestedNonce,
      wipedDisks: wipedCount(row, machine),
      checked: row.reclaim.checked,
    },
    ...(row.operation === undefined ? {} : { operation: operationOf(row.operation) }),
  };
}

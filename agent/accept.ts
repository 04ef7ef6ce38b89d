/**
 * Accepts or refuses an instruction: pure, from the node's row and what is read back now.
 *
 * Invariants (the agent's own defence; it does not rely on the operator's care):
 * 1. A lower term or epoch than any seen before is refused.
 * 2. A newer epoch is accepted only once nothing asked for under the older one can still take effect; until then the
 *    instruction is refused as Busy and the older operation is cancelled. An end does not wait for the BMC: a tenant is fenced
 *    whatever a BMC may still do, and what needs power or boot order waits for it by itself. Nor does it wait for the trusted image of a
 *    reclaim before it: one that hangs ends with the machine's power, and its result counts for nobody.
 * 3. Reimage needs every data port read back in the domain of this allocation's isolation, a disk that nobody else's guest
 *    wrote to (a certificate, or the same allocation), and no commit under this epoch.
 * 4. A tenancy begins on a certified machine on which nobody's hypervisor runs.
 * 5. What ends a tenancy (drain, fence, attest, wipe, check) needs an epoch that drain, fence or power Off opened.
 * 6. Attest needs fenced and off; wipe needs an end and a live attested boot of this epoch; check needs every disk wiped.
 */
import type { Instruction, InstructionResult } from '../controller/api/protocol.generated.ts';
import { anythingPending, anythingPendingBesideBmc, type Readings } from './drivers/port.ts';
import {
  copyComplete,
  dataPortsIn,
  isolated,
  isPrepared,
  notAttested,
  notWiped,
  openEpoch,
  type Row,
  rememberedOperations,
  saidAgain,
} from './row.ts';

export type RefusedReason = NonNullable<InstructionResult['reason']>;

export type Verdict =
  | { readonly row: Row; readonly refused?: undefined }
  | { readonly row: Row; readonly refused: RefusedReason; readonly message: string };

const refuse = (row: Row, refused: RefusedReason, message: string): Verdict => ({ row, refused, message });

/** Verbs that run beside an operation and never replace it. */
const besideOthers: ReadonlySet<Instruction['verb']> = new Set(['isolate', 'inspect', 'throttle']);

export function accept(row: Row, readings: Readings, instruction: Instruction, term: number): Verdict {
  const { epoch, operationId, verb } = instruction;
  if (term < row.term) return refuse(row, 'StaleTerm', `term ${term} is older than ${row.term}`);
  if (epoch < row.seenEpoch) return refuse(row, 'StaleEpoch', `epoch ${epoch} is older than ${row.seenEpoch}`);
  const inTerm: Row = { ...row, term };
  if (verb === 'inspect') return { row: inTerm };
  if (row.recent.includes(operationId)) {
    const other = difference(row, instruction);
    return other === undefined ? { row: saidAgain(inTerm, operationId) } : refuse(row, 'Conflict', other);
  }
  const opened = epoch > row.epoch ? open(inTerm, readings, instruction) : ({ row: inTerm } satisfies Verdict);
  if (opened.refused !== undefined) return opened;
  const { operation } = opened.row;
  // One from before this agent's start has asked for nothing since, and another may take its place.
  if (operation?.status === 'Running' && operation.resumed === undefined && !besideOthers.has(verb)) {
    const running = operation.instruction;
    return refuse(row, 'Busy', `${running.verb} (operation ${running.operationId}) is running`);
  }
  const begun = begin(opened.row, readings, instruction, term);
  // A refused instruction leaves the row as it was: a newer epoch is in force only with an accepted instruction.
  return begun.refused === undefined ? begun : { ...begun, row };
}

/** What an instruction under an id that is known asks for beside what was asked for under it. */
function difference({ operation, allocation }: Row, instruction: Instruction): string | undefined {
  const { operationId, verb } = instruction;
  const known = operation?.instruction;
  if (known?.operationId === operationId && known.verb !== verb)
    return `operation ${operationId} is a ${known.verb}, not a ${verb}`;
  if ((verb !== 'isolate' && verb !== 'reimage') || instruction.args.allocation === allocation) return undefined;
  return `operation ${operationId} was asked for before, and the node is of allocation ${allocation}, not ${instruction.args.allocation}`;
}

function open(row: Row, readings: Readings, instruction: Instruction): Verdict {
  const { epoch, verb } = instruction;
  const planned = opening(row, readings, instruction);
  if (planned.refused !== undefined) return planned;
  const running = row.operation?.status === 'Running' ? row.operation : undefined;
  const ends = verb === 'drain' || verb === 'fence';
  const { change: _ofTrustedImage, ...vmm } = readings.vmm;
  const awaited = row.kind === 'Reclaim' ? { ...readings, vmm } : readings;
  if (!(ends ? anythingPendingBesideBmc(awaited) : anythingPending(readings))) return planned;
  const message = `what was asked for under epoch ${row.epoch} can still take effect; ask for ${verb} again`;
  return {
    row: {
      ...row,
      seenEpoch: epoch,
      ...(running === undefined ? {} : { operation: { ...running, status: 'Cancelled' } }),
    },
    refused: 'Busy',
    message,
  };
}

/** The row as the newer epoch would begin, or why this instruction cannot open one. */
function opening(row: Row, readings: Readings, instruction: Instruction): Verdict {
  const { epoch } = instruction;
  switch (instruction.verb) {
    case 'isolate': {
      const { allocation } = instruction.args;
      if (row.kind === 'Tenancy' && row.allocation === allocation)
        return { row: openEpoch(row, epoch, 'Tenancy', allocation) };
      if (row.guestStarted || row.ended || row.certificate === undefined) {
        return refuse(row, 'NotAllowed', 'the node has no clean certificate since its last tenant; reclaim it first');
      }
      if (readings.vmm.vmm === 'Resident') {
        return refuse(
          row,
          'NotAllowed',
          'a hypervisor runs on the node that this log knows nothing of; reclaim it first',
        );
      }
      return { row: openEpoch(row, epoch, 'Tenancy', allocation) };
    }
    case 'reimage': {
      const { allocation } = instruction.args;
      if (row.kind !== 'Tenancy' || row.allocation !== allocation) {
        return refuse(row, 'NotIsolated', 'a new tenancy begins with isolate');
      }
      if (!isolated(row, readings))
        return refuse(row, 'NotIsolated', 'a data port is not in the domain of the allocation');
      return { row: openEpoch(row, epoch, 'Tenancy', allocation) };
    }
    case 'power':
      return instruction.args.desired === 'Off'
        ? { row: openEpoch(row, epoch, 'Reclaim', undefined) }
        : refuse(row, 'NotAllowed', 'power On does not open an epoch');
    case 'drain':
    case 'fence':
      return { row: openEpoch(row, epoch, 'Reclaim', undefined) };
    case 'wipe':
      return refuse(row, 'NotAttested', 'nothing was attested under this epoch');
    default:
      return refuse(row, 'NotAllowed', `${instruction.verb} does not open an epoch; epoch ${row.epoch} is in force`);
  }
}

function begin(row: Row, readings: Readings, instruction: Instruction, term: number): Verdict {
  const reason = objection(row, readings, instruction);
  if (reason !== undefined) return refuse(row, reason[0], reason[1]);
  const recent = [...row.recent, instruction.operationId].slice(-rememberedOperations);
  const known: Row = { ...row, recent };
  const running: Row = besideRunning(row, instruction)
    ? known
    : { ...known, operation: { instruction, term, status: 'Running', phase: 'Preparing' } };
  switch (instruction.verb) {
    case 'isolate': {
      const { domain, egress, allocation } = instruction.args;
      const { operationId } = instruction;
      return { row: { ...running, allocation, isolation: { operationId, domain, egress, status: 'Running' } } };
    }
    case 'reimage': {
      const { maxRateBytes: _replaced, ...rest } = running;
      const plan = instruction.args;
      return { row: { ...rest, plan, revision: plan.environment.revision } };
    }
    case 'devirtualize':
      return { row: { ...running, preparing: true } };
    case 'drain':
    case 'fence':
      return { row: { ...running, ended: true } };
    case 'attest':
      return { row: { ...running, reclaim: { ...notAttested(row.reclaim), checked: false } } };
    case 'wipe':
      return {
        row: { ...running, reclaim: { ...row.reclaim, wiped: [], isWiped: false, erase: instruction.args.erase } },
      };
    case 'throttle':
      return { row: { ...running, maxRateBytes: instruction.args.maxRateBytes } };
    default:
      return { row: running };
  }
}

/** A later isolate takes the place of an earlier one. */
function besideRunning({ operation }: Row, { verb }: Instruction): boolean {
  return operation?.status === 'Running' && besideOthers.has(verb) && operation.instruction.verb !== verb;
}

type Objection = readonly [RefusedReason, string] | undefined;

function objection(row: Row, readings: Readings, instruction: Instruction): Objection {
  switch (instruction.verb) {
    case 'isolate':
      return row.kind === 'Tenancy'
        ? undefined
        : ['NotAllowed', `epoch ${row.epoch} is a reclaim; a tenancy needs a newer epoch`];
    case 'reimage':
      return objectionToReimage(row, readings, instruction.args.allocation);
    case 'devirtualize':
      return objectionToDevirtualize(row, readings, instruction.args.phase);
    case 'throttle':
      return row.plan === undefined ? ['NotAllowed', 'nothing is being copied under this epoch'] : undefined;
    case 'power':
      return objectionToPower(row, readings, instruction.args.desired);
    default:
      return objectionToReclaim(row, readings, instruction.verb);
  }
}

function objectionToReimage(row: Row, readings: Readings, allocation: string): Objection {
  if (row.kind !== 'Tenancy') return ['NotAllowed', `epoch ${row.epoch} is no tenancy`];
  if (row.commitSent)
    return ['Conflict', 'the commit to devirtualize was sent under this epoch; nothing is re-imaged in it'];
  if (row.preparing)
    return ['Conflict', 'devirtualization was prepared: the machine boots from its own disk from now on'];
  if (row.allocation !== allocation) return ['Conflict', `epoch ${row.epoch} belongs to allocation ${row.allocation}`];
  if (!row.guestStarted && row.certificate === undefined) {
    return ['Conflict', 'a disk is not one of those that were wiped; the node needs a reclaim'];
  }
  if (!isolated(row, readings)) {
    return ['NotIsolated', `not every data port was read back in ${row.isolation?.domain ?? 'a domain of this epoch'}`];
  }
  return undefined;
}

function objectionToDevirtualize(row: Row, readings: Readings, phase: 'Prepare' | 'Commit'): Objection {
  if (row.kind !== 'Tenancy' || row.plan === undefined) return ['NotAllowed', 'nothing was installed under this epoch'];
  if (phase === 'Commit') {
    return row.commitSent || isPrepared(row, readings)
      ? undefined
      : ['NotPrepared', 'prepare it, and wait until it is prepared'];
  }
  if (row.commitSent) return ['Conflict', 'the commit was sent'];
  const { vmm } = readings;
  const complete =
    vmm.vmm === 'Resident' ? vmm.epoch === row.epoch && copyComplete(vmm.copy) : row.finalCopy !== undefined;
  if (!complete || vmm.failure !== undefined) return ['NotPrepared', 'not every block is local and flushed'];
  return isolated(row, readings) ? undefined : ['NotIsolated', 'a data port is not in the domain of the allocation'];
}

function objectionToPower(row: Row, readings: Readings, desired: 'Off' | 'On'): Objection {
  if (row.kind === 'None') return ['NotAllowed', 'no epoch is in force'];
  if (desired === 'Off') return undefined;
  if (row.kind === 'Reclaim') return ['NotAllowed', 'in a reclaim only attest switches the machine on'];
  if (!row.guestStarted || row.starts === 0) return ['NotAllowed', 'nothing was started under this epoch; reimage it'];
  return isolated(row, readings) ? undefined : ['NotIsolated', 'a data port is not in the domain of the allocation'];
}

function objectionToReclaim(row: Row, readings: Readings, verb: Instruction['verb']): Objection {
  if (row.kind !== 'Reclaim') {
    return ['NotAllowed', `${verb} belongs to an end, which has an epoch of its own, higher than ${row.epoch}`];
  }
  if (verb === 'drain' || verb === 'fence') return undefined;
  if (!row.ended) return ['NotAllowed', 'no end was accepted; drain or fence first'];
  if (!dataPortsIn(readings, 'quarantine')) return ['NotIsolated', 'not every data port was read back in quarantine'];
  if (verb === 'attest') {
    return readings.power.state === 'Off'
      ? undefined
      : ['NotAllowed', `power is ${readings.power.state}; switch it off first`];
  }
  const { attestedNonce, wiped, isWiped, checked } = row.reclaim;
  // The check passed, and parking the machine failed: only that is left, and the attested boot has ended with it.
  if (verb === 'check' && checked) return undefined;
  if (attestedNonce === '' || !readings.vmm.trusted.up || readings.vmm.trusted.nonce !== attestedNonce) {
    return ['NotAttested', 'no attested boot of this epoch is alive'];
  }
  if (verb === 'check' && (isWiped !== true || notWiped(readings.machine, wiped) > 0)) {
    return ['NotAllowed', 'not every disk was wiped in this attested boot'];
  }
  return undefined;
}

/**
 * What to do next for a node: pure, level-triggered, from its row and what is read back now. Called again after every change
 * and after a restart, so it holds no memory of its own.
 *
 * Invariants:
 * 1. Acts are run only after the returned row is durable.
 * 2. `guestStarted` is true in the row that comes with the act that lets the boot server answer with the VMM; the certificate
 *    is gone from it.
 * 3. Nothing is asked for while an earlier change of the same kind is pending.
 * 4. What was under way when the agent started may be found done or failed, and asks for nothing before it was instructed again.
 */
import type { Certificate, Failure } from '../controller/api/protocol.generated.ts';
import type { MachineFacts, Readings } from './drivers/port.ts';
import { type Act, type Context, failure, limits, met, type Outcome, powerIs, waitFor } from './needs.ts';
import { reclaimStep } from './reclaim.ts';
import { copyComplete, isAsking, notAttested, type Row, type RowOperation } from './row.ts';
import {
  closeStrayed,
  devirtualizeStep,
  isolateStep,
  keepControlPort,
  keepServing,
  planOf,
  reimageStep,
} from './tenancy.ts';

export interface Decision {
  readonly row: Row;
  readonly acts: readonly Act[];
  /** What is waited for, and how long at most; the core calls again with its `key` as `expired` when the time is over. */
  readonly waits: readonly { readonly key: string; readonly limitMs: number }[];
}

export interface DecideOptions {
  /** Keys of waits whose time is over. */
  readonly expired: ReadonlySet<string>;
  /** For the certificate: `Clock.now()`. */
  readonly nowMs: number;
}

export function decide(row: Row, readings: Readings, options: DecideOptions): Decision {
  const ctx: Context = { row: absorb(row, readings), readings, acts: [], waits: [], ...options };
  stepIsolation(ctx);
  stepOperation(ctx);
  keepPlan(ctx);
  keepServing(ctx);
  noticeSilence(ctx);
  const asksFor = (role: 'Control' | 'Data') => ctx.acts.some((act) => act.kind === 'fabric' && act.role === role);
  if (!asksFor('Control')) keepControlPort(ctx);
  if (!asksFor('Data')) closeStrayed(ctx);
  return { row: ctx.row, acts: ctx.acts, waits: ctx.waits };
}

/** A disk that was put in since holds nobody knows whose data. */
const disksAreOf = (certificate: Certificate, { inventory }: MachineFacts): boolean =>
  inventory.disks.every(({ serial }) => serial === undefined || certificate.disks.includes(serial));

/** Takes over what the readings say for good: boots, the map, other disks, and the end of an attested boot. */
function absorb(row: Row, { machine, vmm }: Readings): Row {
  let next = row;
  if (row.kind === 'Tenancy' && vmm.epoch === row.epoch) {
    if (vmm.guest.starts > row.starts) next = { ...next, starts: vmm.guest.starts };
    // One that is not valid was there as well.
    if (!row.mapSeen && vmm.copy.map !== 'None') next = { ...next, mapSeen: true };
    if (row.finalCopy === undefined && copyComplete(vmm.copy)) next = { ...next, finalCopy: vmm.copy };
  }
  if (row.kind === 'Tenancy' && !next.mapSeen && vmm.begunEpoch === row.epoch) next = { ...next, mapSeen: true };
  if (row.certificate !== undefined && !disksAreOf(row.certificate, machine)) {
    const { certificate: _ofOtherDisks, ...rest } = next;
    next = rest;
  }
  const { reclaim } = row;
  const attestedBootEnded = !vmm.trusted.up || vmm.trusted.nonce !== reclaim.attestedNonce;
  if (reclaim.attestedNonce !== '' && !reclaim.checked && attestedBootEnded) {
    next = { ...next, reclaim: notAttested(reclaim) };
  }
  return next;
}

function stepIsolation(ctx: Context): void {
  const { isolation } = ctx.row;
  if (isolation?.status !== 'Running') return;
  const outcome = onceSaid(ctx, isolation, (trial) => isolateStep(trial, isolation));
  if (outcome === undefined) awaitWord(ctx, isolation.operationId);
  if (outcome === undefined || outcome.kind === 'Waiting') return;
  const status = outcome.kind === 'Met' ? 'Done' : 'Failed';
  ctx.row = { ...ctx.row, isolation: { ...isolation, status } };
  if (ctx.row.operation?.instruction.operationId !== isolation.operationId) return;
  finish(ctx, outcome.kind === 'Met' ? undefined : outcome.failure);
}

function stepOperation(ctx: Context): void {
  const { operation } = ctx.row;
  if (operation?.status !== 'Running') return;
  const outcome = onceSaid(ctx, operation, (trial) => stepOf(trial, operation));
  if (outcome === undefined) awaitWord(ctx, operation.instruction.operationId);
  if (outcome?.kind === 'Met') finish(ctx, undefined);
  if (outcome?.kind === 'Failed') finish(ctx, outcome.failure);
}

/** Steps what nobody needs to say again; undefined: there is something to ask for, and that waits. */
function onceSaid(
  ctx: Context,
  { resumed }: { readonly resumed?: unknown },
  step: (ctx: Context) => Outcome,
): Outcome | undefined {
  if (resumed === undefined) return step(ctx);
  const trial: Context = { ...ctx, acts: [], waits: [] };
  const outcome = step(trial);
  if (trial.acts.length > 0) return undefined;
  ctx.row = trial.row;
  ctx.waits.push(...trial.waits);
  return outcome;
}

function awaitWord(ctx: Context, operationId: string): void {
  const { operation } = ctx.row;
  if (operation?.instruction.operationId !== operationId || operation.resumed === 'Awaited') return;
  ctx.row = { ...ctx.row, operation: { ...operation, resumed: 'Awaited' } };
}

function stepOf(ctx: Context, operation: RowOperation): Outcome {
  const { instruction } = operation;
  switch (instruction.verb) {
    case 'isolate':
      // Its isolation was stepped above, unless a later isolate replaced it.
      return ctx.row.isolation?.operationId === instruction.operationId
        ? { kind: 'Waiting' }
        : { kind: 'Failed', failure: failure('Cancelled', 'a later isolate replaced it', false) };
    case 'reimage':
      return reimageStep(ctx, operation, instruction);
    case 'devirtualize':
      return devirtualizeStep(ctx, operation, instruction.args.phase);
    case 'power':
      return powerIs(ctx, instruction.args.desired, `${instruction.operationId}/power`);
    case 'throttle':
      return met;
    case 'inspect':
      return met;
    default:
      return reclaimStep(ctx, operation, instruction);
  }
}

function finish(ctx: Context, failed: Failure | undefined): void {
  const { operation } = ctx.row;
  if (operation === undefined) return;
  const { failure: _none, ...rest } = operation;
  ctx.row = {
    ...ctx.row,
    operation: failed === undefined ? { ...rest, status: 'Done' } : { ...rest, status: 'Failed', failure: failed },
  };
}

/** Until the commit a hypervisor that is not heard for the time of a boot is a fault, whatever the reason. */
function noticeSilence(ctx: Context): void {
  const { row, readings } = ctx;
  const { vmm, epoch } = readings.vmm;
  const expected = row.kind === 'Tenancy' && row.mapSeen && !row.commitSent && !row.preparing;
  const heard = vmm === 'Resident' && epoch === row.epoch;
  if (!expected || heard || isAsking(row)) {
    const { silent, ...rest } = row;
    if (silent === true && (heard || !expected)) ctx.row = rest;
    return;
  }
  if (row.silent === true) return;
  waitFor(ctx, 'silence', limits.bootMs, () => {
    ctx.row = { ...row, silent: true };
    return met;
  });
}

/** Once a valid map was seen, the next boot must find it; and a throttle lasts. The core asks only for what is new. */
function keepPlan(ctx: Context): void {
  const { row, readings } = ctx;
  if (row.plan === undefined || row.kind !== 'Tenancy' || row.commitSent || readings.vmm.epoch !== row.epoch) return;
  if (!row.mapSeen && row.maxRateBytes === undefined) return;
  const plan = planOf(row, readings);
  if (plan !== undefined) ctx.acts.push({ kind: 'plan', plan });
  if (row.maxRateBytes !== undefined) ctx.acts.push({ kind: 'throttle', maxRateBytes: row.maxRateBytes });
}

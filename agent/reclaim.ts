/**
 * The operations of a reclaim: drain, fence, attest, wipe, check.
 *
 * Invariants:
 * 1. The machine is switched on only to boot the trusted image: boot order network and the boot server's answer Trusted were
 *    read back, and every data port is in quarantine.
 * 2. A wipe has ended only with every disk of the inventory, of the trusted image, and of the tenancy that ended; without one that has there is no check.
 * 3. The certificate is written only when the check passed in the attested boot that wiped every disk, and power was read back
 *    as Off; it is the only thing that resets `guestStarted`, `commitSent` and `ended`.
 */
import type { Instruction } from '../controller/api/protocol.generated.ts';
import {
  type Context,
  controlPortsAre,
  dataPortsAre,
  exportClosed,
  failed,
  limits,
  met,
  type Outcome,
  orderIs,
  powerIs,
  sequence,
  servingIs,
  startedBy,
  together,
  vmmChange,
  waitFor,
} from './needs.ts';
import { dataPortsIn, notAttested, notWiped, type RowOperation } from './row.ts';

type ReclaimInstruction = Extract<Instruction, { verb: 'drain' | 'fence' | 'attest' | 'wipe' | 'check' }>;

export function reclaimStep(ctx: Context, operation: RowOperation, instruction: ReclaimInstruction): Outcome {
  switch (instruction.verb) {
    case 'drain':
      return drainStep(ctx, operation, instruction.args);
    case 'fence':
      return fenceStep(ctx, instruction.operationId);
    case 'attest':
      return attestStep(ctx, operation, instruction.args.nonce);
    case 'wipe':
      return wipeStep(ctx, instruction.operationId, instruction.args.erase);
    case 'check':
      return checkStep(ctx, operation);
  }
}

function drainStep(ctx: Context, operation: RowOperation, args: { timeoutSeconds: number; message: string }): Outcome {
  const { operationId } = operation.instruction;
  const { power, vmm } = ctx.readings;
  const drained = (): Outcome => {
    ctx.row = { ...ctx.row, reclaim: { ...ctx.row.reclaim, drained: true } };
    return met;
  };
  if (power.state === 'Off' || vmm.guest.state === 'Off' || !ctx.row.guestStarted) return drained();
  const token = `${operationId}/shutdown`;
  // While the BMC still has a job of the tenancy its button cannot be pressed.
  if (operation.phase === 'Preparing' && power.stateChange?.status !== 'Pending') {
    ctx.row = { ...ctx.row, operation: { ...operation, phase: 'Acting' } };
    ctx.acts.push({ kind: 'notify', message: args.message }, { kind: 'power', desired: 'Shutdown', token });
  }
  return waitFor(ctx, token, args.timeoutSeconds * 1000, drained);
}

/** Quarantine for the ports, nothing for the machine to boot, and none of the tenant's secrets at the boot server. */
function fenceStep(ctx: Context, operationId: string): Outcome {
  ctx.acts.push({ kind: 'plan', plan: undefined });
  return together(
    () => dataPortsAre(ctx, 'quarantine', 'None', `${operationId}/data`),
    () => exportClosed(ctx, `${operationId}/close`),
    () => servingIs(ctx, 'Nothing', `${operationId}/serve`),
  );
}

function attestStep(ctx: Context, operation: RowOperation, nonce: string): Outcome {
  const { operationId } = operation.instruction;
  const { trusted, failure } = ctx.readings.vmm;
  if (!dataPortsIn(ctx.readings, 'quarantine')) return failed('NotIsolated', 'a data port left quarantine');
  if (operation.phase === 'Preparing') {
    ctx.acts.push({ kind: 'plan', plan: undefined });
    const { state } = ctx.readings.power;
    const cameOn = failed('PowerFailed', 'the machine came on before it was told to');
    // What came on is not the trusted image, and must not find provisioning.
    if (state === 'On') return cameOn;
    const ready = sequence(
      () =>
        together(
          () => exportClosed(ctx, `${operationId}/close`),
          () => orderIs(ctx, 'Network', `${operationId}/order`),
          () => servingIs(ctx, 'Trusted', `${operationId}/serve`),
          () => controlPortsAre(ctx, 'provisioning', `${operationId}/control`),
        ),
      () => (state === 'Off' ? met : cameOn),
    );
    if (ready.kind !== 'Met') return ready;
    ctx.row = { ...ctx.row, operation: { ...operation, phase: 'Acting' } };
  }
  if (startedBy(ctx, `${operationId}/on`) && failure !== undefined && !trusted.up) return { kind: 'Failed', failure };
  const token = `${operationId}/attest`;
  const verified = sequence(
    () => powerIs(ctx, 'On', `${operationId}/on`),
    () =>
      trusted.up
        ? met
        : waitFor(ctx, `${operationId}/up`, limits.bootMs, () =>
            failed('BootTimeout', `the trusted image did not report within ${limits.bootMs / 60_000} minutes`),
          ),
    () =>
      vmmChange(ctx, {
        holds: trusted.nonce === nonce,
        token,
        act: { kind: 'attest', nonce, token },
        limitMs: limits.attestMs,
        code: 'AttestationFailed',
        what: 'attestation',
      }),
  );
  if (verified.kind === 'Met') {
    const { attestation } = trusted;
    const reclaim = { ...notAttested(ctx.row.reclaim), attestedNonce: nonce };
    ctx.row = { ...ctx.row, reclaim: attestation === undefined ? reclaim : { ...reclaim, attestation } };
  }
  return verified;
}

/** No limit of its own: a full overwrite takes as long as the disks are large. */
function wipeStep(ctx: Context, operationId: string, erase: 'Quick' | 'Crypto' | 'Full'): Outcome {
  const { machine, vmm } = ctx.readings;
  if (ctx.row.reclaim.attestedNonce === '')
    return failed('WipeFailed', 'the attested boot ended before every disk was wiped');
  const { change, trusted } = vmm;
  const token = `${operationId}/wipe`;
  // Only disks wiped by this operation count: an earlier, weaker erase in the same boot does not.
  if (change?.token !== token) {
    if (change?.status !== 'Pending') ctx.acts.push({ kind: 'wipe', erase, token });
    return { kind: 'Waiting' };
  }
  if (trusted.wiped.length !== ctx.row.reclaim.wiped.length) {
    ctx.row = { ...ctx.row, reclaim: { ...ctx.row.reclaim, wiped: [...trusted.wiped] } };
  }
  if (change.status === 'Pending') return { kind: 'Waiting' };
  if (change.status === 'Error') return failed('WipeFailed', change.error ?? 'a disk was not wiped');
  const left = notWiped(machine, trusted.wiped);
  if (left > 0) return failed('WipeFailed', `${left} disks of the inventory were not wiped`);
  if (trusted.wiped.length === 0) return failed('WipeFailed', 'the trusted image finds no disk in the machine', false);
  const gone = (ctx.row.disksInUse ?? []).filter((serial) => !trusted.wiped.includes(serial));
  if (gone.length > 0) return failed('WipeFailed', missing(gone), false);
  ctx.row = { ...ctx.row, reclaim: { ...ctx.row.reclaim, isWiped: true } };
  return met;
}

/** A tenant with root can switch a disk off in the firmware, and the next one can switch it on again. */
const missing = (serials: readonly string[]): string =>
  `disk ${serials.join(', ')} was there when the tenant began and is not found: put it back, or decide Reclaim without it`;

function checkStep(ctx: Context, operation: RowOperation): Outcome {
  const { operationId } = operation.instruction;
  const { trusted } = ctx.readings.vmm;
  const { reclaim } = ctx.row;
  if (!reclaim.checked) {
    if (reclaim.attestedNonce === '') return failed('CheckFailed', 'the attested boot ended before the check');
    const token = `${operationId}/check`;
    const passed = vmmChange(ctx, {
      holds: trusted.checked,
      token,
      act: { kind: 'check', token },
      limitMs: limits.checkMs,
      code: 'CheckFailed',
      what: 'check against the baseline',
    });
    if (passed.kind !== 'Met') return passed;
    ctx.row = { ...ctx.row, reclaim: { ...reclaim, checked: true } };
  }
  const parked = sequence(
    () => powerIs(ctx, 'Off', `${operationId}/off`),
    () => servingIs(ctx, 'Nothing', `${operationId}/serve`),
  );
  if (parked.kind !== 'Met') return parked;
  certify(ctx);
  return met;
}

function certify(ctx: Context): void {
  const { row, nowMs } = ctx;
  const { attestedNonce: nonce, attestation, erase = 'Quick', wiped } = row.reclaim;
  ctx.row = {
    ...row,
    guestStarted: false,
    commitSent: false,
    ended: false,
    certificate: {
      ...{ epoch: row.epoch, nonce, at: new Date(nowMs).toISOString(), erase, disks: [...wiped] },
      ...(attestation === undefined ? {} : { attestation }),
    },
  };
}

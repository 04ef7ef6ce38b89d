/**
 * The needs that operations are made of: each is met, waited for, or failed, and asks for its change once.
 *
 * Invariants:
 * 1. A need is met only by what is read back, never by a change that says Done.
 * 2. A change is asked for once under one token; a change that failed fails the operation, which a new operation may repeat.
 */
import type { Environment, Failure } from '../controller/api/protocol.generated.ts';
import type { Change, Egress, Erase, Readings, Serving, VmmPlan } from './drivers/port.ts';
import { dataPortsIn, type Row } from './row.ts';

export type Act =
  | { readonly kind: 'power'; readonly desired: 'On' | 'Off' | 'Shutdown'; readonly token: string }
  | { readonly kind: 'order'; readonly order: 'Network' | 'Disk'; readonly token: string }
  | {
      readonly kind: 'fabric';
      readonly role: 'Data' | 'Control';
      readonly domain: string;
      readonly egress?: Egress;
      readonly token: string;
    }
  | { readonly kind: 'open'; readonly image: Environment['image']; readonly token: string }
  | { readonly kind: 'close'; readonly token: string }
  | { readonly kind: 'serve'; readonly what: Serving; readonly token: string }
  | { readonly kind: 'plan'; readonly plan: VmmPlan | undefined }
  | { readonly kind: 'throttle'; readonly maxRateBytes: number }
  | { readonly kind: 'notify'; readonly message: string }
  | { readonly kind: 'devirtualize'; readonly token: string }
  | { readonly kind: 'attest'; readonly nonce: string; readonly token: string }
  | { readonly kind: 'wipe'; readonly erase: Erase; readonly token: string }
  | { readonly kind: 'check'; readonly token: string };

export interface Context {
  row: Row;
  readonly readings: Readings;
  readonly acts: Act[];
  readonly waits: { key: string; limitMs: number }[];
  readonly expired: ReadonlySet<string>;
  readonly nowMs: number;
}

export type Outcome =
  | { readonly kind: 'Met' }
  | { readonly kind: 'Waiting' }
  | { readonly kind: 'Failed'; readonly failure: Failure };

export const met: Outcome = { kind: 'Met' };

export const failure = (code: Failure['code'], message: string, retryable: boolean): Failure => ({
  code,
  message: message.slice(0, 1024),
  retryable,
});

export const failed = (code: Failure['code'], message: string, retryable = true): Outcome => ({
  kind: 'Failed',
  failure: failure(code, message, retryable),
});

const minute = 60_000;
/** How long each change may stay without effect; generous, because giving up early repeats work. */
export const limits = {
  /** A BMC that takes longer hangs: vendors' own tools give up after 5 minutes. */
  powerMs: 5 * minute,
  fabricMs: 5 * minute,
  /** Fetching the index of a large image from a slow origin. */
  imageMs: 10 * minute,
  /** POST of a machine with terabytes of memory takes 10 minutes and more. */
  bootMs: 20 * minute,
  devirtualizeMs: 5 * minute,
  attestMs: 5 * minute,
  checkMs: 30 * minute,
} as const;

export function waitFor(ctx: Context, key: string, limitMs: number, onLimit: () => Outcome): Outcome {
  if (ctx.expired.has(key)) return onLimit();
  ctx.waits.push({ key, limitMs });
  return { kind: 'Waiting' };
}

/** The first need that is not met; the ones behind it are not asked for yet. */
export function sequence(...needs: readonly (() => Outcome)[]): Outcome {
  for (const need of needs) {
    const outcome = need();
    if (outcome.kind !== 'Met') return outcome;
  }
  return met;
}

/** Asks for all of them at once; failed if one is, met when all are. */
export function together(...needs: readonly (() => Outcome)[]): Outcome {
  const outcomes = needs.map((need) => need());
  return (
    outcomes.find((outcome) => outcome.kind === 'Failed') ??
    outcomes.find((outcome) => outcome.kind === 'Waiting') ??
    met
  );
}

export interface Need {
  readonly change: Change | undefined;
  readonly holds: boolean;
  readonly token: string;
  readonly act: Act;
  readonly limitMs: number;
  readonly code: Failure['code'];
  /** What it is about, for messages. */
  readonly what: string;
}

export function need(ctx: Context, { change, holds, token, act, limitMs, code, what }: Need): Outcome {
  const overdue = (): Outcome => failed(code, `${what} was not read back within ${limitMs / 1000} s`);
  if (change?.status === 'Pending') return waitFor(ctx, token, limitMs, overdue);
  if (holds) return met;
  if (change?.token !== token) {
    ctx.acts.push(act);
    return waitFor(ctx, token, limitMs, overdue);
  }
  if (change.status === 'Error') return failed(code, `${what}: ${change.error ?? 'failed without a reason'}`);
  return waitFor(ctx, token, limitMs, overdue);
}

export function powerIs(ctx: Context, desired: 'On' | 'Off', token: string): Outcome {
  const { state, stateChange } = ctx.readings.power;
  return need(ctx, {
    change: stateChange,
    holds: state === desired,
    token,
    act: { kind: 'power', desired, token },
    limitMs: limits.powerMs,
    code: 'PowerFailed',
    what: `power ${desired}`,
  });
}

/** Whether the boot that is going on was begun by this token: what the channel reports is then about it. */
export function startedBy({ readings }: Context, token: string): boolean {
  const { stateChange } = readings.power;
  return stateChange?.token === token && stateChange.status === 'Done';
}

/**
 * Asked for by every operation that needs it, also where it reads as wanted: a BMC may show an order that its firmware ignored,
 * and only another attempt at setting it mends that.
 */
export function orderIs(ctx: Context, order: 'Network' | 'Disk', token: string): Outcome {
  const { power } = ctx.readings;
  return need(ctx, {
    change: power.orderChange,
    holds: power.order === order && power.orderChange?.token === token,
    token,
    act: { kind: 'order', order, token },
    limitMs: limits.powerMs,
    code: 'BootOrderIgnored',
    what: `boot order ${order}`,
  });
}

export function servingIs(ctx: Context, what: Serving, token: string): Outcome {
  const { images } = ctx.readings;
  return need(ctx, {
    change: images.servingChange,
    holds: images.serving === what,
    token,
    act: { kind: 'serve', what, token },
    limitMs: limits.imageMs,
    code: 'ImageUnavailable',
    what: `boot server answering ${what}`,
  });
}

export function exportClosed(ctx: Context, token: string): Outcome {
  const { images } = ctx.readings;
  return need(ctx, {
    change: images.exportChange,
    holds: images.exported === 'Closed',
    token,
    act: { kind: 'close', token },
    limitMs: limits.imageMs,
    code: 'ImageUnavailable',
    what: 'closing the export',
  });
}

export function dataPortsAre(ctx: Context, domain: string, egress: Egress, token: string): Outcome {
  const { fabric } = ctx.readings;
  return need(ctx, {
    change: fabric.dataChange,
    holds: dataPortsIn(ctx.readings, domain, egress),
    token,
    act: { kind: 'fabric', role: 'Data', domain, egress, token },
    limitMs: limits.fabricMs,
    code: 'FabricFailed',
    what: `data ports in ${domain}`,
  });
}

export function controlPortsAre(ctx: Context, domain: 'provisioning' | 'closed', token: string): Outcome {
  const { fabric } = ctx.readings;
  const control = fabric.ports.filter((port) => port.role === 'Control');
  return need(ctx, {
    change: fabric.controlChange,
    holds: control.every((port) => port.state === 'Ready' && port.domain === domain),
    token,
    act: { kind: 'fabric', role: 'Control', domain, token },
    limitMs: limits.fabricMs,
    code: 'FabricFailed',
    what: `control port in ${domain}`,
  });
}

/** For what cannot be read back except through its own change: the VMM's attestation, wipe and check. */
export function vmmChange(ctx: Context, parts: Omit<Need, 'change'>): Outcome {
  return need(ctx, { ...parts, change: ctx.readings.vmm.change });
}

/**
 * Bounded blast (rule 9): how many nodes automatic failure handling may fence, wipe or replace in a time, before it asks.
 *
 * Invariants:
 * 1. In every window of `windowMs`, at most max(`minNodes`, `share` of all nodes) different nodes are let through.
 * 2. A node that was let through in the window costs nothing again: handling it goes through several steps.
 * 3. The state holds no more entries than the bound.
 */
import { formatDuration } from '../api/duration.ts';

export interface BlastSettings {
  readonly windowMs: number;
  /** Share (0 to 1) of all nodes, rounded down. */
  readonly share: number;
  /** Allowed whatever the share, so that a small room is repaired too. */
  readonly minNodes: number;
}

export const defaultBlastSettings: BlastSettings = { windowMs: 600_000, share: 0.05, minNodes: 2 };

/** Node name to the time (ms) at which it was let through. */
export type BlastState = ReadonlyMap<string, number>;

export const noBlast: BlastState = new Map();

export type BlastVerdict =
  | { readonly allowed: true; readonly state: BlastState }
  | { readonly allowed: false; readonly state: BlastState; readonly reason: string; readonly retryAtMs: number };

function recent(state: BlastState, nowMs: number, windowMs: number): Map<string, number> {
  return new Map([...state].filter(([, at]) => nowMs - at < windowMs));
}

const limitOf = (totalNodes: number, { share, minNodes }: BlastSettings): number =>
  Math.max(minNodes, Math.floor(share * totalNodes));

/** How many further nodes may be handled now. */
export function blastBudget(
  state: BlastState,
  totalNodes: number,
  nowMs: number,
  settings: BlastSettings = defaultBlastSettings,
): number {
  return Math.max(0, limitOf(totalNodes, settings) - recent(state, nowMs, settings.windowMs).size);
}

/** Whether the node may be handled automatically now; the state that comes back counts it where it may. */
export function admitBlast(
  state: BlastState,
  request: { readonly node: string; readonly totalNodes: number; readonly nowMs: number },
  settings: BlastSettings = defaultBlastSettings,
): BlastVerdict {
  const { node, totalNodes, nowMs } = request;
  const kept = recent(state, nowMs, settings.windowMs);
  if (kept.has(node)) return { allowed: true, state: kept };
  const limit = limitOf(totalNodes, settings);
  if (kept.size < limit) return { allowed: true, state: kept.set(node, nowMs) };
  // The bound may have shrunk with the room: enough entries must pass for one more to fit.
  const times = [...kept.values()].sort((a, b) => a - b);
  const retryAtMs = (times[kept.size - limit] ?? nowMs) + settings.windowMs;
  const reason =
    `${kept.size} of ${totalNodes} nodes were handled as failed within ${formatDuration(settings.windowMs)}, and at most ${limit} are ` +
    `without asking; ${node} waits, look for a common cause`;
  return { allowed: false, state: kept, reason, retryAtMs };
}

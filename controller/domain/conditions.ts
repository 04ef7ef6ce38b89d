/**
 * Lists of metav1.Condition.
 *
 * Invariants:
 * 1. No input is changed; where nothing changes, the very same list comes back, so that `===` decides about a write.
 * 2. `lastTransitionTime` moves only when `status` does.
 */
import type { Condition } from '../api/meta.ts';

/** What is to be said; the times are kept here. */
export type ConditionFacts = Pick<Condition, 'type' | 'status' | 'reason' | 'message'>;

/** Longest message, in UTF-16 units; well under the CRDs' 32,768, because a status is written as a whole. */
export const maxMessageLength = 1024;

function bounded(message: string): string {
  if (message.length <= maxMessageLength) return message;
  const cut = message.slice(0, maxMessageLength - 1);
  return `${cut.isWellFormed() ? cut : cut.slice(0, -1)}…`;
}

/** The list with this condition in the place that it had, or at the end. `nowIso` is RFC 3339. */
export function setCondition<List extends readonly Condition[]>(
  list: List,
  facts: ConditionFacts,
  nowIso: string,
  generation: number | undefined,
): List | Condition[] {
  const message = bounded(facts.message);
  const index = list.findIndex(({ type }) => type === facts.type);
  const old = list[index];
  if (
    old !== undefined &&
    old.status === facts.status &&
    old.reason === facts.reason &&
    old.message === message &&
    old.observedGeneration === generation
  )
    return list;
  const condition: Condition = {
    type: facts.type,
    status: facts.status,
    ...(generation !== undefined && { observedGeneration: generation }),
    lastTransitionTime: old?.status === facts.status ? old.lastTransitionTime : nowIso,
    reason: facts.reason,
    message,
  };
  return old === undefined ? [...list, condition] : list.with(index, condition);
}

/** The list without this condition. */
export function removeCondition<List extends readonly Condition[]>(list: List, type: string): List | Condition[] {
  return list.some((condition) => condition.type === type) ? list.filter((condition) => condition.type !== type) : list;
}

/** The condition of this type, if the list has one. */
export function findCondition(list: readonly Condition[] | undefined, type: string): Condition | undefined {
  return list?.find((condition) => condition.type === type);
}

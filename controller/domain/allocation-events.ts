/**
 * What `kubectl describe` tells of an allocation's way beside the decisions: the turns of its conditions, in their own words.
 *
 * Invariant: an event belongs to a turn, never to a state that lasts, so an allocation at rest records none.
 */
import type { Condition } from '../api/meta.ts';
import type { AllocationEvent } from './allocation-draft.ts';

type Conditions = readonly Condition[] | undefined;

/** Good news: the condition turned True. What everybody expects in between (Isolated, Installed) is in the conditions only. */
const milestones = ['Ready', 'Devirtualized', 'UpdateAvailable'];

/** Events for what is True in `after` and was not in `before`; a stall or a refused placement also where its reason is another one. */
export function turnsBetween(before: Conditions, after: Conditions): AllocationEvent[] {
  const find = (conditions: Conditions, type: string): Condition | undefined =>
    conditions?.find((condition) => condition.type === type);
  const events: AllocationEvent[] = [];
  const placed = find(after, 'Scheduled');
  if (placed?.reason === 'Unschedulable' && find(before, 'Scheduled')?.reason !== 'Unschedulable')
    events.push({ type: 'Warning', reason: placed.reason, message: placed.message });
  for (const type of milestones) {
    const now = find(after, type);
    if (now?.status !== 'True' || find(before, type)?.status === 'True') continue;
    events.push({ type: 'Normal', reason: type, message: now.message });
  }
  const [was, stalled] = [find(before, 'Stalled'), find(after, 'Stalled')];
  if (stalled?.status === 'True' && (was?.status !== 'True' || was.reason !== stalled.reason))
    events.push({ type: 'Warning', reason: stalled.reason, message: stalled.message });
  return events;
}

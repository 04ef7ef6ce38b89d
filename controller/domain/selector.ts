/**
 * Label selectors, as metav1.LabelSelector means them: an empty one selects everything; NotIn and DoesNotExist hold
 * for a label that is not there.
 */
import type { NodeAllocationSpec } from '../api/types.generated.ts';

export type LabelSelector = NonNullable<NodeAllocationSpec['placement']['selector']>;
type Requirement = NonNullable<LabelSelector['matchExpressions']>[number];
/** Labels are read as own members only: a label named like a member of Object is not there until somebody sets it. */
export type Labels = Readonly<Record<string, string | undefined>>;

const labelOf = (labels: Labels, key: string): string | undefined =>
  Object.hasOwn(labels, key) ? labels[key] : undefined;

function holds({ key, operator, values = [] }: Requirement, labels: Labels): boolean {
  const value = labelOf(labels, key);
  switch (operator) {
    case 'In':
      return value !== undefined && values.includes(value);
    case 'NotIn':
      return value === undefined || !values.includes(value);
    case 'Exists':
      return value !== undefined;
    case 'DoesNotExist':
      return value === undefined;
  }
}

/** Whether every label is there with its value. */
export function matchesLabels(wanted: Labels, labels: Labels): boolean {
  return Object.entries(wanted).every(([key, value]) => value === undefined || labelOf(labels, key) === value);
}

/** Whether the selector selects what carries these labels. */
export function matchesSelector(selector: LabelSelector | undefined, labels: Labels): boolean {
  return (
    matchesLabels(selector?.matchLabels ?? {}, labels) &&
    (selector?.matchExpressions ?? []).every((requirement) => holds(requirement, labels))
  );
}

/**
 * Events as reconcilers record them: about one of our own objects, whose kind is known from itself.
 */
import { bitVisorAgents, computeEnvironments, nodeAllocations, physicalNodes } from '../api/meta.ts';
import type { EventRecorder } from '../kube/events.ts';
import type { GroupVersionKind, KubeObject } from '../kube/port.ts';

export interface Recorder {
  record(object: KubeObject, type: 'Normal' | 'Warning', reason: string, message: string): void;
}

const kinds: Readonly<Record<string, GroupVersionKind>> = Object.fromEntries(
  [bitVisorAgents, computeEnvironments, nodeAllocations, physicalNodes].map((gvk) => [gvk.kind, gvk]),
);

/** Items of a list do not carry their kind: `gvk` says it for them. */
export function recorderFor(events: EventRecorder, gvk: GroupVersionKind): Recorder {
  return {
    record: (object, type, reason, message) =>
      events.record(kinds[object.kind ?? ''] ?? gvk, object, type, reason, message),
  };
}

/**
 * The policy of every failure that an agent can report: a closed set, each with what the operator does about it.
 *
 * Invariants:
 * 1. No policy destroys data: the worst that a failure leads to by itself is a node that is held and shown.
 * 2. A failure that is the environment's fault never costs a node its place.
 */
import type { Failure } from '../api/protocol.generated.ts';

/** What the operator's own bookkeeping adds to the agents' codes. */
export type FailureCode = Failure['code'] | 'Deadline' | 'Refused';

/**
 * - `RetryNode`: try again a bounded number of times, then the node has failed.
 * - `FailNode`: the node has failed at once.
 * - `WaitForImage`: try again for ever with capped backoff: the image server is not the node's fault.
 * - `StallImage`: the environment is wrong; wait until it changes.
 */
export type FailurePolicy = 'RetryNode' | 'FailNode' | 'WaitForImage' | 'StallImage';

export const failurePolicies: Readonly<Record<FailureCode, FailurePolicy>> = {
  ImageUnavailable: 'WaitForImage',
  ImageDigestMismatch: 'StallImage',
  ImageTooLarge: 'StallImage',
  NoSuitableDisk: 'FailNode',
  DiskFailed: 'FailNode',
  MapInvalid: 'FailNode',
  BootTimeout: 'RetryNode',
  BootOrderIgnored: 'RetryNode',
  VmmFailed: 'RetryNode',
  PowerFailed: 'RetryNode',
  FabricFailed: 'RetryNode',
  NotIsolated: 'RetryNode',
  DrainTimeout: 'RetryNode',
  AttestationFailed: 'RetryNode',
  WipeFailed: 'RetryNode',
  CheckFailed: 'FailNode',
  Cancelled: 'RetryNode',
  Internal: 'RetryNode',
  Deadline: 'RetryNode',
  Refused: 'FailNode',
};

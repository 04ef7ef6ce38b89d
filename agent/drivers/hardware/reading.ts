/**
 * What is read of a machine's hypervisor, guest and copy: pure.
 *
 * Invariants:
 * 1. A hypervisor that was given a plan is Resident while it is connected, and Unknown otherwise, until it was seen to have left or its start of
 *    the machine is over: a broken connection alone makes nothing Absent.
 * 2. A guest is Off only where none can run: the machine is off, or asked the boot server and was given nothing that runs one.
 */
import type { Failure, NodeObservation } from '../../../controller/api/protocol.generated.ts';
import type { Change, PowerState, VmmReading } from '../port.ts';
import type { ChannelReading } from '../vmm-channel/agent-side.ts';
import { copyOf, noCopy } from './channel-plan.ts';
import type { Kept } from './kept.ts';

export interface Failed {
  readonly epoch: number;
  readonly failure: Failure;
}

export interface Known {
  readonly kept: Kept;
  readonly power: PowerState;
  readonly channel: ChannelReading;
  readonly failed: Failed | undefined;
  readonly change: Change | undefined;
  readonly trusted: VmmReading['trusted'];
  readonly guestAddress: string | undefined;
}

export function readingOf(known: Known): VmmReading {
  const { kept, failed, change, trusted, guestAddress } = known;
  const { boot, starts, begun } = kept;
  const vmm = vmmOf(known);
  const epoch = boot.kind === 'Vmm' && boot.isOffered ? boot.epoch : (failed?.epoch ?? 0);
  return {
    ...{ vmm, epoch, trusted, copy: copyIn(known) },
    ...(begun?.status === 'Begun' ? { begunEpoch: begun.epoch } : {}),
    guest: {
      state: guestOf(known),
      starts: starts.epoch === epoch ? starts.count : 0,
      ...(guestAddress === undefined || vmm !== 'Resident' ? {} : { address: guestAddress }),
    },
    ...(failed === undefined ? {} : { failure: failed.failure }),
    ...(change === undefined ? {} : { change }),
  };
}

function vmmOf({ kept: { boot }, power, channel }: Known): VmmReading['vmm'] {
  if (boot.kind === 'Unknown') return power === 'Off' ? 'Absent' : 'Unknown';
  if (boot.kind !== 'Vmm' || boot.hasLeft || !boot.isOffered) return 'Absent';
  return channel.connected ? 'Resident' : 'Unknown';
}

function guestOf({ kept: { boot }, power, channel }: Known): NodeObservation['guest']['state'] {
  if (boot.kind === 'Unknown' || (boot.kind === 'Vmm' && boot.hasLeft)) return 'Unknown';
  // It came on again and did not ask here: what it boots is on its disk.
  if (boot.kind === 'Off' && power !== 'Off') return 'Unknown';
  if (boot.kind !== 'Vmm' || !boot.isOffered) return 'Off';
  if (!channel.connected) return 'Unknown';
  return channel.status?.guest === 'Running' ? 'Running' : 'Off';
}

function copyIn({ kept: { boot }, channel, failed }: Known): NodeObservation['copy'] {
  if (failed?.failure.code === 'MapInvalid') return { ...noCopy, map: 'Invalid' };
  return boot.kind === 'Vmm' && boot.isOffered ? copyOf(channel.status) : noCopy;
}

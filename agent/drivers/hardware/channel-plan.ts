/** From the plan of the agent to that of the VMM channel, and from what a VMM says to the reading: pure. */
import type { Failure, NodeObservation } from '../../../controller/api/protocol.generated.ts';
import type { Write } from '../boot/tenant-data.ts';
import type { MachineFacts, VmmPlan } from '../port.ts';
import type { ChannelReading } from '../vmm-channel/agent-side.ts';
import type { Plan, Source, Status } from '../vmm-channel/messages.ts';

/** A frame's body, less what the plan's other fields take. */
const mostWriteBytes = 60_000;
const mostWrites = 16;

export const failureOf = (code: Failure['code'], message: string, retryable = true): Failure => ({
  code,
  message: message.slice(0, 1024),
  retryable,
});

/** In the channel 0 says that there is no bound; the least bound stands for a copy that is stopped. */
export const channelRate = (maxRateBytes: number | undefined): bigint =>
  maxRateBytes === undefined ? 0n : maxRateBytes === 0 ? 1n : BigInt(Math.floor(maxRateBytes));

/** @returns the plan, or what is wrong with it */
export function channelPlan(
  plan: VmmPlan,
  rest: {
    readonly start: VmmPlan['start'];
    readonly machine: MachineFacts;
    readonly source: Source;
    readonly writes: readonly Write[];
    /** Bytes of the image as it is exported. */
    readonly imageBytes: number;
  },
): Plan | Failure {
  const { start, machine, source, writes, imageBytes } = rest;
  const disk = machine.inventory.disks.find(({ name }) => name === plan.disk);
  if (disk?.serial === undefined)
    return failureOf('NoSuitableDisk', `no disk ${plan.disk} with a serial number, by which the VMM knows it`, false);
  const bytes = writes.reduce((sum, write) => sum + write.bytes.length, 0);
  if (writes.length > mostWrites || bytes > mostWriteBytes)
    return failureOf('VmmFailed', `a plan carries ${mostWriteBytes} bytes for the disk, and there are ${bytes}`, false);
  return {
    ...{ kind: 'Plan', epoch: BigInt(plan.epoch), start, yields: plan.environment.install.yield },
    ...{ totalBytes: BigInt(imageBytes), maxRateBytes: channelRate(plan.maxRateBytes), source },
    imageDigest: Buffer.from(plan.environment.image.sha256, 'hex'),
    diskSerial: disk.serial,
    writes: writes.map((write) => ({ offset: BigInt(write.offset), bytes: write.bytes })),
  };
}

const codes: readonly string[] = [
  'ImageUnavailable',
  'ImageDigestMismatch',
  'ImageTooLarge',
  'NoSuitableDisk',
  'DiskFailed',
  'MapInvalid',
  'VmmFailed',
] satisfies Failure['code'][];
const lasting: readonly string[] = ['ImageTooLarge', 'NoSuitableDisk', 'MapInvalid'];

/** A code that a VMM cannot know of is a failure of the VMM. */
export function channelFailure({ code, text }: NonNullable<ChannelReading['failure']>): Failure {
  const known = codes.includes(code);
  return failureOf(
    known ? (code as Failure['code']) : 'VmmFailed',
    known ? text : `${code}: ${text}`,
    !lasting.includes(code),
  );
}

export const noCopy: NodeObservation['copy'] = {
  totalBytes: 0,
  localBytes: 0,
  flushed: false,
  inFlight: 0,
  map: 'None',
};

export function copyOf(status: Status | undefined): NodeObservation['copy'] {
  if (status === undefined) return noCopy;
  const { map, flushed, inFlight } = status;
  return { totalBytes: Number(status.totalBytes), localBytes: Number(status.localBytes), flushed, inFlight, map };
}

/** Whether a guest may have begun, or a map, under what this status is about. */
export const hasBegun = ({ map, guest, starts }: Status): boolean =>
  map !== 'None' || guest !== 'NotStarted' || starts > 0;

const steps = 64;

/** Whether the difference is worth telling: progress comes in sixty-fourths. */
export function tellsMore(before: Status | undefined, now: Status | undefined): boolean {
  if (before === undefined || now === undefined) return before !== now;
  const step = ({ localBytes, totalBytes }: Status): bigint =>
    totalBytes === 0n ? 0n : (localBytes * BigInt(steps)) / totalBytes;
  return (
    step(before) !== step(now) ||
    before.map !== now.map ||
    before.guest !== now.guest ||
    before.flushed !== now.flushed ||
    before.starts !== now.starts ||
    (before.inFlight === 0) !== (now.inFlight === 0)
  );
}

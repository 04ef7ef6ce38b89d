/**
 * The disk that an image goes to, made ready for a boot: its map, and what the machine's own boot adds to the image.
 *
 * Invariant: a valid map of the plan's epoch and image is kept. Without one the disk is erased only if no guest ever ran under the plan.
 */
import type { Failure } from '../../../controller/api/protocol.generated.ts';
import { plannedWrites } from '../boot/planned-writes.ts';
import type { VmmPlan } from '../port.ts';
import { beginMap, inspectMap } from './map.ts';
import type { ExportPlace, Mediator } from './mediator.ts';
import type { MachineSpec } from './shape.ts';

export const failureOf = (code: Failure['code'], message: string, retryable = true): Failure => ({
  code,
  message: message.slice(0, 1024),
  retryable,
});

/** @param hasRun whether a guest was ever started under the plan @returns what is wrong */
export async function prepareTarget(
  spec: MachineSpec,
  plan: VmmPlan,
  hasRun: boolean,
  place: ExportPlace | undefined,
): Promise<Failure | undefined> {
  const { image, revision } = plan.environment;
  const disk = spec.shape.disks.find(({ name }) => name === plan.disk);
  if (disk === undefined) return failureOf('NoSuitableDisk', `no disk ${plan.disk}`, false);
  const map = await inspectMap(spec, disk.name, { epoch: plan.epoch, digest: image.sha256 });
  if (map === 'Valid') return undefined;
  if (plan.start === 'Keep' || hasRun)
    return failureOf('MapInvalid', `the map of filled blocks on ${disk.name} is not valid`, false);
  if (place === undefined) return failureOf('ImageUnavailable', 'the image is not exported to this machine');
  try {
    const imageBytes = Math.min(image.sizeBytes, disk.sizeBytes);
    await beginMap(spec, disk, { epoch: plan.epoch, revision, digest: image.sha256, imageBytes });
  } catch (error) {
    return failureOf('DiskFailed', `${disk.name}: ${(error as Error).message}`);
  }
  return undefined;
}

/**
 * Kernel arguments, host name, keys and user data, where the image keeps a place for them.
 * @throws Error for people when the image cannot take what is asked for
 */
export async function writeTenantData(
  mediator: Mediator,
  readImage: (offset: number, length: number) => Promise<Buffer>,
  plan: VmmPlan,
): Promise<void> {
  const writes = await plannedWrites(plan, readImage, plan.environment.image.sizeBytes);
  for (const { offset, bytes } of writes) await mediator.write(plan.disk, offset, bytes);
}

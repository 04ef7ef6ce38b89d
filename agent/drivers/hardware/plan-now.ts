/** The plan that a start of the hypervisor is given, of what is known of node and image now. */
import type { Failure } from '../../../controller/api/protocol.generated.ts';
import { plannedWrites } from '../boot/planned-writes.ts';
import type { VmmPlan } from '../port.ts';
import type { Plan } from '../vmm-channel/messages.ts';
import { channelPlan, failureOf } from './channel-plan.ts';
import type { NodeSurroundings } from './node-options.ts';

/** @returns the plan, or why there is none */
export async function planNow(
  plan: VmmPlan,
  start: VmmPlan['start'],
  surroundings: NodeSurroundings,
): Promise<Plan | Failure> {
  const { image } = plan.environment;
  const source = surroundings.source(image.sha256);
  const { sizeBytes = image.sizeBytes } = surroundings.images();
  if (source === undefined) return failureOf('ImageUnavailable', 'the image is not exported to this machine');
  try {
    const writes = await plannedWrites(plan, surroundings.readImage, sizeBytes);
    return channelPlan(plan, { start, machine: surroundings.machine(), source, writes, imageBytes: sizeBytes });
  } catch (error) {
    return failureOf('VmmFailed', (error as Error).message, false);
  }
}

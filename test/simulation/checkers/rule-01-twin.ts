/** Rule 1, exclusive: a machine is known by its system UUID, and while two nodes show the same one neither is claimed anew. */
import { physicalNodes } from '../../../controller/api/meta.ts';
import type { PhysicalNode } from '../../../controller/api/types.generated.ts';
import type { Checker, Report } from './checker.ts';

/** By then every observation has arrived, also a late one. */
const seenAfterMs = 180_000;

export function noTwins(report: Report): Checker {
  /** When each node began to show the UUID of another one, in monotonic milliseconds. */
  const since = new Map<string, number>();
  return {
    rule: 1,
    machine({ event, node, detail }, _machine, truth) {
      if (detail.kind !== 'twin') return;
      if (event === 'fault') since.set(node, truth.ground.clock.monotonic());
      if (event === 'healed') since.delete(node);
    },
    written({ kind, object, old }, truth) {
      if (kind !== physicalNodes.kind || since.size === 0) return;
      const { metadata, status } = object as PhysicalNode;
      const before = (old as PhysicalNode | undefined)?.status?.claim;
      if (status?.claim === undefined || before !== undefined) return;
      const uuid = truth.ground.machine(metadata.name)?.systemUuid;
      for (const [node, at] of since) {
        const involved = truth.ground.machine(node)?.systemUuid === uuid;
        if (!involved || truth.ground.clock.monotonic() - at < seenAfterMs) continue;
        report(1, `${metadata.name} is claimed, and two nodes say that they are the machine ${uuid}`);
      }
    },
  };
}

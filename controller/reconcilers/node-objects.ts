/**
 * Making and letting go of PhysicalNode objects.
 *
 * Invariants:
 * 1. A PhysicalNode is made once for each machine that an administrator accepts and its agent reports, with the finalizer
 *    from the first moment on: no claim can stand on an object that vanishes unseen.
 * 2. The finalizer goes only when neither claim nor end stands on the node, or a person wrote the machine off: by a write that names the
 *    version of which that is true.
 */
import { apiGroup, apiVersion, physicalNodes } from '../api/meta.ts';
import type { PhysicalNode, PhysicalNodeStatus } from '../api/types.generated.ts';
import { removeFinalizerAsSeen } from '../kube/finalizers.ts';
import { type KubeClient, KubeError } from '../kube/port.ts';
import type { Outcome } from '../runtime/worker.ts';
import type { Fleet } from './fleet.ts';

const nodeFinalizer = 'bitvisor.io/claim';

export async function createNode(
  client: KubeClient,
  fleet: Fleet,
  name: string,
  agentName: string,
  location: { site: string; rack: string },
): Promise<void> {
  const node: PhysicalNode = {
    apiVersion: `${apiGroup}/${apiVersion}`,
    kind: physicalNodes.kind,
    metadata: {
      name,
      finalizers: [nodeFinalizer],
      labels: { 'bitvisor.io/site': location.site, 'bitvisor.io/rack': location.rack, 'bitvisor.io/agent': agentName },
    },
    spec: {},
  };
  try {
    fleet.nodes.noteWrite(await client.create(physicalNodes, node));
  } catch (error) {
    // Another operator, or this one before it was interrupted, made it.
    if (!(error instanceof KubeError) || error.reason !== 'AlreadyExists') throw error;
  }
}

/**
 * A machine that was written off may be scrapped. Should it come back, its agent's log speaks of the tenancy and the new object
 * is held for it; without that log it has no certificate.
 */
export const mayBeForgotten = ({ claim, end, writtenOff }: PhysicalNodeStatus): boolean =>
  writtenOff !== undefined || (claim === undefined && end === undefined);

export async function dropNodeFinalizer(client: KubeClient, fleet: Fleet, node: PhysicalNode): Promise<Outcome> {
  if (!node.metadata.finalizers?.includes(nodeFinalizer)) return { kind: 'done' };
  const result = await removeFinalizerAsSeen(client, physicalNodes, node, nodeFinalizer);
  if (result.outcome === 'written') fleet.nodes.noteWrite(result.object);
  return { kind: 'done' };
}

/**
 * The indexes of the caches, by name.
 */
import type { NodeAllocation, PhysicalNode } from '../api/types.generated.ts';
import { commissioned } from '../domain/node-records.ts';
import type { Indexer } from '../kube/store.ts';

/** Nodes by the uid of the allocation that claims them. */
export const byClaimUid = 'claimUid';
/** Claimed nodes without an end, by the uid of their allocation, and all of them under `anyAllocation`. */
export const byUse = 'use';
export const anyAllocation = '*';
/** Nodes by `namespace/name` of the allocation that claims them. */
export const byClaimOwner = 'claimOwner';
/** Nodes without a record of an owner that a person says to give back to it, all under this one key. */
export const adoptable = 'adoptable';
/** Allocations by `namespace/name` of their environment. */
export const byEnvironment = 'environment';

/** Nodes on their first way in, under the one value `yes`. */
export const byArriving = 'arriving';

export const nodeIndexes: Readonly<Record<string, Indexer<PhysicalNode>>> = {
  [adoptable]: ({ spec, status }) =>
    spec?.decision?.action === 'Adopt' && !status?.claim && !status?.end ? [adoptable] : [],
  [byArriving]: ({ status }) =>
    status?.state === undefined || (status.end?.reason === commissioned && status.state !== 'Quarantined')
      ? ['yes']
      : [],
  [byClaimUid]: ({ status }) => (status?.claim ? [status.claim.allocation.uid] : []),
  [byUse]: ({ status }) => (status?.claim && !status.end ? [status.claim.allocation.uid, anyAllocation] : []),
  [byClaimOwner]: ({ status }) => {
    const owner = status?.claim?.allocation;
    return owner ? [`${owner.namespace}/${owner.name}`] : [];
  },
};

export const allocationIndexes: Readonly<Record<string, Indexer<NodeAllocation>>> = {
  [byEnvironment]: ({ metadata, spec }) => [
    `${spec.environmentRef.namespace ?? metadata.namespace ?? ''}/${spec.environmentRef.name}`,
  ],
};

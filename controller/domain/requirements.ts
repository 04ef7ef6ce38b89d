/**
 * What an allocation and its environment ask of a node, as one question to a class of nodes whose answer is a reason that a
 * person understands.
 */
import { formatQuantity, parseBytes } from '../api/quantity.ts';
import type { ComputeEnvironmentSpec } from '../api/types.generated.ts';
import type { ClassFacts } from './free-index.ts';
import type { EnvironmentDefinition } from './revision.ts';
import { type LabelSelector, matchesLabels, matchesSelector } from './selector.ts';

/** Why nodes with these facts will not do, to follow the word "because"; undefined when they will. */
export type Mismatch = (facts: ClassFacts) => string | undefined;

export interface NodeNeeds {
  readonly definition: Pick<EnvironmentDefinition, 'os' | 'image' | 'install'>;
  readonly requirements: ComputeEnvironmentSpec['requirements'];
  readonly selector: LabelSelector | undefined;
}

/** The question of one allocation. Throws QuantityError for a memory size that cannot be used. */
export function mismatchOf({ definition, requirements, selector }: NodeNeeds): Mismatch {
  const { os, image, install } = definition;
  const { minCores = 0, minMemory, matchLabels = {} } = requirements;
  const minMemoryBytes = minMemory === undefined ? 0 : parseBytes(minMemory);
  const { media } = install.disk;
  const minDiskBytes = Math.max(install.disk.minSizeBytes, image.sizeBytes);
  const disk = `no ${media === 'Any' ? '' : `${media} `}disk of ${formatQuantity(minDiskBytes)} or more`;
  return ({ labels, inventory, capabilities }) => {
    if (!matchesSelector(selector, labels)) return 'their labels do not match the selector';
    if (!matchesLabels(matchLabels, labels)) return "their labels do not match the environment's requirements";
    if (inventory.architecture !== os.architecture) return `their architecture is not ${os.architecture}`;
    if (inventory.cores < minCores) return `they have fewer than ${minCores} cores`;
    if (inventory.memoryBytes < minMemoryBytes) return `they have less than ${minMemory} of memory`;
    const fits = inventory.disks.some(
      (candidate) => candidate.sizeBytes >= minDiskBytes && (media === 'Any' || candidate.media === media),
    );
    if (!fits) return `they have ${disk}`;
    if (!capabilities.includes(`format:${image.format}`)) return `their agent cannot serve ${image.format} images`;
    return undefined;
  };
}

/**
 * Makes agents.yaml: the 44 racks of TSUBAME2, 32 nodes each, one agent a rack.
 * `node examples/tsubame2/generate-agents.ts` writes it; with `--check` it exits with 1 when the committed one is stale.
 */
import { stringify } from 'yaml';
import { generate } from '../../tools/generated.ts';

const racks = 44;
const nodesPerRack = 32;
/** The simulated machine room serves each agent on a port of its own, in the order of the racks. */
const firstPort = 17400;

const padded = (number: number): string => String(number).padStart(2, '0');

function agent(index: number): object {
  const rack = `t2r${padded(index)}`;
  const nodes = `${rack}n[00-${padded(nodesPerRack - 1)}]`;
  return {
    apiVersion: 'bitvisor.io/v1alpha1',
    kind: 'BitVisorAgent',
    metadata: { name: rack },
    spec: {
      endpoint: `https://127.0.0.1:${firstPort + index}`,
      location: { site: 'gsic', rack },
      nodes,
      commission: { storeId: `${rack}-store`, nodes },
    },
  };
}

const banner =
  '# The racks of TSUBAME2, made by generate-agents.ts. The agents are the simulated ones of this machine; commission names\n' +
  "# the logs that they start with, whose nodes hold nobody's data.\n";
const documents = Array.from({ length: racks }, (_, index) => stringify(agent(index)));
generate({ 'examples/tsubame2/agents.yaml': banner + documents.join('---\n') });

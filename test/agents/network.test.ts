import { agentsContract, type ContractBench } from '../contract/agents.ts';
import { AgentNetwork, sharedCa, untilReal } from '../support/agent-network.ts';

async function networkBench(): Promise<ContractBench> {
  const network = new AgentNetwork(await sharedCa());
  let port = 0;
  return {
    async link(room, nodes) {
      const { endpoint } = await network.serve(room.core);
      port = Number(new URL(endpoint).port);
      return network.link(nodes);
    },
    async cut() {
      await network.server?.close();
    },
    async replace(core) {
      await network.serve(core, { port });
    },
    until: (room, condition) => untilReal(condition, room),
    during: async (_room, call) => call,
    close: () => network.close(),
  };
}

agentsContract('over the network', networkBench);

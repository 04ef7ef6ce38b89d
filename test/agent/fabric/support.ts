/** The plug-in driver for tests: two nodes, quick times. */
import { type PluginFabric, type PluginFabricOptions, pluginFabric } from '../../../agent/drivers/fabric/plugin.ts';
import type { Plugin } from '../../../agent/drivers/fabric/plugin-protocol.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { systemRandom } from '../../../controller/runtime/random.ts';

const ports = [
  { name: 'eth0', role: 'Data', kind: 'Ethernet' },
  { name: 'ib0', role: 'Data', kind: 'InfiniBand' },
  { name: 'mgmt0', role: 'Control', kind: 'Ethernet' },
] as const;

export function quickFabric(plugin: Plugin, extra: Partial<PluginFabricOptions> = {}): PluginFabric {
  return pluginFabric({
    nodes: new Map(['n0', 'n1'].map((node) => [node, ports])),
    plugin,
    clock: systemClock,
    random: systemRandom,
    pollMs: 30,
    pendingPollMs: 10,
    ...extra,
  });
}

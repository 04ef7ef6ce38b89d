/** The fabric contract on the simulated room, and on plug-ins by command and by HTTP. The bridge keeps it in test/lab. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { commandPlugin, httpPlugin } from '../../../agent/drivers/fabric/plugin-protocol.ts';
import { simulatedDrivers } from '../../../agent/drivers/simulated/drivers.ts';
import { defaultRoom } from '../../../agent/drivers/simulated/options.ts';
import { SimulatedRack } from '../../../agent/drivers/simulated/rack.ts';
import { MemoryRackStore } from '../../../agent/drivers/simulated/store.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { systemRandom } from '../../../controller/runtime/random.ts';
import { type FabricRig, fabricContract } from '../../contract/fabric.ts';
import { counterpart } from '../../support/counterpart.ts';
import { SwitchService } from '../../support/switch-service.ts';
import { quickFabric } from './support.ts';

fabricContract('the simulated room', async (): Promise<FabricRig> => {
  const rack = new SimulatedRack({
    nodes: ['n0', 'n1'],
    room: { ...defaultRoom, durations: { ...defaultRoom.durations, fabric: 10 } },
    store: new MemoryRackStore(100, false),
    clock: systemClock,
    random: systemRandom,
    progressIntervalMs: 1000,
  });
  const drivers = simulatedDrivers(rack);
  return {
    fabric: drivers.fabric,
    listen: (listener) => drivers.onChange(listener),
    drift(node, domain) {
      const machine = rack.machine(node);
      machine.ports = machine.ports.map((port) => (port.role === 'Data' ? { ...port, domain } : port));
      rack.changed(machine);
    },
    failNext: (node) => rack.failNext(node, 'fabric'),
    close: () => drivers.close(),
  };
});

async function httpRig(service: SwitchService, url: string): Promise<FabricRig> {
  const fabric = quickFabric(httpPlugin({ url, timeoutMs: 1_000, clock: systemClock }));
  return {
    fabric,
    listen: (listener) => fabric.listen(listener),
    async restart() {
      await fabric.close();
      return httpRig(service, url);
    },
    drift(node, domain) {
      service.ports.set(`${node}/eth0`, { domain, egress: 'None' });
    },
    failNext() {
      service.failsNext = true;
    },
    close: () => fabric.close(),
  };
}

fabricContract('a plug-in over HTTP', async (t) => {
  const service = new SwitchService();
  t.after(() => service.close());
  return httpRig(service, await service.listen());
});

/** Debian's own: a version manager's takes longer to start than the plug-in to answer. */
const python = '/usr/bin/python3';
const example = fileURLToPath(new URL('../../../examples/fabric-plugin/fabric-plugin', import.meta.url));

function commandRig(directory: string): FabricRig {
  const fabric = quickFabric(
    commandPlugin({ command: [python, example, directory, '0.05'], timeoutMs: 5_000, clock: systemClock }),
  );
  return {
    fabric,
    listen: (listener) => fabric.listen(listener),
    async restart() {
      await fabric.close();
      return commandRig(directory);
    },
    drift(node, domain) {
      const path = join(directory, 'switch.json');
      const held = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
      writeFileSync(path, JSON.stringify({ ...held, [`${node}/eth0`]: { domain, egress: 'None' } }));
    },
    close: () => fabric.close(),
  };
}

fabricContract(
  'the example plug-in, a command',
  async (t) => {
    const directory = mkdtempSync(join(tmpdir(), 'plugin-'));
    t.after(() => rmSync(directory, { recursive: true }));
    return commandRig(directory);
  },
  counterpart('python3', spawnSync(python, ['-V']).status === 0),
);

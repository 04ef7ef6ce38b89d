/** The fabric contract on the kernel's bridge. */
import { bridgeFabric } from '../../agent/drivers/fabric/bridge.ts';
import { systemClock } from '../../controller/runtime/clock.ts';
import { type FabricRig, fabricContract } from '../contract/fabric.ts';
import { counterpart } from '../support/counterpart.ts';
import { roomIsPossible, roomRemedy, SwitchRoom } from './support/switch-room.ts';

const cables = Object.fromEntries(
  ['n0', 'n1'].flatMap((node, at) =>
    ['eth0', 'eth1', 'ctl0'].map((port, index) => [
      `${node}-${port}`,
      {
        ifname: `${node}${port}`,
        bridge: port === 'ctl0' ? 'ctl' : 'data',
        address: `52:54:00:00:0${at}:0${index}`,
        ipv4: `10.78.${at}.1${index}/16`,
      },
    ]),
  ),
);

function rigOf(room: SwitchRoom): FabricRig {
  const port = (node: string, name: string) => {
    const cable = cables[`${node}-${name}`];
    if (cable === undefined) throw new Error(`there is no ${name} of ${node}`);
    const { ifname, address, ipv4 } = cable;
    const role = name === 'ctl0' ? ('Control' as const) : ('Data' as const);
    return { name, role, kind: 'Ethernet' as const, ifname, address, ipv4: ipv4.split('/')[0] ?? '' };
  };
  const fabric = bridgeFabric({
    table: 'contract',
    netns: room.netns,
    nodes: new Map(['n0', 'n1'].map((node) => [node, ['eth0', 'eth1', 'ctl0'].map((name) => port(node, name))])),
    bootServer: { addresses: ['10.77.0.1'], tcpPorts: [80], udpPorts: [] },
    gateway: { shared: ['10.78.0.1'], forbidden: ['10.77.0.0/16'] },
    clock: systemClock,
  });
  return {
    fabric,
    listen: (listener) => fabric.listen(listener),
    async restart() {
      await fabric.close();
      return rigOf(room);
    },
    drift(node) {
      room.run('nft', 'delete', 'element', 'bridge', 'contract', 'tenant', `{ "${node}eth0" }`);
    },
    close: () => fabric.close(),
  };
}

fabricContract(
  'a bridge of the kernel',
  async (t) => {
    const room = new SwitchRoom('contract', { data: '10.78.0.1/16', ctl: '10.77.0.1/16' }, cables);
    t.after(() => room.close());
    return rigOf(room);
  },
  counterpart('a kernel that lets tests make networks', roomIsPossible(), roomRemedy),
);

/** Firmware loads an iPXE by TFTP through the bridge's rules, which let a control port reach the boot server's own ports alone. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { dnsmasqConfig } from '../../agent/drivers/boot/dnsmasq.ts';
import { bridgeFabric } from '../../agent/drivers/fabric/bridge.ts';
import { systemClock as clock } from '../../controller/runtime/clock.ts';
import { noise } from '../agent/image/support.ts';
import { counterpart } from '../support/counterpart.ts';
import { needs } from '../support/programs.ts';
import { until } from '../support/until.ts';
import { ownDirectory } from './one-machine.ts';
import { roomIsPossible, roomRemedy, SwitchRoom } from './support/switch-room.ts';

const run = promisify(execFile);
const server = '10.77.0.1';
const port = { ifname: 'c0', bridge: 'ctl', address: '52:54:00:00:00:02', ipv4: '10.77.0.10/24' };
const options = {
  ...counterpart('a kernel that lets tests make networks', roomIsPossible(), roomRemedy),
  ...needs('dnsmasq', 'busybox'),
};

test('a file of many blocks comes through whole', options, async (t) => {
  const directory = await ownDirectory(t);
  const root = join(directory, 'tftp');
  mkdirSync(root);
  const file = noise(200_000);
  writeFileSync(join(root, 'ipxe.efi'), file);
  const room = new SwitchRoom('tftp', { ctl: `${server}/24` }, { n0: port });
  t.after(() => room.close());
  const fabric = bridgeFabric({
    ...{ table: 'tftp', netns: room.netns, clock },
    nodes: new Map([
      [
        'n0',
        [
          {
            ...{ name: 'ctl0', role: 'Control', kind: 'Ethernet', ifname: port.ifname, address: port.address },
            ...{ ipv4: '10.77.0.10', bootServer: server },
          },
        ],
      ],
    ]),
    // As `drivers: hardware` has it.
    bootServer: { addresses: [], tcpPorts: [8080], udpPorts: [69] },
  });
  t.after(() => fabric.close());
  await fabric.ready;
  fabric.set('n0', 'Control', 'provisioning', undefined, 'x');
  await until('its domain', () => fabric.read('n0').controlChange?.status === 'Done');

  const config = join(directory, 'dnsmasq.conf');
  const control = [
    {
      ...{ interface: 'ctl', network: '10.77.0.0', netmask: '255.255.255.0', boot: `http://${server}:8080/boot.ipxe` },
      hosts: [{ mac: port.address, address: '10.77.0.10' }],
    },
  ];
  const firmware = { root, bios: 'undionly.kpxe', uefi: 'ipxe.efi' };
  writeFileSync(config, dnsmasqConfig({ directory, user: 'root', control, firmware }));
  const words = ['netns', 'exec', room.netns, 'dnsmasq', '--keep-in-foreground', `--conf-file=${config}`];
  const child = spawn('ip', words, { stdio: 'ignore' });
  t.after(async () => {
    child.kill('SIGKILL');
    await once(child, 'exit');
  });

  const got = join(directory, 'got');
  const client = [
    'netns',
    'exec',
    room.namespaceOf('n0'),
    'busybox',
    'tftp',
    '-g',
    '-r',
    'ipxe.efi',
    '-l',
    got,
    server,
  ];
  await until('the file', () =>
    run('ip', client, { timeout: 20_000 }).then(
      () => true,
      () => false,
    ),
  );
  assert.ok(readFileSync(got).equals(file));
});

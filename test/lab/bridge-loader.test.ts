/** Firmware loads an iPXE through the bridge's rules, by TFTP and by HTTP; they let a control port reach the boot server's own ports alone. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { dnsmasqConfig } from '../../agent/drivers/boot/dnsmasq.ts';
import { bridgeFabric } from '../../agent/drivers/fabric/bridge.ts';
import { systemClock as clock } from '../../controller/runtime/clock.ts';
import { noise } from '../agent/image/support.ts';
import { counterpart } from '../support/counterpart.ts';
import { needs } from '../support/programs.ts';
import { until } from '../support/until.ts';
import { ownDirectory } from './one-machine.ts';
import { python } from './support/netns-program.ts';
import { roomIsPossible, roomRemedy, SwitchRoom } from './support/switch-room.ts';

const run = promisify(execFile);
const server = '10.77.0.1';
const port = { ifname: 'c0', bridge: 'ctl', address: '52:54:00:00:00:02', ipv4: '10.77.0.10/24' };
const options = {
  ...counterpart('a kernel that lets tests make networks', roomIsPossible(), roomRemedy),
  ...needs('dnsmasq', 'busybox'),
};

interface Segment {
  readonly directory: string;
  /** What dnsmasq serves by TFTP; `firmware` below it is what the stand-in for the boot server has. */
  readonly root: string;
  readonly file: Buffer;
  inRack(...command: readonly string[]): void;
  /** Whether a command of the machine ended well; it is given up after a while. */
  asMachine(...command: readonly string[]): Promise<boolean>;
  enter(domain: string): Promise<void>;
}

/** A control port in provisioning, the agent's dnsmasq, and a file of many blocks. */
async function segment(t: TestContext): Promise<Segment> {
  const directory = await ownDirectory(t);
  const root = join(directory, 'tftp');
  mkdirSync(join(root, 'firmware'), { recursive: true });
  const file = noise(200_000);
  for (const name of ['ipxe.efi', 'firmware/x64.efi']) writeFileSync(join(root, name), file);
  const room = new SwitchRoom('loader', { ctl: `${server}/24` }, { n0: port });
  t.after(() => room.close());
  const fabric = bridgeFabric({
    ...{ table: 'loader', netns: room.netns, clock },
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
  const enter = async (domain: string): Promise<void> => {
    fabric.set('n0', 'Control', domain, undefined, domain);
    const isThere = (): boolean => {
      const { controlChange } = fabric.read('n0');
      return controlChange?.token === domain && controlChange.status === 'Done';
    };
    await until(`the domain ${domain}`, isThere);
  };
  await enter('provisioning');

  const inRack = (...command: readonly string[]): void => {
    const child = spawn('ip', ['netns', 'exec', room.netns, ...command], { stdio: 'ignore' });
    t.after(async () => {
      child.kill('SIGKILL');
      await once(child, 'exit');
    });
  };
  const config = join(directory, 'dnsmasq.conf');
  const control = [
    {
      ...{ interface: 'ctl', network: '10.77.0.0', netmask: '255.255.255.0', boot: `http://${server}:8080/boot.ipxe` },
      ...{ loaders: `http://${server}:8080/firmware`, hosts: [{ mac: port.address, address: '10.77.0.10' }] },
    },
  ];
  const firmware = { root, bios: 'undionly.kpxe', uefi: 'ipxe.efi' };
  writeFileSync(config, dnsmasqConfig({ directory, user: 'root', control, firmware }));
  inRack('dnsmasq', '--keep-in-foreground', `--conf-file=${config}`);
  const asMachine = (...command: readonly string[]): Promise<boolean> =>
    run('ip', ['netns', 'exec', room.namespaceOf('n0'), ...command], { timeout: 20_000 }).then(
      () => true,
      () => false,
    );
  return { directory, root, file, inRack, asMachine, enter };
}

test('a file of many blocks comes through whole by TFTP', options, async (t) => {
  const { directory, file, asMachine } = await segment(t);
  const got = join(directory, 'got');
  await until('the file', () => asMachine('busybox', 'tftp', '-g', '-r', 'ipxe.efi', '-l', got, server));
  assert.ok(readFileSync(got).equals(file));
});

/** What DHCP says to a kind of firmware (option 93), as udhcpc tells its script. */
async function offered(
  { directory, asMachine }: Segment,
  vendor: 'PXEClient' | 'HTTPClient',
  architecture: number,
): Promise<{ readonly file: string; readonly vendorClass: string }> {
  const [script, answer] = [join(directory, 'told.sh'), join(directory, 'answer')];
  rmSync(answer, { force: true });
  writeFileSync(
    script,
    `#!/bin/sh\n[ "$1" = bound ] && echo "$bootfile$boot_file $opt60 $vendor" > ${answer}\nexit 0\n`,
  );
  chmodSync(script, 0o755);
  const own = `${vendor}:Arch:${String(architecture).padStart(5, '0')}:UNDI:003001`;
  const asked = ['-V', own, '-x', `93:${architecture.toString(16).padStart(4, '0')}`, '-O', '60', '-O', 'bootfile'];
  const client = ['busybox', 'udhcpc', '-f', '-q', '-n', '-t', '10', '-T', '1', '-i', 'eth0', '-s', script, ...asked];
  await until('an answer of DHCP', () => asMachine(...client));
  const [file = '', ...rest] = readFileSync(answer, 'utf8').trim().split(' ');
  return { file, vendorClass: rest.join('') };
}

/** busybox's own wget does not run everywhere, built as one file. */
const fetchInto =
  'import sys, urllib.request as r; open(sys.argv[1], "wb").write(r.urlopen(sys.argv[2], timeout=3).read())';

test(
  'firmware that boots by HTTP is offered what it takes for its own, and reaches that and nothing more',
  options,
  async (t) => {
    const own = await segment(t);
    const { directory, root, file, inRack, asMachine, enter } = own;
    const url = `http://${server}:8080/firmware/x64.efi`;
    assert.deepEqual(await offered(own, 'HTTPClient', 16), { file: url, vendorClass: 'HTTPClient' });
    assert.equal((await offered(own, 'PXEClient', 7)).file, 'ipxe.efi');
    assert.equal((await offered(own, 'PXEClient', 0)).file, 'undionly.kpxe');
    // There is none for arm64 here.
    assert.deepEqual(await offered(own, 'HTTPClient', 19), { file: '', vendorClass: '' });

    for (const serverPort of ['8080', '8082']) inRack('busybox', 'httpd', '-f', '-p', serverPort, '-h', root);
    const got = join(directory, 'got');
    const fetches = (from: string): Promise<boolean> => asMachine(python, '-c', fetchInto, got, from);
    await until('the loader', () => fetches(url));
    assert.ok(readFileSync(got).equals(file));
    assert.equal(await fetches(url.replace('8080', '8082')), false, 'another port of the agent');
    await enter('closed');
    assert.equal(await fetches(url), false, 'a port that is not in provisioning');
    await enter('provisioning');
    await until('the loader again', () => fetches(url));
  },
);

/** A configuration is understood whole, or refused with the fields that are wrong; and what is made of it for dnsmasq. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Ajv } from 'ajv';
import { parse } from 'yaml';
import { dnsmasqConfig } from '../../../agent/drivers/boot/dnsmasq.ts';
import { checkLoaders } from '../../../agent/drivers/boot/loaders.ts';
import { dhcpLayout } from '../../../agent/drivers/hardware/dhcp.ts';
import { withPaths } from '../../../agent/drivers/hardware/paths.ts';
import {
  checkSettings,
  type HardwareSettings,
  hardwareSchema,
  withoutManagement,
} from '../../../agent/drivers/hardware/settings.ts';
import { parseHostlist } from '../../../controller/api/hostlist.ts';
import { needs } from '../../support/programs.ts';

/** The configuration that docs/hardware.md gives to copy. */
function documented(): { hardware: HardwareSettings; nodes: string[] } {
  const page = readFileSync(new URL('../../../docs/hardware.md', import.meta.url), 'utf8');
  const [, text = ''] = /```yaml\n(.*?)```/s.exec(page) ?? [];
  const { hardware, racks } = parse(text) as { hardware: HardwareSettings; racks: { nodes: string }[] };
  return { hardware, nodes: parseHostlist(racks[0]?.nodes ?? '') };
}

/** What is wrong once the values at paths of the section are other ones; undefined takes one away. */
function faultOf(...changes: readonly (readonly [path: string, value: unknown])[]): string {
  const { hardware, nodes } = documented();
  const settings = structuredClone(hardware);
  for (const [path, value] of changes) {
    const keys = path.split('.');
    const last = keys.pop() ?? '';
    let place = settings as unknown as Record<string, unknown>;
    for (const key of keys) place = place[key] as Record<string, unknown>;
    if (value === undefined) delete place[last];
    else place[last] = value;
  }
  try {
    checkSettings(nodes, settings);
    return '';
  } catch (error) {
    return (error as Error).message;
  }
}

test('the configuration that the page gives to copy is taken', () => {
  const { hardware, nodes } = documented();
  const validate = new Ajv({ allErrors: true }).compile(hardwareSchema);
  assert.ok(validate(hardware), JSON.stringify(validate.errors));
  checkSettings(nodes, hardware);
  const { boot, images } = withPaths(hardware, (path) => `/at/${path}`);
  assert.deepEqual([boot.trusted.kernel.slice(0, 4), images.ca], ['/at/', '/at/pki/images.crt']);
});

test('what does not fit together is named', () => {
  const wrong: [RegExp, string, unknown][] = [
    [/^hardware\.nodes\.r0n1 is missing: the rack has this node$/, 'nodes.r0n1', undefined],
    [/r0n1\.bmc\.credentials is missing/, 'bmc', undefined],
    [/r0n1\.class: there is no hardware\.classes\.thin/, 'classes', undefined],
    [/r0n1\.control\.machine: "10\.77\.1\.10" is no IPv4 address with/, 'nodes.r0n1.control.machine', '10.77.1.10'],
    [/r0n1: control\.machine is that of r0n0/, 'nodes.r0n1.control.machine', '10.77.0.10/24'],
    [/hardware\.images\.aoe is missing/, 'images.transport', 'Aoe'],
    [/hardware\.images: prefixes or directories must name/, 'images.prefixes', undefined],
    [/boot\.channelPort must differ/, 'boot.channelPort', 8080],
    [/r0n1\.ports: there is no data port/, 'nodes.r0n1.ports', []],
  ];
  for (const [message, path, value] of wrong) assert.match(faultOf([path, value]), message);
  const byHttp = ['bmc.network', 'UefiHttp'] as const;
  assert.equal(faultOf(byHttp), '');
  assert.equal(faultOf(byHttp, ['boot.dnsmasq', undefined]), '', "the site's own DHCP answers");
  assert.match(faultOf(byHttp, ['boot.dnsmasq.firmware', undefined]), /r0n1\.bmc\.network is UefiHttp, and .*missing/);
  const { images } = documented().hardware;
  const aoe = { ...images, transport: 'Aoe', aoe: { bridge: 'control', shelf: 0, diskBytes: 1 } };
  assert.equal(faultOf(['images', aoe]), '');
  assert.match(
    faultOf(['fabric', { bridge: { table: 'rack' } }], ['images', aoe]),
    /no frame of AoE passes hardware\.fabric\.bridge/,
  );
});

test('no tenant reaches a control port, an agent or a BMC through the gateway, whatever its administrator listed', () => {
  const { hardware } = documented();
  const { forbidden } = withoutManagement({ shared: ['10.0.0.0/8'], forbidden: ['192.0.2.0/24'] }, hardware);
  for (const { control } of Object.values(hardware.nodes)) {
    assert.ok(forbidden.includes(control.agent), control.agent);
    assert.ok(forbidden.includes(control.machine.replace(/\/.*/, '')), control.machine);
  }
  const bmc = structuredClone(hardware);
  const [name = ''] = Object.keys(bmc.nodes);
  Object.assign(bmc.nodes[name]?.bmc ?? {}, { url: 'https://10.88.0.7:8443' });
  assert.ok(withoutManagement({ shared: [], forbidden: [] }, bmc).forbidden.includes('10.88.0.7'));
  assert.ok(forbidden.includes('192.0.2.0/24'));
  assert.equal(new Set(forbidden).size, forbidden.length);
});

test('a secret cannot stand in the section', () => {
  const { hardware } = documented();
  const validate = new Ajv({ allErrors: true }).compile(hardwareSchema);
  const bmc = { ...hardware.bmc, password: 'x' };
  assert.equal(validate({ ...hardware, bmc }), false);
});

test('a loader that the boot server could not send is named', (t) => {
  const root = mkdtempSync(join(tmpdir(), 'loaders-'));
  t.after(() => rmSync(root, { recursive: true }));
  const firmware = { root, bios: 'undionly.kpxe', uefi: 'snponly.efi' };
  assert.throws(() => checkLoaders(firmware), /firmware: \S+\/snponly\.efi, the iPXE for x64, is not there$/);
  writeFileSync(join(root, 'snponly.efi'), '');
  assert.throws(() => checkLoaders(firmware), /is no file of 1 byte to 32 MiB$/);
  writeFileSync(join(root, 'snponly.efi'), 'MZ');
  checkLoaders(firmware);
  assert.throws(
    () => checkLoaders({ ...firmware, arm64: 'arm64.efi' }),
    /arm64\.efi, the iPXE for arm64, is not there$/,
  );
});

test('dnsmasq takes what is written for it, and a layout cannot smuggle a line into it', needs('dnsmasq'), (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'dhcp-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const { hardware, nodes } = documented();
  const layout = dhcpLayout(nodes, hardware, directory);
  assert.deepEqual(
    layout.control.map(({ network, netmask }) => `${network}/${netmask}`),
    ['10.77.0.0/255.255.255.0', '10.77.1.0/255.255.255.0'],
  );
  const config = dnsmasqConfig(layout);
  // Else a machine that asks again and again fills the disk.
  assert.match(config, /^quiet-dhcp\nquiet-ra\nquiet-tftp$/m);
  assert.match(config, /^dhcp-boot=tag:ipxe,tag:ctl1,http:\/\/10\.77\.1\.1:8080\/boot\.ipxe$/m);
  const isTaken = (text: string): void => {
    writeFileSync(join(directory, 'dnsmasq.conf'), text);
    execFileSync('dnsmasq', ['--test', `--conf-file=${join(directory, 'dnsmasq.conf')}`], { stdio: 'pipe' });
  };
  isTaken(config);
  // What an iPXE was loaded by says nothing of what it is told.
  assert.match(config, /^dhcp-boot=tag:!ipxe,tag:x64-http,tag:ctl1,http:\/\/10\.77\.1\.1:8080\/firmware\/x64\.efi$/m);
  assert.match(config, /^dhcp-option-force=tag:!ipxe,tag:x64-http,option:vendor-class,HTTPClient$/m);
  assert.doesNotMatch(config, /arm64/);
  const { firmware } = layout;
  assert.ok(firmware);
  const both = dnsmasqConfig({ ...layout, firmware: { ...firmware, arm64: 'ipxe-arm64.efi' } });
  assert.match(both, /^dhcp-boot=tag:!ipxe,tag:arm64,tag:ctl0,ipxe-arm64\.efi$/m);
  assert.match(both, /^dhcp-boot=tag:!ipxe,tag:arm64-http,tag:ctl0,http:\/\/10\.77\.0\.1:8080\/firmware\/arm64\.efi$/m);
  isTaken(both);
  const [first, ...rest] = layout.control;
  assert.ok(first);
  const evil = { ...layout, control: [{ ...first, boot: 'http://a/\ndhcp-script=/bin/sh' }, ...rest] };
  assert.throws(() => dnsmasqConfig(evil), /the DHCP layout is wrong: .* is no URL/s);
  const evilLoaders = { ...layout, control: [{ ...first, loaders: 'http://a/\ndhcp-script=/bin/sh' }, ...rest] };
  assert.throws(() => dnsmasqConfig(evilLoaders), /the DHCP layout is wrong: .* is no URL/s);
});

/**
 * Machines whose firmware has no iPXE of their own: UEFI asks by DHCP, loads an iPXE by TFTP or by HTTP as the agent's dnsmasq.conf says, and that one
 * loads the trusted image over HTTP. The quote shows all of it, and is right where the reference values name the loader, and only there.
 */
import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { referenceOf } from '../../agent/attestation/reference.ts';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { unpackPackages } from '../../agent/drivers/qemu/images/packages.ts';
import { enrolment, steps } from '../support/agent-room.ts';
import { HardwareSite, type SiteShape } from './hardware-site.ts';
import { labOptions } from './needs.ts';
import { imageDirectory } from './one-machine.ts';
import { toAttest, trustedBootMs } from './whole-lab.ts';

const mebi = 2 ** 20;

async function bootsByLoader(t: TestContext, network: NonNullable<SiteShape['network']>, seen: RegExp): Promise<void> {
  const { trusted } = await buildLabImages(imageDirectory);
  // The one that goes on with the port that the firmware used.
  const [ipxe] = await unpackPackages(join(imageDirectory, 'packages'), ['ipxe']);
  assert.ok(ipxe);
  const loader = join(ipxe.root, 'usr/lib/ipxe/snponly.efi');
  const site = new HardwareSite(['n0'], { hasTpms: true, hasBootRom: false, network });
  t.after(() => site.close());
  const root = join(site.directory, 'tftp');
  mkdirSync(root);
  copyFileSync(loader, join(root, 'ipxe.efi'));
  const { kernel, initrd, unified } = trusted;
  // The file beside the image says nothing of a loader; this one is made as `trusted-image measure --loader` makes it.
  const reference = join(site.directory, 'with-loader.json');
  const values = (...loaders: Buffer[]): string =>
    JSON.stringify(referenceOf(readFileSync(unified), 'with loader', loaders));
  writeFileSync(reference, values());
  site.soil('n0', 'sda');
  const soiled = site.disk('n0', 'sda');
  await site.start({
    images: { port: 10_809, memoryBytes: 16 * mebi, diskBytes: 64 * mebi, prefixes: ['https://images.example/'] },
    boot: {
      ...{ port: 8080, channelPort: 8081 },
      dnsmasq: { firmware: { root, bios: 'undionly.kpxe', uefi: 'ipxe.efi' } },
      vmm: { directory: site.directory, bios: 'bitvisor.elf', uefi: 'loadvmm.efi' },
      trusted: { kernel, initrd, unified, kernelArguments: ['no_timer_check'] },
    },
    attestation: { method: 'Tpm', enrolment: 'FirstUse', references: [reference] },
    classes: { lab: { cores: 1, minMemoryBytes: 128 * mebi } },
  });

  await site.runAll(toAttest, 1, 'n0', 30_000);
  const refused = await site.give(steps.attest, 1, 'n0');
  await assert.rejects(site.ended(refused, 'n0', trustedBootMs), /something unknown ran before the kernel \(PCR 4/);
  assert.ok(site.disk('n0', 'sda').equals(soiled));

  writeFileSync(reference, values(readFileSync(loader)));
  await site.runAll(enrolment, 2, 'n0', trustedBootMs);
  assert.equal(site.seen('n0').record.certificate?.epoch, 2);
  assert.ok(site.disk('n0', 'sda').every((byte) => byte === 0));
  assert.match(site.serial('n0'), seen, "the firmware's own network boot");
}

test(
  'firmware without an iPXE loads one by TFTP, and the quote is right where the loader is named',
  labOptions(600, 'swtpm', 'python3'),
  (t) => bootsByLoader(t, 'Pxe', /NBP filename is ipxe\.efi/),
);

test(
  'firmware that its BMC tells to boot by HTTP is told an iPXE on the boot server, and the quote is right where the loader is named',
  labOptions(600, 'swtpm', 'python3'),
  (t) => bootsByLoader(t, 'UefiHttp', /URI: http:\/\/10\.77\.\d+\.\d+:8080\/firmware\/x64\.efi/),
);

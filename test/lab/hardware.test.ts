/**
 * `drivers: hardware`, run as a person runs it, over machines that QEMU plays: from two machines as delivered to certified ones, through Redfish,
 * a switch's plug-in, dnsmasq, iPXE and a TPM's quote.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { enrolment } from '../support/agent-room.ts';
import { HardwareSite } from './hardware-site.ts';
import { labOptions } from './needs.ts';
import { imageDirectory } from './one-machine.ts';
import { trustedBootMs } from './whole-lab.ts';

const nodes = ['n0', 'n1'];
const mebi = 2 ** 20;

test(
  'machines as delivered are booted, attested by their TPMs, wiped, checked and certified',
  labOptions(400, 'swtpm', 'python3'),
  async (t) => {
    const { trusted } = await buildLabImages(imageDirectory);
    const site = new HardwareSite(nodes, { hasTpms: true });
    t.after(() => site.close());
    for (const node of nodes) for (const disk of ['sda', 'sdb']) site.soil(node, disk);
    const { kernel, initrd, unified } = trusted;
    await site.start({
      images: { port: 10_809, memoryBytes: 16 * mebi, diskBytes: 64 * mebi, prefixes: ['https://images.example/'] },
      boot: {
        ...{ port: 8080, channelPort: 8081, dnsmasq: {} },
        vmm: { directory: site.directory, bios: 'bitvisor.elf', uefi: 'loadvmm.efi' },
        trusted: { kernel, initrd, unified, kernelArguments: ['no_timer_check'] },
      },
      attestation: { method: 'Tpm', enrolment: 'FirstUse' },
      classes: { lab: { cores: 1, minMemoryBytes: 128 * mebi } },
    });
    await Promise.all(nodes.map((node) => site.runAll(enrolment, 1, node, trustedBootMs)));
    for (const node of nodes) {
      const { record, power, ports } = site.seen(node);
      assert.deepEqual([record.certificate?.epoch, power], [1, 'Off']);
      assert.equal(ports.find(({ role }) => role === 'Data')?.domain, 'quarantine');
      for (const disk of ['sda', 'sdb'])
        assert.ok(
          site.disk(node, disk).every((byte) => byte === 0),
          `${node} ${disk}`,
        );
      assert.match(site.serial(node), /TRUSTED wiped \S+ \(Quick\): read back as zero/);
      const enrolled = JSON.parse(readFileSync(join(site.directory, 'data', 'r0', node, 'tpm.json'), 'utf8'));
      assert.match(enrolled.attestation, /^[0-9a-f]+$/);
    }

    // What is certified stands in its log.
    await site.killAgent();
    await site.startAgent();
    for (const node of nodes) assert.equal(site.seen(node).record.certificate?.epoch, 1);
  },
);

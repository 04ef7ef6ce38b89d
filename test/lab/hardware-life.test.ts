/**
 * A machine's whole life through `drivers: hardware`, with the reference VMM of docs/vmm-channel.md as its hypervisor: delivered, certified, a tenant's
 * guest that is streamed and left on bare metal, and back to a certificate.
 */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { enrolment, steps } from '../support/agent-room.ts';
import { until } from '../support/until.ts';
import { HardwareSite } from './hardware-site.ts';
import { environmentOf } from './lab-rack.ts';
import { LabVmm, loadedAsVmm } from './lab-vmm.ts';
import { labOptions } from './needs.ts';
import { imageDirectory, ownDirectory } from './one-machine.ts';
import { makeSectorImage } from './sector-image.ts';
import { trustedBootMs } from './whole-lab.ts';

const mebi = 2 ** 20;
const imageBytes = 48 * mebi;
const ports = { boot: 8080, channel: 8081, images: 10_809 };
const node = 'n0';

async function siteOf(t: TestContext, images: string): Promise<HardwareSite> {
  const { trusted } = await buildLabImages(imageDirectory);
  const site = new HardwareSite([node]);
  t.after(() => site.close());
  writeFileSync(join(images, 'bitvisor.elf'), loadedAsVmm);
  await site.start({
    images: { port: ports.images, memoryBytes: 16 * mebi, diskBytes: 256 * mebi, directories: [images] },
    boot: {
      ...{ port: ports.boot, channelPort: ports.channel, dnsmasq: {} },
      vmm: { directory: images, bios: 'bitvisor.elf', uefi: 'loadvmm.efi' },
      trusted: { kernel: trusted.kernel, initrd: trusted.initrd, kernelArguments: ['no_timer_check'] },
    },
    classes: { lab: { cores: 1, minMemoryBytes: 64 * mebi } },
  });
  return site;
}

/** The hypervisor of a machine that has loaded it. */
async function hypervisor(t: TestContext, site: HardwareSite): Promise<LabVmm> {
  const machine = site.machines.get(node);
  assert.ok(machine);
  await until(
    'the machine loaded it',
    () => site.serial(node).includes('The hypervisor has the machine'),
    trustedBootMs,
  );
  const [path] = /\/boot\/[0-9a-f-]{36}\/bitvisor\.elf/.exec(site.serial(node)) ?? [];
  assert.ok(path);
  const port = await site.controlPort(node, Object.values(ports));
  const vmm: LabVmm = await LabVmm.start(
    { machine, sockets: port.directory, onLeft: () => void port.end() },
    ports.boot,
    path,
  );
  t.after(() => vmm.stop());
  return vmm;
}

test(
  'delivered, certified, streamed to, left on bare metal, ended, and certified again',
  labOptions(400, 'python3'),
  async (t) => {
    const images = await ownDirectory(t);
    const image = makeSectorImage(join(images, 'a.raw'), 'A', imageBytes);
    const site = await siteOf(t, images);
    const boots = (): number => site.serial(node).split(image.marker).length - 1;
    await site.runAll(enrolment, 1, node, trustedBootMs);

    await site.runAll([steps.isolate()], 2, node, 30_000);
    assert.equal(site.seen(node).ports.find(({ role }) => role === 'Data')?.domain, 'alloc-1');
    const reimaging = await site.give(steps.reimage(environmentOf(image)), 2, node);
    const vmm = await hypervisor(t, site);
    await site.ended(reimaging, node, 60_000);
    await until('the guest runs', () => boots() === 1);
    assert.equal(vmm.plans[0]?.start, 'Fresh');
    await until('every block is local', () => site.seen(node).copy.flushed, 120_000);
    await site.runAll([steps.prepare, steps.commit], 2, node, 60_000);
    const { vmm: state, power, ports: after } = site.seen(node);
    assert.deepEqual([state, power], ['Absent', 'On']);
    assert.equal(after.find(({ role }) => role === 'Control')?.domain, 'closed');
    assert.equal((await vmm.mediator.graph('sda')).kind, 'Plain');
    assert.ok(site.disk(node, 'sda').subarray(0, imageBytes).equals(image.bytes), 'the disk is the image');
    assert.equal(boots(), 1, 'the guest was never started again');

    await site.runAll(enrolment, 3, node, trustedBootMs);
    assert.equal(site.seen(node).record.certificate?.epoch, 3);
    assert.ok(
      site.disk(node, 'sda').every((byte) => byte === 0),
      'nothing of the tenant is left',
    );
    assert.equal(boots(), 1, 'nor did it run again');
  },
);

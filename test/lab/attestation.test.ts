/**
 * A machine with UEFI firmware and a TPM boots the trusted image over the network: firmware, iPXE and kernel measure what they start,
 * and the agent takes a fresh quote for it.
 */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { copyFileSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gather, judge } from '../../agent/attestation/attest.ts';
import { authenticodeDigest } from '../../agent/attestation/authenticode.ts';
import { readEventLog } from '../../agent/attestation/event-log.ts';
import type { BootPolicy } from '../../agent/attestation/policy.ts';
import { attestByTpm, enrolNode } from '../../agent/drivers/boot/tpm-attestation.ts';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { counterpart } from '../support/counterpart.ts';
import { manufacture, tpmForQemu } from '../support/swtpm.ts';
import { bootMs, imageDirectory, imageTools, needs, ownDirectory, startMachine } from './one-machine.ts';
import { trustedServer } from './trusted-server.ts';

const firmware = '/usr/share/OVMF/OVMF_CODE_4M.fd';
const rom = '/usr/lib/ipxe/qemu/efi-virtio.rom';
const control = '52:54:00:00:07:02';

const options = {
  ...needs(...imageTools, 'swtpm', 'swtpm_setup'),
  ...counterpart('ovmf and ipxe-qemu', existsSync(firmware) && existsSync(rom)),
  timeout: 3 * bootMs,
};

test('a measured boot of the trusted image gives a quote for a fresh nonce', options, async (t) => {
  const { trusted } = await buildLabImages(imageDirectory);
  const directory = await ownDirectory(t);
  const manufacturers = manufacture(directory);
  const script = { text: '' };
  const { boots, port, up } = await trustedServer(
    t,
    'n0',
    new Map<string, { text: string } | { path: string }>([
      ['/boot.ipxe', script],
      ['/trusted.efi', { path: trusted.unified }],
    ]),
  );
  const { kernelArguments } = boots.begin('n0');
  const own = ['console=ttyS0', 'quiet', 'no_timer_check', `bitvisor.control=${control}`];
  const commandLine = [
    'trusted.efi',
    ...own,
    `bitvisor.agent=http://10.0.2.2:${port}/trusted`,
    ...kernelArguments,
  ].join(' ');
  script.text = `#!ipxe\nkernel http://10.0.2.2:${port}/${commandLine}\nboot\n`;
  copyFileSync('/usr/share/OVMF/OVMF_VARS_4M.fd', join(directory, 'variables'));
  const machine = await startMachine(t, [
    ...['-m', '256', '-drive', `if=pflash,format=raw,readonly=on,file=${firmware}`],
    ...['-drive', `if=pflash,format=raw,file=${join(directory, 'variables')}`],
    ...['-chardev', `socket,id=tpm,path=${await tpmForQemu(t, directory)}`, '-tpmdev', 'emulator,id=tpm0,chardev=tpm'],
    ...['-device', 'tpm-crb,tpmdev=tpm0', '-netdev', `user,id=n0,bootfile=http://10.0.2.2:${port}/boot.ipxe`],
    ...['-device', `virtio-net-pci,netdev=n0,bootindex=1,romfile=${rom},mac=${control}`],
  ]);
  await Promise.race([up, machine.ended.then(() => assert.fail('the machine ended'))]);
  assert.equal(boots.facts('n0')?.hasTpm, true);
  const enrolment = await enrolNode(boots, 'n0', { freshBytes: randomBytes, manufacturers });
  assert.equal(enrolment.certificate, 'Verified');

  // Firmware and option ROM are those of the commissioning; the rest follows from what we built and from this very boot.
  const seen = readEventLog(await boots.eventLog('n0')).events;
  const digests = (pcr: number): string[] =>
    seen.filter((event) => event.pcr === pcr).map(({ digest }) => digest.toString('hex'));
  const policy: BootPolicy = {
    applications: [trusted.unified, trusted.kernel].map((path) => authenticodeDigest(readFileSync(path))),
    initrd: createHash('sha256').update(readFileSync(trusted.initrd)).digest('hex'),
    commandLine,
    others: digests(2),
    firmware: digests(0),
  };
  await attestByTpm(boots, 'n0', { nonce: 'first', enrolment, policy });
  assert.equal(boots.read('n0').nonce, 'first');
  const wrong = { nonce: 'second', enrolment, policy: { ...policy, others: [] } };
  await assert.rejects(attestByTpm(boots, 'n0', wrong), /something unknown ran/);
  assert.equal(boots.read('n0').nonce, 'first', 'only what was judged right is noted');

  // One more quote, judged by policies that are not met.
  const nonce = randomBytes(16);
  const evidence = await gather(
    (command) => boots.tpm('n0', command),
    () => boots.eventLog('n0'),
    nonce,
  );
  judge(evidence, enrolment, nonce, policy);
  const refused: [string, Partial<BootPolicy>, RegExp][] = [
    [
      'another start’s token',
      { commandLine: commandLine.replace(/token=..../, 'token=0000') },
      /the command line is not/,
    ],
    ['an initramfs with one more file', { initrd: 'ab'.repeat(32) }, /the initramfs is not/],
    ['a port whose ROM is not known', { others: [] }, /something unknown ran before the kernel \(PCR 2/],
    ['another firmware', { firmware: [] }, /the firmware is not as it was commissioned/],
    ['another unified kernel', { applications: policy.applications.slice(1) }, /something unknown ran .* \(PCR 4/],
  ];
  for (const [what, change, reason] of refused) {
    assert.throws(() => judge(evidence, enrolment, nonce, { ...policy, ...change }), reason, what);
  }
});

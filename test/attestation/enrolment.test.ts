/** Who is enrolled and when, and what rotation of an image and an update of firmware come to: against a software TPM with made-up boots. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { endorsementFingerprint } from '../../agent/attestation/attest.ts';
import { parseReference, type ReferenceValues, referenceOf } from '../../agent/attestation/reference.ts';
import { type AttestationSettings, openTpmAttestation } from '../../agent/drivers/boot/attestation-settings.ts';
import { Enrolments } from '../../agent/drivers/boot/enrolments.ts';
import {
  attestByTpm,
  type ReferenceFile,
  type TpmAttestationOptions,
} from '../../agent/drivers/boot/tpm-attestation.ts';
import type { TrustedImage } from '../../agent/drivers/boot/trusted-boot.ts';
import type { Facts } from '../../agent/drivers/boot/trusted-facts.ts';
import { unifiedKernel } from '../../agent/drivers/qemu/images/unified-kernel.ts';
import type { Attestation } from '../../controller/api/protocol.generated.ts';
import { systemClock as clock } from '../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../controller/runtime/random.ts';
import { machineOptions, ownDirectory } from '../lab/one-machine.ts';
import { directTpm } from '../support/swtpm.ts';
import { bootEvents, event, eventLog, extendOf, type Measured, policyOf } from './boot.ts';

const swtpm = machineOptions('swtpm');
const { applications, initrd, commandLine } = policyOf();
const image: ReferenceValues = { version: 1, name: 'trusted-1.efi', applications, initrd };
const newer: ReferenceValues = { ...image, name: 'trusted-2.efi', applications: ['ab'.repeat(32), 'cd'.repeat(32)] };

/** Reference values as they lie in a file. */
function fileOf(values: ReferenceValues): ReferenceFile {
  return { values, sha256: createHash('sha256').update(JSON.stringify(values)).digest('hex') };
}

/** A machine that booted once, and the agent's files of it. */
async function machine(t: TestContext, events: readonly Measured[] = bootEvents()) {
  const directory = await ownDirectory(t);
  mkdirSync(join(directory, 'state'));
  const carry = await directTpm(t, directory);
  for (const one of events) assert.equal((await carry(extendOf(one))).readUInt32BE(6), 0);
  const enrolments = new Enrolments(join(directory, 'rack'));
  const attested: string[] = [];
  const met: Attestation[] = [];
  const facts: Facts = { cores: 1, memoryBytes: 1, systemUuid: '', hasTpm: true, disks: [], links: [] };
  const boots = {
    tpm: (_node: string, command: Buffer) => carry(command),
    eventLog: async () => eventLog(events),
    facts: (): Facts | undefined => facts,
    attested(_node: string, { nonce, attestation }: { nonce: string; attestation: Attestation }) {
      attested.push(nonce);
      met.push(attestation);
    },
  };
  const options: TpmAttestationOptions = {
    ...{ enrolments, enrolment: 'Command', freshBytes: randomBytes, now: () => '2026-01-01T00:00:00Z' },
    references: async () => [fileOf(image)],
  };
  return {
    ...{ directory, enrolments, attested, met, boots },
    attest: (changed: Partial<TpmAttestationOptions> = {}) =>
      attestByTpm(boots, 'n0', { nonce: 'nonce', bootId: 'boot', commandLine }, { ...options, ...changed }),
  };
}

test('nobody is enrolled who was not permitted, and a permission is used once', swtpm, async (t) => {
  const { attest, enrolments, attested, directory, boots } = await machine(t);
  await assert.rejects(attest(), /the TPM of n0 is not enrolled: .* agent enrol --config FILE n0/);
  enrolments.permit('n0', { at: '2026-01-01T00:00:00Z', endorsement: 'ab'.repeat(32) });
  await assert.rejects(attest(), /has the endorsement key [0-9a-f]{64}, and abab.* was permitted/);
  assert.deepEqual([attested, enrolments.read('n0')], [[], undefined]);
  enrolments.permit('n0', { at: '2026-01-01T00:00:00Z' });
  await attest();
  const kept = enrolments.read('n0');
  assert.ok(kept);
  assert.match(endorsementFingerprint(kept), /^[0-9a-f]{64}$/);
  assert.equal(enrolments.permission('n0'), undefined);
  assert.equal(statSync(join(directory, 'rack/n0/tpm.json')).mode & 0o777, 0o600);
  await attest();
  assert.deepEqual(attested, ['nonce', 'nonce']);
  writeFileSync(join(directory, 'rack/n0/tpm.json'), JSON.stringify({ ...kept, firmware: undefined }));
  await assert.rejects(attest({ enrolment: 'FirstUse' }), /tpm\.json is no enrolment/);
  boots.facts = () => undefined;
  await assert.rejects(attest(), /no TPM 2.0/);
});

test('at first use a node is enrolled by itself, and then is that machine', swtpm, async (t) => {
  const first = await machine(t);
  await first.attest({ enrolment: 'FirstUse' });
  const second = await machine(t);
  await assert.rejects(
    second.attest({ enrolment: 'FirstUse', enrolments: first.enrolments }),
    /not signed by the attestation key that was enrolled/,
  );
  assert.deepEqual(second.attested, []);
});

test('an image that is not ours enrols nobody', swtpm, async (t) => {
  const { attest, enrolments } = await machine(t);
  await assert.rejects(
    attest({ enrolment: 'FirstUse', references: async () => [fileOf(newer)] }),
    /not the trusted image trusted-2.efi: something unknown ran before the kernel \(PCR 4, EFI_BOOT_SERVICES_APPLICATION/,
  );
  assert.equal(enrolments.read('n0'), undefined);
});

test('while an image is rotated both are right, and neither once it is taken away', swtpm, async (t) => {
  const { attest, met } = await machine(t);
  await attest({ enrolment: 'FirstUse', references: async () => [fileOf(newer), fileOf(image)] });
  await attest({ references: async () => [fileOf(image), fileOf(newer)] });
  // It names the one that it met, wherever that stands.
  const { sha256 } = fileOf(image);
  assert.deepEqual(met, Array(2).fill({ method: 'Tpm', referenceSha256: sha256 }));
  await assert.rejects(attest({ references: async () => [fileOf(newer)] }), /not the trusted image trusted-2.efi/);
  await assert.rejects(attest({ references: async () => [] }), /no reference values/);
});

test('after an update of the firmware a person permits that the node is enrolled again', swtpm, async (t) => {
  const { attest, enrolments } = await machine(t);
  await attest({ enrolment: 'FirstUse' });
  const kept = enrolments.read('n0');
  assert.ok(kept);
  enrolments.keep('n0', { ...kept, firmware: [createHash('sha256').update('older').digest('hex')] });
  await assert.rejects(
    attest({ enrolment: 'FirstUse' }),
    /firmware is not as it was commissioned \(PCR 0, EFI_PLATFORM_/,
  );
  enrolments.permit('n0', { at: '2026-02-01T00:00:00Z' });
  await attest();
  assert.deepEqual(enrolments.read('n0'), kept);
});

test('what is enrolled with an option ROM counts it, and one more is found', swtpm, async (t) => {
  const first = await machine(t);
  await first.attest({ enrolment: 'FirstUse' });
  const kept = first.enrolments.read('n0');
  assert.ok(kept);
  const implant = event(2, 0x8000_0004, 'path', 'implant');
  const second = await machine(t, [implant, ...bootEvents()]);
  await second.attest({ enrolment: 'FirstUse' });
  const own = second.enrolments.read('n0');
  assert.ok(own);
  second.enrolments.keep('n0', { ...own, others: kept.others });
  await assert.rejects(second.attest(), /\(PCR 2, EFI_BOOT_SERVICES_DRIVER, /);
});

test('reference values are of the sections that are measured, and a file that is none is refused', () => {
  const stub = Buffer.alloc(2048);
  stub.write('MZ', 0);
  stub.writeUInt32LE(64, 0x3c);
  stub.write('PE\0\0', 64, 'latin1');
  stub.writeUInt16LE(1, 64 + 6);
  stub.writeUInt16LE(0xf0, 64 + 20);
  // One section: its bytes, address, place.
  for (const [index, value] of [100, 0x1000, 512, 1024].entries()) stub.writeUInt32LE(value, 88 + 0xf0 + 8 + 4 * index);
  stub.writeUInt16LE(0x20b, 88);
  stub.writeUInt32LE(512, 88 + 36);
  stub.writeUInt32LE(1024, 88 + 60);
  const kernel = Buffer.from(stub);
  kernel.write('another kernel', 1500);
  const initrd = Buffer.from('an initramfs');
  const unified = unifiedKernel(Buffer.from(stub), { osRelease: 'ID=x', kernel, initrd });
  const reference = referenceOf(unified, 'trusted.efi', [stub]);
  assert.equal(reference.initrd, createHash('sha256').update(initrd).digest('hex'));
  assert.equal(reference.applications.length, 3);
  assert.deepEqual(parseReference(JSON.stringify(reference)), reference);
  assert.throws(() => referenceOf(stub, 'x'), /not one section \.linux/);
  for (const [text, reason] of [
    ['no', /no JSON/],
    ['null', /version/],
    [JSON.stringify({ ...reference, version: 2 }), /version/],
    [JSON.stringify({ ...reference, applications: [initrd.toString('hex')] }), /applications/],
    [JSON.stringify({ ...reference, initrd: 7 }), /initrd/],
    [JSON.stringify({ ...reference, name: '' }), /name/],
  ] as const)
    assert.throws(() => parseReference(text), reason);
});

test('a rack whose attestation lacks a file does not start, and the message names it', async (t) => {
  const directory = await ownDirectory(t);
  const open = (image: Partial<TrustedImage>, more: Partial<AttestationSettings> = {}) =>
    openTpmAttestation(
      { method: 'Tpm', ...more },
      { kernel: 'k', initrd: 'i', ...image },
      { directory, clock, random },
    );
  assert.throws(() => open({}), /give trusted\.unified/);
  const unified = join(directory, 'trusted.efi');
  assert.throws(() => open({ unified }), /attestation: .*trusted\.efi\.reference\.json: .*ENOENT/);
  writeFileSync(`${unified}.reference.json`, '{}');
  assert.throws(() => open({ unified }), /trusted\.efi\.reference\.json: its version is not 1/);
  writeFileSync(`${unified}.reference.json`, JSON.stringify(image));
  assert.deepEqual(await open({ unified }).references(), [fileOf(image)]);
  assert.throws(() => open({ unified }, { manufacturers: [unified] }), /trusted\.efi: .*ENOENT/);
  writeFileSync(unified, 'no certificate');
  assert.throws(() => open({ unified }, { manufacturers: [unified] }), /no certificate is in it/);
  // Replaced while the agent runs.
  const { references } = open({ unified });
  writeFileSync(`${unified}.reference.json`, JSON.stringify(newer));
  assert.deepEqual(await references(), [fileOf(newer)]);
  rmSync(`${unified}.reference.json`);
  await assert.rejects(references(), /reference values .*ENOENT/);
});

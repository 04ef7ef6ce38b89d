/**
 * Machines that give wrong evidence: an image with one byte changed, another machine's TPM. None is attested, so no disk is wiped and nothing is
 * certified. (A quote that was given before: attestation-replay.test.ts.)
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { enrol } from '../../agent/attestation/attest.ts';
import { referenceSuffix } from '../../agent/attestation/reference.ts';
import { Enrolments } from '../../agent/drivers/boot/enrolments.ts';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { directTpm } from '../support/swtpm.ts';
import { labOptions } from './needs.ts';
import { imageDirectory, ownDirectory } from './one-machine.ts';
import { refusal, WholeLab } from './whole-lab.ts';

test(
  'an image that was tampered with enrols nobody, and another machine in the place of an enrolled one is refused',
  labOptions(400, 'swtpm'),
  async (t) => {
    const { trusted } = await buildLabImages(imageDirectory);
    const lab = new WholeLab();
    t.after(() => lab.close());
    const tampered = join(lab.directory, 'trusted.efi');
    const bytes = readFileSync(trusted.unified);
    // It still boots, and does what the right one does.
    bytes.write('B1tVisor', bytes.lastIndexOf('BitVisor trusted image'), 'latin1');
    writeFileSync(tampered, bytes);
    writeFileSync(`${tampered}${referenceSuffix}`, readFileSync(trusted.reference));
    await lab.open({
      trustedImage: { ...trusted, unified: tampered },
      attestation: { method: 'Tpm', enrolment: 'FirstUse' },
    });
    lab.soil();
    const soiled = lab.disk();
    const first = await refusal(lab.agent, 1);
    assert.equal(first.failure?.code, 'AttestationFailed');
    assert.match(
      first.failure?.message ?? '',
      /not the trusted image trusted-.*\(PCR 4, EFI_BOOT_SERVICES_APPLICATION/,
    );
    const enrolments = new Enrolments(lab.rackDirectory);
    assert.equal(enrolments.read('n0'), undefined);
    assert.ok(lab.disk().equals(soiled), 'its disk is as it was');
    await lab.endAgent();

    const other = await ownDirectory(t);
    mkdirSync(join(other, 'state'));
    const foreign = await enrol(await directTpm(t, other), { freshBytes: randomBytes });
    const kept = { ...foreign, at: '2026-01-01T00:00:00Z', firmware: [], others: [] };
    enrolments.keep('n0', kept);
    await lab.open({ trustedImage: trusted, attestation: { method: 'Tpm', enrolment: 'FirstUse' } });
    const second = await refusal(lab.agent, 2);
    assert.match(second.failure?.message ?? '', /not signed by the attestation key that was enrolled/);
    assert.deepEqual(enrolments.read('n0'), kept, 'first use is over');
    assert.ok(lab.disk().equals(soiled));
  },
);

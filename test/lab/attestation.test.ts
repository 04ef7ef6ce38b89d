/**
 * A machine with UEFI firmware and a TPM is reclaimed through its agent: firmware, iPXE and kernel measure what they start, the agent takes a
 * quote for a fresh nonce, and only then has the disks wiped.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { cpSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { referenceSuffix } from '../../agent/attestation/reference.ts';
import { Enrolments } from '../../agent/drivers/boot/enrolments.ts';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { enrolment, steps } from '../support/agent-room.ts';
import { manufacture } from '../support/swtpm.ts';
import { labOptions } from './needs.ts';
import { imageDirectory, ownDirectory } from './one-machine.ts';
import { trustedBootMs, WholeLab } from './whole-lab.ts';

/** Gives the node a TPM with a certificate of a maker. @returns a PEM file of that maker's */
async function certifiedTpm(t: TestContext, lab: WholeLab): Promise<string> {
  const directory = await ownDirectory(t);
  const { roots, intermediates } = manufacture(directory);
  cpSync(join(directory, 'state'), join(lab.rackDirectory, 'n0', 'tpm'), { recursive: true });
  const file = join(directory, 'makers.pem');
  writeFileSync(file, [...roots, ...intermediates].map((certificate) => certificate.toString()).join(''));
  return file;
}

test(
  'a node is enrolled where a person permitted it, reclaimed with a quote, and known again at its next reclaim',
  labOptions(400, 'swtpm', 'swtpm_setup'),
  async (t) => {
    const { trusted } = await buildLabImages(imageDirectory);
    const lab = new WholeLab();
    t.after(() => lab.close());
    const makers = await certifiedTpm(t, lab);
    await lab.open({ trustedImage: trusted, attestation: { method: 'Tpm', manufacturers: [makers] } });
    for (const disk of ['sda', 'sdb']) lab.soil(disk);
    const enrolments = new Enrolments(lab.rackDirectory);
    enrolments.permit('n0', { at: '2026-01-01T00:00:00Z' });

    await lab.agent.runAll(enrolment, 1, 'n0', trustedBootMs);
    const kept = enrolments.read('n0');
    assert.equal(kept?.certificate, 'Verified', "by the maker's certificate");
    assert.equal(enrolments.permission('n0'), undefined, 'once');
    assert.equal(statSync(join(lab.rackDirectory, 'n0', 'tpm.json')).mode & 0o777, 0o600);
    assert.equal(lab.agent.seen().record.certificate?.epoch, 1);
    const reference = readFileSync(`${trusted.unified}${referenceSuffix}`);
    const referenceSha256 = createHash('sha256').update(reference).digest('hex');
    assert.deepEqual(lab.agent.seen().record.certificate?.attestation, { method: 'Tpm', referenceSha256 });
    for (const disk of ['sda', 'sdb'])
      assert.ok(
        lab.disk(disk).every((byte) => byte === 0),
        `${disk} is wiped`,
      );

    await lab.agent.runAll([steps.fence, steps.off, steps.attest], 2, 'n0', trustedBootMs);
    assert.deepEqual(enrolments.read('n0'), kept, 'the TPM is the one that was enrolled');
    assert.deepEqual(lab.errors, []);
    assert.doesNotMatch(lab.serial(), /bitvisor\.token/);
  },
);

/**
 * Machines that give wrong evidence: an image with one byte changed, another machine's TPM, a quote that was given before. None is attested, so no
 * disk is wiped and nothing is certified.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { enrol } from '../../agent/attestation/attest.ts';
import { referenceSuffix } from '../../agent/attestation/reference.ts';
import { openTpmAttestation } from '../../agent/drivers/boot/attestation-settings.ts';
import { Enrolments } from '../../agent/drivers/boot/enrolments.ts';
import { TrustedBoots, type TrustedBootsOptions } from '../../agent/drivers/boot/trusted.ts';
import { trustedSide } from '../../agent/drivers/boot/trusted-boot.ts';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { defaultShape } from '../../agent/drivers/qemu/shape.ts';
import type { NodeObservation } from '../../controller/api/protocol.generated.ts';
import { systemClock as clock } from '../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../controller/runtime/random.ts';
import { steps, type TestStep } from '../support/agent-room.ts';
import { directTpm } from '../support/swtpm.ts';
import { LabRack } from './lab-rack.ts';
import { labOptions } from './needs.ts';
import { imageDirectory, ownDirectory } from './one-machine.ts';
import type { RackAgent } from './rack-agent.ts';
import { trustedBootMs, WholeLab } from './whole-lab.ts';

const toAttest: readonly TestStep[] = [steps.fence, steps.off];

/** Goes to the attestation, and says how it ended; and that nothing can follow. */
async function refusal(agent: RackAgent, epoch: number): Promise<NonNullable<NodeObservation['operation']>> {
  await agent.runAll(toAttest, epoch);
  const operation = await agent.ended(agent.give(steps.attest, epoch), 'n0', trustedBootMs);
  assert.throws(() => agent.give(steps.wipe, epoch), /NotAttested/);
  assert.throws(() => agent.give(steps.check, epoch), /NotAttested/);
  assert.notEqual(agent.seen().record.certificate?.epoch, epoch);
  return operation;
}

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

const quoteCommand = 0x158;

/** Whoever carries a machine's answers: gives an answer to a quote that it heard before. */
class ReplayingBoots extends TrustedBoots {
  replays = false;
  #heard: Buffer | undefined;

  override async tpm(node: string, command: Buffer): Promise<Buffer> {
    const isQuote = command.readUInt32BE(6) === quoteCommand;
    if (isQuote && this.replays && this.#heard !== undefined) return this.#heard;
    const answer = await super.tpm(node, command);
    if (isQuote) this.#heard = answer;
    return answer;
  }
}

test('a quote that was given before is not right again', labOptions(400, 'swtpm'), async (t) => {
  const { trusted } = await buildLabImages(imageDirectory);
  let boots: ReplayingBoots | undefined;
  const lab: LabRack = new LabRack({
    rack: {
      ...{ trustedImage: trusted, hasTpms: true, shape: { ...defaultShape, memoryMiB: 256 } },
      trusted: (_specs, onChange: TrustedBootsOptions['onChange']) => {
        boots = new ReplayingBoots({ clock, random, onChange });
        const settings = { method: 'Tpm', enrolment: 'FirstUse' } as const;
        const tpm = openTpmAttestation(settings, trusted, { directory: lab.directory, clock, random });
        return trustedSide(boots, { baselines: new Map(), tpm });
      },
    },
  });
  t.after(() => lab.close());
  await lab.open();
  await lab.agent.runAll([...toAttest, steps.attest], 2, 'n0', trustedBootMs);
  assert.ok(existsSync(join(lab.directory, 'n0', 'tpm.json')));
  assert.ok(boots);
  boots.replays = true;
  const { failure } = await refusal(lab.agent, 3);
  assert.match(failure?.message ?? '', /the quote is for another nonce/);
});

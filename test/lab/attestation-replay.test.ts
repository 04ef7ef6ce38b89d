/** Whoever stands between a machine and its agent gives a quote that the machine gave before: the machine is not attested. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { openTpmAttestation } from '../../agent/drivers/boot/attestation-settings.ts';
import { TrustedBoots, type TrustedBootsOptions } from '../../agent/drivers/boot/trusted.ts';
import { trustedSide } from '../../agent/drivers/boot/trusted-boot.ts';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { defaultShape } from '../../agent/drivers/qemu/shape.ts';
import { systemClock as clock } from '../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../controller/runtime/random.ts';
import { steps } from '../support/agent-room.ts';
import { LabRack } from './lab-rack.ts';
import { labOptions } from './needs.ts';
import { imageDirectory } from './one-machine.ts';
import { refusal, toAttest, trustedBootMs } from './whole-lab.ts';

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

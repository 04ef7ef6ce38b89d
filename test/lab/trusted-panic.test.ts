/** A trusted image whose kernel panics: the machine starts anew by itself, and it is the boot server that answers it, not its disk. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TrustedBoots, type TrustedBootsOptions } from '../../agent/drivers/boot/trusted.ts';
import { trustedSide } from '../../agent/drivers/boot/trusted-boot.ts';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { defaultShape } from '../../agent/drivers/qemu/shape.ts';
import { systemClock as clock } from '../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../controller/runtime/random.ts';
import { steps } from '../support/agent-room.ts';
import { LabRack, until } from './lab-rack.ts';
import { labOptions } from './needs.ts';
import { imageDirectory } from './one-machine.ts';
import { toAttest, trustedBootMs } from './whole-lab.ts';

class CountingBoots extends TrustedBoots {
  count = 0;

  override begin(node: string): ReturnType<TrustedBoots['begin']> {
    this.count += 1;
    return super.begin(node);
  }
}

test('a machine whose trusted image panics asks the boot server again', labOptions(300), async (t) => {
  const { trusted } = await buildLabImages(imageDirectory);
  let boots: CountingBoots | undefined;
  const lab: LabRack = new LabRack({
    rack: {
      shape: { ...defaultShape, memoryMiB: 256 },
      // The kernel finds nothing to run.
      trustedImage: { ...trusted, kernelArguments: ['rdinit=/nothing', 'root=none'] },
      trusted: (_specs, onChange: TrustedBootsOptions['onChange']) => {
        boots = new CountingBoots({ clock, random, onChange });
        return trustedSide(boots, { baselines: new Map() });
      },
    },
  });
  t.after(() => lab.close());
  await lab.open();
  await lab.agent.runAll(toAttest, 2, 'n0');
  lab.agent.give(steps.attest, 2);
  await until('a second start', () => (boots?.count ?? 0) >= 2, trustedBootMs);
  assert.match(lab.serial(), /Kernel panic/);
  assert.equal(lab.machine().bootedFrom, 'Network');
});

/**
 * The VMM channel with a real machine behind it: the reference VMM speaks it over TCP and lets QEMU's block layer do the work, through
 * a broken connection and a commit whose acknowledgement never arrives.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { VmmChannels } from '../../agent/drivers/vmm-channel/agent-side.ts';
import type { Plan } from '../../agent/drivers/vmm-channel/messages.ts';
import { type VmmMachine, VmmPeer } from '../../agent/drivers/vmm-channel/peer.ts';
import { systemClock as clock } from '../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../controller/runtime/random.ts';
import { steps } from '../support/agent-room.ts';
import { environmentOf, LabRack, type NbdkitExporter, until } from './lab-rack.ts';
import { labOptions } from './needs.ts';
import { makeSectorImage } from './sector-image.ts';

const mebi = 2 ** 20;
const imageBytes = 48 * mebi;
const lab = new LabRack();
after(() => lab.close());

/** What runs on the machine, as the channel's VMM tells and does it. The boot itself is the lab's. */
class QemuVmm implements VmmMachine {
  readonly rates: bigint[] = [];
  hasLeft = false;
  status(): ReturnType<VmmMachine['status']> {
    const { copy, guest } = lab.seen();
    return {
      epoch: 2n,
      guest: guest.state === 'Running' ? 'Running' : 'NotStarted',
      map: copy.map,
      flushed: copy.flushed,
      starts: guest.starts,
      totalBytes: BigInt(copy.totalBytes),
      localBytes: BigInt(copy.localBytes),
      inFlight: copy.inFlight,
      fetchedBytes: BigInt(copy.localBytes),
    };
  }
  async start(plan: Plan): Promise<void> {
    assert.equal(plan.diskSerial, lab.seen().inventory.disks[0]?.serial);
  }
  throttle(maxRateBytes: bigint): void {
    this.rates.push(maxRateBytes);
    lab
      .booted()
      .mediator.setRate('sda', Number(maxRateBytes))
      .catch(() => {});
  }
  notify(): void {}
  async prepare(): Promise<string | undefined> {
    return this.isPrepared() ? undefined : 'not every block is local';
  }
  isPrepared(): boolean {
    return lab.seen().copy.flushed && lab.seen().copy.inFlight === 0;
  }
  leave(): void {
    lab
      .booted()
      .mediator.leave('sda')
      .then(() => {
        this.hasLeft = true;
      }, assert.fail);
  }
}

test(
  'the reference VMM streams, is told its rate, and leaves a plain disk though its last word is lost',
  labOptions(150),
  async (t) => {
    const image = makeSectorImage(join(lab.directory, 'a.raw'), 'A', imageBytes);
    const exporter = lab.exporter as NbdkitExporter;
    exporter.start(8 * mebi);
    await lab.open();
    await lab.run(steps.isolate(), 2);
    await lab.run(steps.reimage(environmentOf(image)), 2);

    const channels = new VmmChannels({ clock, random, onChange: () => {} });
    const links: Socket[] = [];
    const server = createServer((socket) => {
      links.push(socket);
      channels.accept(socket);
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const boot = channels.expect('n0', {
      kind: 'Plan',
      epoch: 2n,
      start: 'Fresh',
      yields: 'None',
      totalBytes: BigInt(imageBytes),
      maxRateBytes: 0n,
      imageDigest: Buffer.from(image.sha256, 'hex'),
      diskSerial: lab.seen().inventory.disks[0]?.serial ?? '',
      source: { transport: 'Nbd', address: 'unix', name: 'n0' },
      writes: [],
    });
    const machine = new QemuVmm();
    const peer = new VmmPeer({ boot, epoch: 2n, machine, connect: () => connect(port, '127.0.0.1'), clock, random });
    t.after(() => {
      peer.stop();
      channels.forget('n0');
      server.close();
    });
    const status = () => channels.read('n0').status;

    await until('the VMM reports a guest and a copy', () => status()?.guest === 'Running' && status()?.map === 'Valid');
    await assert.rejects(channels.prepare('n0'), /not every block is local/);
    channels.throttle('n0', 64 * mebi);
    await until('it heard of its rate', () => machine.rates.length === 1);
    links[0]?.destroy();
    await until('it connected again', () => links.length === 2 && channels.read('n0').connected);
    await until('every block is local', () => {
      peer.report();
      return status()?.flushed === true && status()?.localBytes === BigInt(imageBytes);
    });
    await channels.prepare('n0');
    await exporter.kill();

    // From here on the agent hears nothing more.
    links[1]?.removeAllListeners('data');
    channels.commit('n0');
    await until('it left', () => machine.hasLeft);
    assert.equal(channels.read('n0').leaving, false, 'its last word was lost');
    // So the agent looks from outside.
    assert.equal((await lab.booted().mediator.graph('sda')).text, 'sda-top -file-> sda-file');
    assert.equal(lab.machine().power(), 'On');
    assert.ok(lab.disk().subarray(0, imageBytes).equals(image.bytes), 'the disk is the image');
    assert.equal(lab.serial().split(image.marker).length - 1, 1, 'the guest ran on');
    assert.equal(links.length, 2, 'what left connects no more');
  },
);

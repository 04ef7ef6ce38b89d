/**
 * A tenant's root does its worst from inside a guest, in every state of its machine and beside a machine that is reclaimed: frames from any address to
 * any address, answers of a DHCP server, a drain that it ignores. What it reached is counted at every cable of the rack, not asked of a driver.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { buildLabImages } from '../../agent/drivers/qemu/images/build.ts';
import { dataGateway } from '../../agent/drivers/qemu/network.ts';
import { macAddress } from '../../agent/drivers/qemu/shape.ts';
import { steps } from '../support/agent-room.ts';
import { until } from '../support/until.ts';
import { environmentOf } from './lab-rack.ts';
import { labOptions } from './needs.ts';
import { imageDirectory } from './one-machine.ts';
import { makeSectorImage } from './sector-image.ts';
import { Cables } from './support/cables.ts';
import { broadcast, dhcp, macHex, udp } from './support/packets.ts';
import { trustedBootMs, WholeLab } from './whole-lab.ts';

const mebi = 2 ** 20;
const [hostile, other, own] = ['n0', 'n1', 'n2'];
const mac = { hostile: macAddress(0, 'Data'), other: macAddress(1, 'Data'), own: macAddress(2, 'Data') };
/** So slow that it stays a copy under way until it is told otherwise. */
const crawl = 64 * 1024;
const framesOfEach = 5;

/** What a guest sends, under an address of its own for each: by it a frame is known wherever it passes. */
interface Probe {
  readonly what: string;
  readonly from: string;
  readonly to: string;
  readonly port?: 'eth1';
  /** The other node of its tenant gets it. */
  readonly isHonest?: boolean;
}

const probes: readonly Probe[] = [
  { what: 'to all, under its own address', from: mac.hostile, to: broadcast, isHonest: true },
  { what: 'to the other tenant', from: mac.hostile, to: mac.other },
  // An address that no port of the bridge has: so it goes to all of its domain.
  { what: 'to a control port', from: mac.hostile, to: macAddress(1, 'Control'), isHonest: true },
  { what: 'to all, as the other tenant', from: mac.other, to: broadcast },
  { what: 'to its own tenant, as the other one', from: mac.other, to: mac.own },
  { what: 'to all, as a control port', from: macAddress(1, 'Control'), to: broadcast },
  { what: 'to a link-local group', from: mac.hostile, to: '01:80:c2:00:00:0e' },
  { what: 'out of the control port', from: macAddress(0, 'Control'), to: broadcast, port: 'eth1' },
];

const word = (value: number): string => value.toString(16).padStart(2, '0');
/** Source and destination, as they stand in the frame behind each other. */
const mark = (round: number, probe: number): string => `0a42${word(round)}${word(probe)}0a42ffff`;

class Attack {
  readonly #lab: WholeLab;
  readonly #cables: Cables;
  #round = 0;

  constructor(lab: WholeLab, cables: Cables) {
    this.#lab = lab;
    this.#cables = cables;
  }

  /** @param neighbour where frames of its own domain go; absent: it has none any more */
  async run(state: string, neighbour?: 'd2 out'): Promise<void> {
    this.#round += 1;
    const round = this.#round;
    for (const place of probes.keys()) await this.#cables.watch(mark(round, place));
    const commands = probes.map(({ from, to, port }, place) => {
      const send = `send-frames ${from} ${to} 10.66.${round}.${place} 10.66.255.255 ${framesOfEach}`;
      return port === undefined ? send : `echo ${port} >/run/data-port; ${send}; echo eth0 >/run/data-port`;
    });
    await this.#lab.inGuest(`ip link set eth1 up; ${commands.join('; ')}`);
    for (const [place, { what, port, isHonest }] of probes.entries()) {
      const passed = await this.#cables.seen(mark(round, place));
      const sent = port === undefined ? { 'd0 in': framesOfEach } : {};
      const reached = isHonest === true && neighbour !== undefined ? { [neighbour]: framesOfEach } : {};
      assert.deepEqual(passed, { ...sent, ...reached }, `${state}: ${what}`);
    }
  }

  /** The guest answers a question of its neighbour; the answer gets no further than its own cable. */
  async answersDhcp(state: string): Promise<void> {
    // Port 67, as the kernel lists it.
    const listens = "until grep -q ':0043 ' /proc/net/udp; do usleep 50000; done";
    await this.#lab.inGuest(`answer-dhcp 10.99.66.1 10.99.66.9 >/run/dhcpd.log 2>&1 & ${listens}`);
    const addresses = { from: mac.own, to: broadcast, fromIp: '0.0.0.0', toIp: '255.255.255.255' };
    const question = udp({ ...addresses, fromPort: 68, toPort: 67, payload: dhcp(1, mac.own) });
    // It begins as the question does, but says that it is an answer.
    const answer = `02010600${dhcp(1, mac.own).slice(8, 16)}`;
    await this.#cables.watch(answer);
    await this.#cables.send('d0', question);
    await until('the guest answers', async () => 'd0 in' in (await this.#cables.seen(answer)));
    assert.deepEqual(Object.keys(await this.#cables.seen(answer)), ['d0 in'], `${state}: answers of DHCP`);
    await this.#lab.inGuest('killall udhcpd');
  }
}

async function openLab(t: TestContext): Promise<{ lab: WholeLab; attack: Attack }> {
  const { alpha, trusted } = await buildLabImages(imageDirectory);
  const lab = new WholeLab([hostile, other, own]);
  t.after(() => lab.close());
  lab.certify();
  await lab.open({ trustedImage: trusted, originDirectories: [imageDirectory, lab.directory] });
  const cables = new Cables(lab.netns);
  t.after(() => cables.end());
  const { agent } = lab;
  for (const node of [other, own]) {
    const image = makeSectorImage(join(lab.directory, `${node}.raw`), node, mebi);
    const domain = node === own ? 'allocation/a' : 'allocation/b';
    await agent.runAll([steps.isolate(domain), steps.reimage(environmentOf(image))], 2, node);
  }
  const environment = environmentOf(alpha, { maxRateBytes: crawl });
  const boot = { ...environment.boot, kernelArguments: ['lab.acpi=ignore'] };
  await agent.runAll([steps.isolate('allocation/a'), steps.reimage({ ...environment, boot })], 2);
  return { lab, attack: new Attack(lab, cables) };
}

test(
  'whatever its root sends, a guest reaches its own tenant alone, in every state',
  labOptions(500, 'python3'),
  async (t) => {
    const { lab, attack } = await openLab(t);
    const { agent } = lab;

    await attack.run('while its disk fills', 'd2 out');
    await attack.answersDhcp('while its disk fills');
    assert.equal(agent.seen().copy.flushed, false, 'the disk was filling all the while');

    agent.give(steps.throttle(2 ** 30), 2);
    await until('every block is local', () => agent.seen().copy.flushed, 120_000);
    await agent.runAll([steps.prepare, steps.commit], 2);
    await attack.run('after the commit', 'd2 out');
    await attack.answersDhcp('after the commit');
    const pinged = await lab.inGuest(`ping -c 1 -W 2 ${dataGateway} >/dev/null 2>&1 && echo REACHED || echo NOT`);
    assert.equal(pinged, 'NOT', 'the rack itself');

    // Beside a machine of another tenant that is reclaimed: it boots the trusted image over the network meanwhile.
    await agent.runAll([steps.fence, steps.off], 3, other);
    const attesting = agent.give(steps.attest, 3, other);
    await until('it boots', () => lab.machine(other).power() === 'On');
    await attack.run('beside a machine that is reclaimed', 'd2 out');
    assert.equal((await agent.ended(attesting, other, trustedBootMs)).status, 'Done');
    await attack.run('beside one that is attested', 'd2 out');
    await agent.run(steps.wipe, 3, other);
    assert.ok(lab.disk('sda', other).every((byte) => byte === 0));

    // Its own end, which it ignores as long as it can.
    await agent.run(steps.drain(1), 3);
    await attack.run('drained, and it runs on', 'd2 out');
    await agent.run(steps.fence, 3);
    assert.equal(lab.machine().power(), 'On');
    await attack.run('behind the fence');
    await attack.answersDhcp('behind the fence');
    await agent.run(steps.off, 3);
    assert.equal(lab.machine().power(), 'Off');
  },
);

test('the marks of two probes differ, and are what stands in a frame', () => {
  const marks = probes.map((_, place) => mark(1, place));
  assert.equal(new Set(marks).size, probes.length);
  const frame = udp({
    ...{ from: mac.hostile, to: broadcast, fromIp: '10.66.1.3', toIp: '10.66.255.255' },
    ...{ fromPort: 9, toPort: 9, payload: macHex(mac.own) },
  });
  assert.ok(frame.includes(marks[3] ?? 'none'));
});

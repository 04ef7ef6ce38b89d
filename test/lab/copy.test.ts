/** A machine that runs while its disk fills, with everything that can fail on the way. The guest is one sector; its writes are made for it. */
import assert from 'node:assert/strict';
import { closeSync, existsSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { after, test } from 'node:test';
import { steps } from '../support/agent-room.ts';
import { environmentOf, LabRack, type NbdkitExporter, until, writeAsGuest } from './lab-rack.ts';
import { labOptions } from './needs.ts';
import { makeSectorImage } from './sector-image.ts';

const options = labOptions(120);
const mebi = 2 ** 20;
const imageBytes = 48 * mebi;
/** Slow enough to be caught in the middle. */
const slowBytes = 16 * mebi;

const open = new Set<LabRack>();
after(async () => {
  for (const lab of open) await lab.close();
});

async function labWith(rateBytes?: number) {
  const lab = new LabRack();
  open.add(lab);
  const image = makeSectorImage(join(lab.directory, 'a.raw'), 'A', imageBytes);
  const exporter = lab.exporter as NbdkitExporter;
  exporter.start(rateBytes);
  await lab.open();
  return { lab, image, exporter };
}

const boots = (lab: LabRack, marker: string): number => lab.serial().split(marker).length - 1;

/** Until the guest has said its word: on a busy machine the copy is soon further than the guest. */
async function startGuest(
  lab: LabRack,
  image: { marker: string } & Parameters<typeof environmentOf>[0],
): Promise<void> {
  await lab.run(steps.isolate(), 2);
  await lab.run(steps.reimage(environmentOf(image)), 2);
  await until('the guest runs', () => boots(lab, image.marker) === 1);
}

const copied = (lab: LabRack, bytes: number) => () => lab.seen().copy.localBytes >= bytes;
const installed = (lab: LabRack) => until('every block is local', () => lab.seen().copy.flushed);

function assertDisk(
  lab: LabRack,
  image: { bytes: Buffer },
  writes: readonly [pattern: number, offset: number, length: number][],
): void {
  const wanted = Buffer.from(image.bytes);
  for (const [pattern, offset, length] of writes) wanted.fill(pattern, offset, offset + length);
  assert.ok(lab.disk().subarray(0, wanted.length).equals(wanted), 'the disk is the image with what the guest wrote');
}

/** From now on the image server has other bytes there: what is fetched from it again would show. */
function tear({ path }: { path: string }, offset: number): void {
  const file = openSync(path, 'r+');
  writeSync(file, Buffer.alloc(mebi, 0xff), 0, mebi, offset);
  closeSync(file);
}

test('the guest runs at once, keeps what it writes, and its hypervisor leaves a plain disk', options, async () => {
  const { lab, image, exporter } = await labWith(slowBytes);
  await startGuest(lab, image);
  assert.ok(!lab.seen().copy.flushed, 'it runs before the copy is done');
  assert.equal(lab.seen().vmm, 'Resident');
  assert.equal((await lab.booted().mediator.graph('sda')).kind, 'Mediated');
  // Once where the copy has not been yet, once where it was.
  await writeAsGuest(lab, 0xa1, 40 * mebi, mebi);
  await until('the copy has begun', copied(lab, 8 * mebi));
  await writeAsGuest(lab, 0xa2, 2 * mebi + 4096, 8192);
  await installed(lab);
  await writeAsGuest(lab, 0xa3, 30 * mebi, 512);
  await lab.run(steps.prepare, 2);
  await exporter.kill();
  await lab.run(steps.commit, 2);
  const { kind, text } = await lab.booted().mediator.graph('sda');
  assert.deepEqual([kind, text], ['Plain', 'sda-top -file-> sda-file']);
  assert.deepEqual([lab.seen().vmm, lab.seen().guest.state, lab.seen().power], ['Absent', 'Unknown', 'On']);
  await writeAsGuest(lab, 0xa4, 20 * mebi, 512);
  assertDisk(lab, image, [
    [0xa1, 40 * mebi, mebi],
    [0xa2, 2 * mebi + 4096, 8192],
    [0xa3, 30 * mebi, 512],
    [0xa4, 20 * mebi, 512],
  ]);
  const never = await plainGraph(lab);
  assert.equal(text, never, 'the graph is that of a disk that was never mediated');
  await until('it boots from its own disk', () => boots(lab, image.marker) === 2);
  assert.deepEqual(lab.errors, []);
});

/** Of the same machine, started from its disk. */
async function plainGraph(lab: LabRack): Promise<string> {
  await lab.machine().reset();
  return (await lab.booted().mediator.graph('sda')).text;
}

test('an image server that dies makes the guest wait, and nothing is lost', options, async () => {
  const { lab, image, exporter } = await labWith(slowBytes);
  await startGuest(lab, image);
  await until('the copy has begun', copied(lab, 6 * mebi));
  await writeAsGuest(lab, 0xb1, 44 * mebi, mebi);
  await exporter.kill();
  const { localBytes } = await lab.booted().mediator.copyState('sda');
  assert.ok(localBytes < imageBytes);
  // It reads what is not local, and once only.
  await lab.pressKey('d');
  const said = (words: string) => () => lab.serial().split(image.marker).at(-1)?.includes(words) === true;
  await until('the guest reads', said('?'));
  assert.equal(lab.machine().power(), 'On');
  assert.equal(lab.seen().guest.state, 'Running');
  assert.ok(!said(image.lastWords)());
  exporter.start();
  await until('its read is answered', said(image.lastWords));
  await installed(lab);
  assertDisk(lab, image, [[0xb1, 44 * mebi, mebi]]);
  assert.equal(boots(lab, image.marker), 1, 'the guest was never started again');
});

test(
  'a machine that loses power in the middle goes on where it was, with what the guest had flushed',
  options,
  async () => {
    const { lab, image, exporter } = await labWith(slowBytes);
    await startGuest(lab, image);
    await until('the copy has begun', copied(lab, 12 * mebi));
    await writeAsGuest(lab, 0xc1, 45 * mebi, mebi);
    await writeAsGuest(lab, 0xc2, 1 * mebi, 4096);
    await lab.machine().off();
    await until('it is seen', () => lab.seen().power === 'Off');
    const before = lab.disk();
    assert.ok(before.subarray(4 * mebi, 5 * mebi).equals(image.bytes.subarray(4 * mebi, 5 * mebi)));
    tear(image, 4 * mebi);
    await lab.run(steps.on, 2);
    await until('the guest runs again', () => boots(lab, image.marker) === 2);
    await until('and was counted', () => lab.seen().guest.starts === 2);
    await exporter.kill();
    exporter.start();
    await installed(lab);
    // The instant after the last block: nothing may live in QEMU's memory alone.
    await lab.machine().off();
    assertDisk(lab, image, [
      [0xc1, 45 * mebi, mebi],
      [0xc2, 1 * mebi, 4096],
    ]);
    await exporter.kill();
    await lab.run(steps.on, 2);
    await until('it runs without an image server', () => boots(lab, image.marker) === 3);
    assert.ok(lab.seen().copy.flushed);
  },
);

test(
  'agent, image server and machine end at once: what was local is not fetched again, what was flushed is there',
  options,
  async () => {
    const { lab, image, exporter } = await labWith(slowBytes);
    await startGuest(lab, image);
    await until('the copy has begun', copied(lab, 12 * mebi));
    await writeAsGuest(lab, 0xf1, 44 * mebi, mebi);
    const pid = Number(readFileSync(join(lab.machine().spec.runDirectory, 'pid'), 'utf8'));
    await lab.killAgent();
    await exporter.kill();
    process.kill(pid, 'SIGKILL');
    await until('the machine is off', () => !existsSync(`/proc/${pid}`));
    const before = lab.disk();
    assert.ok(before.subarray(4 * mebi, 5 * mebi).equals(image.bytes.subarray(4 * mebi, 5 * mebi)));
    tear(image, 4 * mebi);
    exporter.start(slowBytes);
    await lab.open();
    await until('it is seen', () => lab.seen().power === 'Off');
    await lab.run(steps.on, 2);
    await until('the guest runs again', () => boots(lab, image.marker) === 2);
    await installed(lab);
    await lab.machine().off();
    assertDisk(lab, image, [[0xf1, 44 * mebi, mebi]]);
  },
);

test(
  'an agent that dies leaves the guest running; the next one finds it, its copy and its writes',
  options,
  async () => {
    const { lab, image } = await labWith(slowBytes);
    await startGuest(lab, image);
    await until('the copy has begun', copied(lab, 4 * mebi));
    await writeAsGuest(lab, 0xd1, 46 * mebi, mebi);
    const { bootId } = lab.machine();
    await lab.killAgent();
    await lab.open();
    assert.equal(lab.machine().bootId, bootId);
    await until('the guest is found', () => lab.seen().vmm === 'Resident' && lab.seen().guest.state === 'Running');
    await installed(lab);
    await lab.killAgent();
    await lab.open();
    await until('the end is found', () => lab.seen().copy.flushed);
    await lab.run(steps.prepare, 2);
    const id = lab.give(steps.commit, 2);
    await lab.killAgent();
    await lab.open();
    assert.equal((await lab.agent.ended(id)).status, 'Done');
    assert.equal(lab.seen().vmm, 'Absent');
    assert.equal((await lab.booted().mediator.graph('sda')).kind, 'Plain');
    assertDisk(lab, image, [[0xd1, 46 * mebi, mebi]]);
    assert.equal(boots(lab, image.marker), 1);
    assert.deepEqual(lab.seen().ports.find(({ role }) => role === 'Control')?.domain, 'closed');
  },
);

test('a map that is damaged fails the boot, and nothing is erased', options, async () => {
  const { lab, image } = await labWith(slowBytes);
  await startGuest(lab, image);
  await until('the copy has begun', copied(lab, 8 * mebi));
  await writeAsGuest(lab, 0xe1, 3 * mebi, mebi);
  await lab.machine().off();
  await until('it is seen', () => lab.seen().power === 'Off');
  writeFileSync(join(lab.machine().spec.directory, 'sda.map.qcow2'), 'torn');
  lab.give(steps.on, 2);
  await until('it is reported', () => lab.seen().guest.failure?.code === 'MapInvalid');
  assert.equal(lab.seen().copy.map, 'Invalid');
  assert.equal(boots(lab, image.marker), 1);
  assert.equal(lab.disk()[3 * mebi], 0xe1);
});

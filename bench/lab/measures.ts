/**
 * What the lab's benchmark measures, one function a line of its table. Each measures both sides in turn, so that what else the
 * machine does meets both alike.
 */
import { execFile } from 'node:child_process';
import { copyFileSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { promisify } from 'node:util';
import type { Console } from '../../agent/drivers/qemu/console.ts';
import type { LabImage } from '../../agent/drivers/qemu/images/build.ts';
import { diskPath } from '../../agent/drivers/qemu/shape.ts';
import { systemClock as clock } from '../../controller/runtime/clock.ts';
import { median } from '../report.ts';
import { Room, type RoomOptions, until, untilUp, type Yield } from './room.ts';

export interface Line {
  readonly what: string;
  readonly value: number;
  readonly unit: string;
  /** What is to be reached; absent: reported only. */
  readonly goal?: number;
  /** Less is better. */
  readonly isAtMost?: boolean;
  /** The medians that the value was made of. */
  readonly parts?: Readonly<Record<string, number>>;
}

const run = promisify(execFile);
const mebi = 2 ** 20;
const seconds = (from: number): number => (clock.monotonic() - from) / 1000;

/** The whole image is copied to the disk by a copier of others, at the same server, and the machine boots from its disk then. */
async function copyThenBoot(room: Room, node: string, image: LabImage): Promise<{ copy: number; up: number }> {
  await room.prepare(node, image, 'None');
  const place = await placeOf(room, node);
  const path = diskPath(room.machine(node).spec, 'sda');
  const { size } = room.machine(node).spec.shape.disks.map(({ sizeBytes }) => ({ size: sizeBytes }))[0] ?? { size: 0 };
  truncateSync(path, 0);
  truncateSync(path, size);
  const from = clock.monotonic();
  await run('qemu-img', ['convert', '-n', '-W', '-m', '16', '-f', 'raw', place, '-O', 'raw', path]);
  const copy = seconds(from);
  room.bootFromDisk(node);
  await room.on(node);
  const console = await room.console(node);
  const up = await untilUp(console, from);
  console.close();
  await room.off(node);
  return { copy, up };
}

/** The export of a machine, as an address of NBD. */
async function placeOf(room: Room, node: string): Promise<string> {
  const { export: found } = JSON.parse(readFileSync(`${room.machine(node).spec.directory}/images.json`, 'utf8')) as {
    export: { name: string };
  };
  return `nbd+unix:///${found.name}?socket=${room.lab.exporter.socketPath}`;
}

async function streamBoot(
  room: Room,
  node: string,
  image: LabImage,
): Promise<{ fromPower: number; fromAnswer: number; installed: number }> {
  await room.prepare(node, image, 'Fair');
  const from = clock.monotonic();
  await room.on(node);
  const console = await room.console(node);
  await until('the boot server answered', () => room.booted(node).read().vmm === 'Resident');
  const answered = clock.monotonic();
  const fromPower = await untilUp(console, from);
  const fromAnswer = seconds(answered);
  await room.installed(node);
  const installed = seconds(answered);
  console.close();
  await room.off(node);
  return { fromPower, fromAnswer, installed };
}

/** How many times sooner a guest runs. */
export async function sooner(
  image: LabImage,
  goal: number,
  runs: number,
  options: Omit<RoomOptions, 'nodes' | 'diskBytes'>,
): Promise<Line[]> {
  const room = new Room({ ...options, nodes: 1, diskBytes: image.sizeBytes + 8 * mebi });
  const copies: { copy: number; up: number }[] = [];
  const streams: { fromPower: number; fromAnswer: number; installed: number }[] = [];
  try {
    await room.open();
    // Both sides read from the rack's cache: what the origin costs is not what is measured.
    await copyThenBoot(room, 'b0', image);
    for (let index = 0; index < runs; index++) {
      copies.push(await copyThenBoot(room, 'b0', image));
      streams.push(await streamBoot(room, 'b0', image));
    }
  } finally {
    await room.close();
  }
  const size = `${image.sizeBytes / 2 ** 30} GiB`;
  const copyUp = median(copies.map(({ up }) => up));
  const streamUp = median(streams.map(({ fromAnswer }) => fromAnswer));
  const fromPower = median(streams.map((stream) => stream.fromPower));
  const parts = {
    copySeconds: median(copies.map(({ copy }) => copy)),
    guestAfterCopySeconds: copyUp,
    guestStreamedSeconds: streamUp,
    guestStreamedFromPowerOnSeconds: fromPower,
    streamInstalledSeconds: median(streams.map(({ installed }) => installed)),
  };
  return [
    {
      what: `a guest runs so many times sooner, ${size}, from the boot server's answer`,
      value: copyUp / streamUp,
      unit: 'x',
      goal,
      parts,
    },
    {
      what: `the same from power on, with the network boot on both sides, ${size}`,
      value: (copyUp + fromPower - streamUp) / fromPower,
      unit: 'x',
    },
  ];
}

/** One reading lasts a twentieth of a second: together they last for seconds, so that a copy which has to notice them is not judged by its first look. */
const readings = 64;

/** Reads so much of the guest's disk, several times, past its page cache. @returns bytes a second */
async function readRate(console: Console, fromMebi: number, countMebi: number): Promise<number> {
  const times = Array.from({ length: readings }, (_, index) => index).join(' ');
  const once = `dd if=/dev/vda of=/dev/null bs=1M skip=${fromMebi} count=${countMebi} iflag=direct 2>/dev/null || exit 1`;
  const command = `for time in ${times}; do ${once}; done`;
  const from = clock.monotonic();
  const { status } = await console.run(command, 600_000);
  if (status !== 0) throw new Error(`dd ended with ${status}`);
  return (readings * countMebi * mebi) / seconds(from);
}

/** The guest's sequential reads of what is local, while the copy runs, against the same with the copy stopped. */
export async function readsWhileCopying(
  image: LabImage,
  runs: number,
  yielding: Yield,
  options: Omit<RoomOptions, 'nodes' | 'diskBytes'>,
): Promise<Line> {
  const room = new Room({ ...options, nodes: 1, diskBytes: image.sizeBytes + 8 * mebi });
  const during: number[] = [];
  const without: number[] = [];
  const countMebi = 96;
  try {
    await room.open();
    for (let index = 0; index < runs; index++) {
      await room.prepare('b0', image, yielding);
      await room.on('b0');
      const console = await room.console('b0');
      await untilUp(console, clock.monotonic());
      const copied = (): number => room.booted('b0').read().copy.localBytes;
      await until('what is read is local', () => copied() > (countMebi + 32) * mebi);
      const at = copied();
      during.push(await readRate(console, 16, countMebi));
      if (room.booted('b0').read().copy.flushed)
        throw new Error('the copy ended while it was measured: take a larger image');
      if (yielding === 'None' && copied() <= at) throw new Error('the copy did not run while it was measured');
      room.booted('b0').throttle(0);
      await until('the copy stands', async () => {
        const before = await room.booted('b0').mediator.copyState('sda');
        await new Promise((resolve) => clock.setTimer(300, () => resolve(undefined)));
        return (await room.booted('b0').mediator.copyState('sda')).localBytes === before.localBytes;
      });
      without.push(await readRate(console, 16, countMebi));
      console.close();
      await room.off('b0');
    }
  } finally {
    await room.close();
  }
  return {
    what: `guest's sequential reads while the copy runs (yield ${yielding}), against none`,
    value: (median(during) / median(without)) * 100,
    unit: '%',
    ...(yielding === 'None' ? {} : { goal: 80 }),
    parts: { duringMBs: median(during) / 1e6, withoutMBs: median(without) / 1e6 },
  };
}

/** From the last block to a plain disk under the running guest, and that disk's speed against one that was never streamed. */
export async function leaving(
  image: LabImage,
  runs: number,
  options: Omit<RoomOptions, 'nodes' | 'diskBytes'>,
): Promise<Line[]> {
  const room = new Room({ ...options, nodes: 1, diskBytes: image.sizeBytes + 8 * mebi });
  const leave: number[] = [];
  const after: number[] = [];
  const never: number[] = [];
  try {
    await room.open();
    const machine = room.machine('b0');
    for (let index = 0; index < runs; index++) {
      await room.prepare('b0', image, 'None');
      await room.on('b0');
      let console = await room.console('b0');
      await untilUp(console, clock.monotonic());
      const { mediator } = room.booted('b0');
      let last = clock.monotonic();
      while (!(await mediator.copyState('sda')).complete) last = clock.monotonic();
      await mediator.leave('sda');
      leave.push(clock.monotonic() - last);
      const { text } = await mediator.graph('sda');
      after.push(await readRate(console, 1, 48));
      console.close();
      await room.off('b0');
      room.bootFromDisk('b0');
      copyFileSync(image.path, diskPath(machine.spec, 'sda'));
      truncateSync(diskPath(machine.spec, 'sda'), image.sizeBytes + 8 * mebi);
      await room.on('b0');
      console = await room.console('b0');
      await untilUp(console, clock.monotonic());
      const plain = (await mediator.graph('sda')).text;
      if (plain !== text) throw new Error(`the block graphs differ: ${text} and ${plain}`);
      never.push(await readRate(console, 1, 48));
      console.close();
      await room.off('b0');
    }
  } finally {
    await room.close();
  }
  return [
    { what: 'from the last block to devirtualized', value: median(leave), unit: 'ms', goal: 100, isAtMost: true },
    {
      what: "guest's reads after devirtualization, against never streamed (block graphs equal)",
      value: (median(after) / median(never)) * 100,
      unit: '%',
      parts: { afterMBs: median(after) / 1e6, neverMBs: median(never) / 1e6 },
    },
  ];
}

/** Images that the origin sent for so many nodes that are imaged at once. */
export async function originTraffic(
  image: LabImage,
  nodes: number,
  options: Omit<RoomOptions, 'nodes' | 'diskBytes'>,
): Promise<Line> {
  const room = new Room({ ...options, nodes, diskBytes: image.sizeBytes + 8 * mebi });
  try {
    await room.open();
    await Promise.all(room.nodes.map((node) => room.prepare(node, image, 'None')));
    const from = clock.monotonic();
    await Promise.all(room.nodes.map((node) => room.on(node)));
    await Promise.all(room.nodes.map((node) => room.installed(node)));
    const { exporter } = room.lab;
    return {
      what: `images that the origin sent for ${nodes} nodes imaged at once`,
      value: exporter.cache.counters.originBytes / image.sizeBytes,
      unit: 'images',
      goal: 1.1,
      isAtMost: true,
      parts: { servedImages: exporter.servedBytes() / image.sizeBytes, allInstalledSeconds: seconds(from) },
    };
  } finally {
    await room.close();
  }
}

/** From asking for another domain to its reading. */
export async function isolation(runs: number, options: Omit<RoomOptions, 'nodes' | 'diskBytes'>): Promise<Line> {
  const room = new Room({ ...options, nodes: 4, diskBytes: 64 * mebi });
  const took: number[] = [];
  try {
    await room.open();
    const { fabric } = room.lab.drivers;
    for (let index = 0; index < runs * 4; index++) {
      const domain = index % 2 === 0 ? 'allocation/a' : 'quarantine';
      const from = clock.monotonic();
      fabric.set('b1', 'Data', domain, 'None', `token-${index}`);
      await until('the change is read back', () => {
        const { dataChange, ports } = fabric.read('b1');
        return dataChange?.status === 'Done' && ports.some((port) => port.role === 'Data' && port.domain === domain);
      });
      took.push(clock.monotonic() - from);
    }
  } finally {
    await room.close();
  }
  rmSync(room.directory, { recursive: true, force: true });
  return { what: 'isolation change to effect, read back', value: median(took), unit: 'ms', goal: 50, isAtMost: true };
}

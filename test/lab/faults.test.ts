/** What real machines do at the wrong time: they reset, their BMCs hang or forget, and what they read was torn on the way. */
import assert from 'node:assert/strict';
import { createReadStream, statSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { LabExporter } from '../../agent/drivers/qemu/rack.ts';
import { RackExporter } from '../../agent/image/exporter.ts';
import { packImage } from '../../agent/image/pack.ts';
import type { Environment } from '../../controller/api/protocol.generated.ts';
import { systemClock as clock } from '../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../controller/runtime/random.ts';
import { steps } from '../support/agent-room.ts';
import { environmentOf, LabRack, type LabRackOptions, NbdkitExporter, until } from './lab-rack.ts';
import { labOptions } from './needs.ts';
import { makeSectorImage, type SectorImage } from './sector-image.ts';

const options = labOptions(180);
const mebi = 2 ** 20;
const imageBytes = 32 * mebi;

const open = new Set<LabRack>();
after(async () => {
  for (const lab of open) await lab.close();
});

async function labWith(
  rateBytes: number | undefined,
  more: LabRackOptions = {},
): Promise<{ lab: LabRack; image: SectorImage }> {
  const lab = new LabRack(more);
  open.add(lab);
  const image = makeSectorImage(join(lab.directory, 'a.raw'), 'A', imageBytes);
  if (lab.exporter instanceof NbdkitExporter) lab.exporter.start(rateBytes);
  await lab.open();
  return { lab, image };
}

async function startGuest(lab: LabRack, environment: Environment): Promise<void> {
  await lab.run(steps.isolate(), 2);
  await lab.run(steps.reimage(environment), 2);
}

const boots = (lab: LabRack, { marker }: SectorImage): number => lab.serial().split(marker).length - 1;
const booted = (lab: LabRack, image: SectorImage, times: number) =>
  until(`boot number ${times}`, () => boots(lab, image) === times);

test('a machine whose disk is late, because everything is busy, boots it all the same', options, async () => {
  const { lab, image } = await labWith(undefined);
  const { mediator } = lab.booted();
  const expose = mediator.expose.bind(mediator);
  const tries = (): number => lab.serial().split('Booting from SAN device').length - 1;
  mediator.expose = async (disk) => {
    await until('it gave up waiting for once', () => tries() > 11);
    await expose(disk);
  };
  await startGuest(lab, environmentOf(image));
  await booted(lab, image, 1);
});

test('a guest that resets itself comes back as what it was, in every state', options, async () => {
  const { lab, image } = await labWith(8 * mebi);
  await startGuest(lab, environmentOf(image));
  await booted(lab, image, 1);

  await lab.resetByGuest();
  await booted(lab, image, 2);
  await until('the second start is counted', () => lab.seen().guest.starts === 2);
  assert.ok(!lab.seen().copy.flushed, 'while the disk fills');

  await until('every block is local', () => lab.seen().copy.flushed);
  await lab.resetByGuest();
  await booted(lab, image, 3);
  await until('the third start is counted', () => lab.seen().guest.starts === 3);
  assert.equal(lab.seen().vmm, 'Resident', 'while it is installed');
  assert.ok(lab.seen().copy.flushed);

  await lab.run(steps.prepare, 2);
  await lab.resetByGuest();
  await booted(lab, image, 4);
  assert.equal(lab.machine().bootedFrom, 'Disk', 'once it is prepared, from its own disk');
  await lab.run(steps.commit, 2);
  await lab.resetByGuest();
  await booted(lab, image, 5);
  assert.deepEqual([lab.seen().vmm, lab.seen().power, lab.machine().bootedFrom], ['Absent', 'On', 'Disk']);
  assert.equal((await lab.booted().mediator.graph('sda')).kind, 'Plain');
  assert.ok(lab.disk().subarray(0, imageBytes).equals(image.bytes));
});

test('a BMC that hangs delays what is asked of it, and what it said is not believed', options, async () => {
  const { lab, image } = await labWith(undefined, { hasBmcs: true });
  await startGuest(lab, environmentOf(image));
  await booted(lab, image, 1);
  const misbehaviour = lab.bmcs.get('n0')?.misbehaviour;
  assert.ok(misbehaviour);
  misbehaviour.hangs = true;
  const id = lab.give(steps.off, 3);
  await until('its power is unknown', () => lab.seen().power === 'Unknown', 120_000);
  assert.equal(lab.seen().operation?.id, id);
  assert.equal(lab.seen().operation?.status, 'Running');
  assert.equal(lab.machine().power(), 'On');
  misbehaviour.hangs = false;
  await until('it is off', () => lab.seen().power === 'Off' && lab.seen().operation?.status === 'Done', 120_000);
  assert.equal(lab.machine().power(), 'Off');
});

test('a machine whose BMC forgot the boot order boots no guest of anybody', options, async () => {
  const { lab, image } = await labWith(undefined, { hasBmcs: true });
  const misbehaviour = lab.bmcs.get('n0')?.misbehaviour;
  assert.ok(misbehaviour);
  misbehaviour.losesOverrideAtReset = true;
  await lab.run(steps.isolate(), 2);
  const id = lab.give(steps.reimage(environmentOf(image)), 2);
  await until('the firmware found nothing', () => lab.serial().includes('No bootable device'));
  assert.deepEqual([lab.seen().guest.state === 'Running', boots(lab, image), lab.seen().guest.starts], [false, 0, 0]);
  assert.deepEqual([lab.seen().operation?.id, lab.seen().operation?.status], [id, 'Running']);
  await until('the order that it has is read back', () => lab.seen().boot.order === 'Disk');
});

test('a block that was torn on the way is refused and fetched again', options, async () => {
  let exporter: RackExporter | undefined;
  const later: LabExporter = {
    open: (name, image) => started().open(name, image),
    close: (name) => started().close(name),
    read: (name, offset, length) => started().read(name, offset, length),
    servedBytes: () => started().servedBytes(),
    get socketPath() {
      return started().socketPath;
    },
  };
  const started = (): RackExporter => {
    assert.ok(exporter);
    return exporter;
  };
  const lab = new LabRack({ exporter: () => later });
  open.add(lab);
  const image = makeSectorImage(join(lab.directory, 'a.raw'), 'A', imageBytes);
  const { digest } = await packImage(image.path, { signal: new AbortController().signal });
  const origin = await tearingOrigin(lab.directory);
  exporter = await RackExporter.start({
    directory: join(lab.directory, 'cache'),
    listen: { socketPath: join(lab.directory, 'images.sock') },
    ...{ memoryBytes: 32 * mebi, diskBytes: 128 * mebi, clock, random },
    policy: {},
    onError: (error) => lab.errors.push(error),
  });
  try {
    await lab.open();
    const environment = environmentOf(image);
    const url = `http://127.0.0.1:${origin.port}/a.raw`;
    await startGuest(lab, { ...environment, image: { ...environment.image, url, sha256: digest } });
    await booted(lab, image, 1);
    await until('every block is local', () => lab.seen().copy.flushed);
    assert.ok(origin.torn() > 0, 'something was torn');
    assert.ok(exporter.cache.counters.corruptFromOrigin > 0, 'and noticed');
    assert.ok(lab.disk().subarray(0, imageBytes).equals(image.bytes), 'and nothing of it is on the disk');
  } finally {
    origin.close();
    await lab.close();
    open.delete(lab);
    await exporter.stop();
  }
});

/** Serves a directory, and changes a byte in the middle of every third answer that carries a part of the image. */
async function tearingOrigin(directory: string): Promise<{ port: number; torn(): number; close(): void }> {
  let asked = 0;
  let torn = 0;
  const server = createServer((request, response) => {
    const path = join(directory, new URL(request.url ?? '/', 'http://origin').pathname);
    const size = statSync(path, { throwIfNoEntry: false })?.size;
    if (size === undefined) {
      response.writeHead(404).end();
      return;
    }
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
    const start = Number(range?.[1] ?? 0);
    const end = range?.[2] ? Number(range[2]) : size - 1;
    const headers = { 'content-length': end - start + 1, 'accept-ranges': 'bytes', etag: '"1"' };
    response.writeHead(range === null ? 200 : 206, {
      ...headers,
      ...(range === null ? {} : { 'content-range': `bytes ${start}-${end}/${size}` }),
    });
    if (request.method === 'HEAD') {
      response.end();
      return;
    }
    const tears = path.endsWith('.raw') && end - start > 4096 && ++asked % 3 === 1;
    if (tears) torn++;
    let isFirst = true;
    createReadStream(path, { start, end })
      .on('data', (chunk) => {
        const bytes = Buffer.from(chunk);
        if (tears && isFirst) bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 0x40;
        isFirst = false;
        response.write(bytes);
      })
      .on('end', () => response.end());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    torn: () => torn,
    close: () => void server.close(),
  };
}

test('an image goes to the smallest disk that it fits on, and boots from there, also by itself', options, async () => {
  const lab = new LabRack();
  open.add(lab);
  const image = makeSectorImage(join(lab.directory, 'a.raw'), 'A', 4 * mebi);
  (lab.exporter as NbdkitExporter).start();
  await lab.open();
  await startGuest(lab, environmentOf(image));
  await booted(lab, image, 1);
  await until('every block is local', () => lab.seen().copy.flushed);
  assert.ok(lab.disk('sdb').subarray(0, image.sizeBytes).equals(image.bytes));
  assert.ok(
    lab.disk('sda').every((byte) => byte === 0),
    'the other disk is left alone',
  );
  await lab.run(steps.prepare, 2);
  await lab.run(steps.commit, 2);
  await lab.resetByGuest();
  await booted(lab, image, 2);
  assert.equal(lab.machine().bootedFrom, 'Disk');
});

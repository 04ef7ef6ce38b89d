/** Evidence that a hypervisor left, exports by AoE, and what the channel is told. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { ImageSpec } from '../../../agent/drivers/boot/images.ts';
import { channelFailure, channelRate } from '../../../agent/drivers/hardware/channel-plan.ts';
import { departureTimes, type Evidence, hasLeft } from '../../../agent/drivers/hardware/departure.ts';
import { aoeSource, type ImageSource } from '../../../agent/drivers/hardware/sources.ts';
import { type AoeExportOptions, aoeConfig } from '../../../agent/image/aoe.ts';
import { RackExporter } from '../../../agent/image/exporter.ts';
import { sha256 } from '../../../agent/image/tree.ts';
import { systemClock as clock } from '../../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../../controller/runtime/random.ts';
import { noise } from '../image/support.ts';

test('each piece of evidence is needed', () => {
  const silent: Evidence = {
    ...{ connected: false, silentMs: departureTimes.quietMs, saidSo: false, power: 'On', couldSpeak: true },
    ...{ exportClosed: true, answers: false },
  };
  assert.equal(hasLeft(silent, departureTimes), true);
  const missing: Partial<Evidence>[] = [
    { connected: true },
    { silentMs: departureTimes.quietMs - 1 },
    { power: 'Off' },
    { power: 'Unknown' },
    { couldSpeak: false },
    { exportClosed: false },
    { answers: true },
  ];
  for (const one of missing) assert.equal(hasLeft({ ...silent, ...one }, departureTimes), false, JSON.stringify(one));
  const { answers: _none, ...unasked } = silent;
  assert.equal(hasLeft({ ...unasked, answers: undefined }, departureTimes), false, 'nobody asked');
  const said = { ...silent, saidSo: true, silentMs: departureTimes.quietAfterWordMs, couldSpeak: false };
  assert.equal(hasLeft(said, departureTimes), true);
  for (const one of [{ connected: true }, { power: 'Off' as const }, { exportClosed: false }, { silentMs: 0 }])
    assert.equal(hasLeft({ ...said, ...one }, departureTimes), false, JSON.stringify(one));
});

test('a copy that is stopped is not one without a bound', () => {
  assert.deepEqual([channelRate(undefined), channelRate(0), channelRate(1e6)], [0n, 1n, 1_000_000n]);
});

test('a hypervisor fails with what it can know of, and with nothing else', () => {
  assert.deepEqual(channelFailure({ code: 'MapInvalid', text: 'no map' }), {
    code: 'MapInvalid',
    message: 'no map',
    retryable: false,
  });
  assert.deepEqual(channelFailure({ code: 'WipeFailed', text: 'x' }), {
    code: 'VmmFailed',
    message: 'WipeFailed: x',
    retryable: true,
  });
});

interface Rig {
  readonly source: ImageSource;
  readonly started: AoeExportOptions[];
  readonly ended: string[];
  readonly image: ImageSpec;
  readonly bytes: Buffer;
}

async function aoe(t: TestContext, diskBytes = 2 ** 22): Promise<Rig> {
  const directory = mkdtempSync(join(tmpdir(), 'aoe-'));
  const bytes = noise(2 ** 20);
  writeFileSync(join(directory, 'os.raw'), bytes);
  const exporter = await RackExporter.start({
    ...{ directory: join(directory, 'cache'), listen: { socketPath: join(directory, 'nbd') }, clock, random },
    ...{ memoryBytes: 2 ** 24, diskBytes: 2 ** 26, policy: { directories: [directory] } },
    onError: (error) => assert.fail(String(error)),
  });
  const started: AoeExportOptions[] = [];
  const ended: string[] = [];
  const source = aoeSource({
    ...{ exporter, directory: join(directory, 'aoe'), bridge: 'ctl', shelf: 7, diskBytes },
    nodes: new Map([0, 1].map((slot) => [`n${slot}`, { slot, macs: [`52:54:00:00:00:0${slot}`] }])),
    onError: (error) => assert.fail(String(error)),
    async start(options) {
      started.push(options);
      return { config: aoeConfig(options), close: async () => void ended.push(String(options.slot)) };
    },
  });
  t.after(async () => {
    await source.stop();
    rmSync(directory, { recursive: true });
  });
  const image: ImageSpec = {
    url: `file://${directory}/os.raw`,
    sha256: sha256(bytes).toString('hex'),
    sizeBytes: bytes.length,
    format: 'Raw',
  };
  return { source, started, ended, image, bytes };
}

test('by AoE each node has a target of its own over one verified file, which goes with the last of them', async (t) => {
  const { source, started, ended, image, bytes } = await aoe(t);
  await Promise.all([source.open('a', image, 'n0'), source.open('b', image, 'n1')]);
  assert.deepEqual(started.map(({ slot, macs }) => [slot, ...macs]).sort(), [
    [0, '52:54:00:00:00:00'],
    [1, '52:54:00:00:00:01'],
  ]);
  const file = started[0]?.file ?? '';
  assert.ok(readFileSync(file).equals(bytes));
  const place = source.place('b', 'n1');
  assert.deepEqual([place?.transport, place?.address], ['Aoe', '7.1']);
  assert.match(place?.name ?? '', new RegExp(`sha256=${image.sha256} size=${bytes.length} generation=\\d+$`));
  assert.notEqual(source.place('a', 'n0')?.name, place?.name, 'another generation');
  await source.close('a');
  assert.deepEqual([ended, existsSync(file), source.place('a', 'n0')], [['0'], true, undefined]);
  await source.close('b');
  assert.equal(existsSync(file), false);
});

test('files for AoE are bounded, and a wrong digest gets none', async (t) => {
  const { source, started, image } = await aoe(t, 1000);
  await assert.rejects(source.open('a', image, 'n0'), /of 1000 for AoE 0 are in use/);
  assert.equal(source.place('a', 'n0'), undefined);
  const other = await source.open('b', { ...image, sha256: 'b'.repeat(64) }, 'n0');
  assert.equal(other.digest, image.sha256);
  assert.deepEqual(started, []);
});

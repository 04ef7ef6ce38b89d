/** What the plug-in driver does with plug-ins that fail, lie, hang or answer anything. */
import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import type { PluginFabric, PluginFabricOptions } from '../../../agent/drivers/fabric/plugin.ts';
import { commandPlugin, httpPlugin } from '../../../agent/drivers/fabric/plugin-protocol.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { SwitchService } from '../../support/switch-service.ts';
import { Wakers } from '../../support/wakers.ts';
import { quickFabric } from './support.ts';

interface Bench {
  readonly service: SwitchService;
  readonly fabric: PluginFabric;
  readonly troubles: (string | undefined)[];
}

async function open(t: TestContext, extra: Partial<PluginFabricOptions> = {}): Promise<Bench> {
  const service = new SwitchService();
  const url = await service.listen();
  const troubles: (string | undefined)[] = [];
  const fabric = quickFabric(httpPlugin({ url, timeoutMs: 500, clock: systemClock }), {
    onTrouble: (trouble) => troubles.push(trouble),
    ...extra,
  });
  t.after(async () => {
    await fabric.close();
    await service.close();
  });
  return { service, fabric, troubles };
}

async function until(fabric: PluginFabric, holds: () => boolean): Promise<void> {
  const wakers = new Wakers();
  fabric.listen(() => wakers.wake());
  await wakers.until('the reading', holds, () => JSON.stringify(fabric.read('n0')));
}

const ended = (fabric: PluginFabric): Promise<void> =>
  until(fabric, () => fabric.read('n0').dataChange?.status !== 'Pending');

describe('the plug-in driver', () => {
  test('a change that hangs is cancelled, and its Error comes with the cancellation', async (t) => {
    const { service, fabric } = await open(t, { limitMs: 1_500, silentMs: 10_000 });
    service.stuck = true;
    fabric.set('n0', 'Data', 'allocation/a', 'None', 'x');
    await ended(fabric);
    assert.deepEqual(fabric.read('n0').dataChange, { token: 'x', status: 'Error', error: 'cancelled' });
    assert.deepEqual(
      [...service.changes.values()].map(({ status }) => status),
      ['Error'],
    );
  });

  test('a plug-in that goes silent makes domains Unknown, and is given up in bounded time', async (t) => {
    const { service, fabric, troubles } = await open(t, { limitMs: 1_500, silentMs: 500 });
    fabric.set('n0', 'Data', 'allocation/a', 'None', 'x');
    await ended(fabric);
    service.silent = true;
    await until(fabric, () => fabric.read('n0').ports[0]?.domain === 'Unknown');
    assert.equal(fabric.read('n0').ports[0]?.state, 'Unknown');
    fabric.set('n0', 'Data', 'quarantine', 'None', 'y');
    await ended(fabric);
    assert.match(fabric.read('n0').dataChange?.error ?? '', /may still take effect: the plug-in .* no answer within/);
    assert.match(troubles.at(-1) ?? '', /no answer within/);
    service.silent = false;
    await until(fabric, () => fabric.read('n0').ports[0]?.domain !== 'Unknown');
  });

  test('a plug-in that says Done and did nothing is not believed', async (t) => {
    const { service, fabric } = await open(t, { limitMs: 60_000 });
    service.ports.set('n0/eth0', { domain: 'quarantine', egress: 'None' });
    service.lies = true;
    fabric.set('n0', 'Data', 'allocation/a', 'None', 'x');
    await until(fabric, () => fabric.read('n0').ports[0]?.domain === 'quarantine');
    assert.equal(fabric.read('n0').dataChange?.status, 'Pending');
    // Somebody does what the plug-in did not.
    for (const port of ['eth0', 'ib0']) service.ports.set(`n0/${port}`, { domain: 'allocation/a', egress: 'None' });
    await ended(fabric);
    assert.equal(fabric.read('n0').dataChange?.status, 'Done');
  });

  test('a plug-in that lost its memory gets the change again, under the same id', async (t) => {
    const { service, fabric } = await open(t);
    service.stuck = true;
    const begun = new Promise<void>((resolve) => {
      service.onBegin = resolve;
    });
    fabric.set('n0', 'Data', 'allocation/a', 'None', 'x');
    await begun;
    const [id] = service.changes.keys();
    service.changes.clear();
    service.stuck = false;
    await ended(fabric);
    assert.equal(fabric.read('n0').dataChange?.status, 'Done');
    assert.deepEqual([...service.changes.keys()], [id]);
  });

  test('a token goes with every call, from its file', async (t) => {
    const directory = mkdtempSync(join(tmpdir(), 'token-'));
    t.after(() => rmSync(directory, { recursive: true }));
    const tokenFile = join(directory, 'token');
    writeFileSync(tokenFile, 'secret\n');
    const service = new SwitchService();
    service.token = 'secret';
    t.after(() => service.close());
    const plugin = httpPlugin({ url: await service.listen(), tokenFile, timeoutMs: 1_000, clock: systemClock });
    t.after(() => plugin.close());
    assert.deepEqual(await plugin.ports(), []);
    writeFileSync(tokenFile, 'wrong');
    await assert.rejects(plugin.ports(), /HTTP 401/);
  });
});

describe('a command as plug-in', () => {
  const answers: [string, string, RegExp][] = [
    ['that answers no JSON', 'echo hello', /answers no JSON/],
    ['that answers without ports', 'echo \'{"status": "Done"}\'', /without a list of ports/],
    ['that reads back what is no port', 'echo \'{"ports": [{"node": "n0", "port": 3}]}\'', /a port that is none/],
    [
      'that fails',
      'echo "switch 10.0.0.1 does not answer" >&2; exit 3',
      /ended with 3: switch 10.0.0.1 does not answer/,
    ],
    ['that does not end', 'sleep 60', /did not end within/],
    ['that is not there', '', /could not be run/],
  ];
  for (const [name, body, message] of answers) {
    test(`${name} is a fault that is named`, async (t) => {
      const directory = mkdtempSync(join(tmpdir(), 'plugin-'));
      t.after(() => rmSync(directory, { recursive: true }));
      const program = join(directory, 'plugin');
      if (body !== '') {
        writeFileSync(program, `#!/bin/sh\nexec 3<&0\n${body.startsWith('sleep') ? 'exec ' : ''}${body}\n`);
        chmodSync(program, 0o755);
      }
      const plugin = commandPlugin({
        command: [program],
        timeoutMs: body.startsWith('sleep') ? 100 : 5_000,
        clock: systemClock,
      });
      await assert.rejects(plugin.ports(), message);
    });
  }
});

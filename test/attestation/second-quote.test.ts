/**
 * A machine that was attested and then is another one when it is checked: reset into its disk by a tenant who found the boot's token in memory.
 * The agent's side of the trusted image over HTTP, against a software TPM; who answers is this test.
 */
import assert from 'node:assert/strict';
import { createHmac, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { Carrier } from '../../agent/attestation/tpm.ts';
import { Enrolments } from '../../agent/drivers/boot/enrolments.ts';
import { TrustedBoots } from '../../agent/drivers/boot/trusted.ts';
import { type TrustedSide, trustedSide } from '../../agent/drivers/boot/trusted-boot.ts';
import { systemClock as clock } from '../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../controller/runtime/random.ts';
import { machineOptions, ownDirectory } from '../lab/one-machine.ts';
import { directTpm, resetTpm } from '../support/swtpm.ts';
import { bootEvents, event, eventLog, extendOf, type Measured, policyOf } from './boot.ts';

const swtpm = machineOptions('swtpm');
const { applications, initrd } = policyOf();
const quoteCommand = 0x158;

async function measure(carry: Carrier, events: readonly Measured[]): Promise<void> {
  for (const one of events) assert.equal((await carry(extendOf(one))).readUInt32BE(6), 0);
}

/** Whoever has the boot's token: does each job as the trusted image would, until the agent knows the boot no more. */
async function answer(
  server: string,
  { bootId, token }: { bootId: string; token: string },
  results: (job: ReadonlyMap<string, string>) => Promise<readonly string[]>,
): Promise<void> {
  const send = async (method: string, path: string, body = ''): Promise<Response> => {
    const mac = createHmac('sha256', Buffer.from(token, 'hex')).update(`${method} ${path}\n${body}`).digest('hex');
    const headers = { authorization: `BitVisor-MAC ${mac}` };
    return fetch(`${server}/trusted/${bootId}${path}`, { method, headers, ...(method === 'POST' ? { body } : {}) });
  };
  await send('POST', '/up', 'cores=1\ntpm=2\ndisk=vda 1048576 A\n');
  for (let done = '0'; ; ) {
    const polled = await send('GET', `/jobs/${done}`);
    if (!polled.ok) return;
    const job = new Map((await polled.text()).split('\n').map((line): [string, string] => splitAt(line)));
    const id = job.get('job');
    if (id === undefined) continue;
    await send('POST', `/results/${id}`, [...(await results(job)), `done=${job.get('kind')}`, ''].join('\n'));
    done = id;
  }
}

const splitAt = (line: string): [string, string] => {
  const at = line.indexOf('=');
  return [line.slice(0, at), line.slice(at + 1)];
};

interface Room {
  readonly side: TrustedSide;
  readonly carry: Carrier;
  readonly events: readonly Measured[];
  /** The TPM loses its power, or the machine is reset. */
  reset(): Promise<void>;
  /** Whoever answers gives the quote that was given before. */
  replays: boolean;
}

/** A machine that booted the trusted image, was attested and has wiped its disk. */
async function wipedMachine(t: TestContext): Promise<Room> {
  const directory = await ownDirectory(t);
  mkdirSync(join(directory, 'state'));
  const carry = await directTpm(t, directory);
  const boots = new TrustedBoots({ clock, random, onChange: () => {} });
  const side = trustedSide(boots, {
    baselines: new Map(),
    tpm: {
      ...{ enrolments: new Enrolments(join(directory, 'rack')), enrolment: 'FirstUse', freshBytes: randomBytes },
      references: async () => [
        { values: { version: 1, name: 'trusted.efi', applications, initrd }, sha256: 'ab'.repeat(32) },
      ],
      now: () => '2026-01-01T00:00:00Z',
    },
  });
  const server = createServer((request, response) => {
    side.handle(request, response).catch(() => response.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const { bootId, script } = side.begin('n0', { server: address, control: '52:54:00:00:00:01' });
  const [, commandLine = ''] = /\/(trusted\.efi [^|]*) \|\|/.exec(script) ?? [];
  const events = bootEvents(commandLine);
  const room: Room = { side, carry, events, reset: () => resetTpm(directory, carry), replays: false };
  await measure(carry, events);
  let heard = '';
  const answered = answer(
    address,
    { bootId, token: / bitvisor\.token=([0-9a-f]+)/.exec(commandLine)?.[1] ?? '' },
    async (job) => {
      const command = Buffer.from(job.get('command') ?? '', 'hex');
      const isQuote = command.length > 10 && command.readUInt32BE(6) === quoteCommand;
      if (isQuote && room.replays) return [`response=${heard}`];
      const response = command.length === 0 ? '' : (await carry(command)).toString('hex');
      if (isQuote) heard = response;
      return (
        {
          tpm: [`response=${response}`],
          eventlog: [`log=${eventLog(events).toString('base64')}`],
          wipe: ['wiped=A'],
          check: ['cores=1', 'disk=vda 1048576 A'],
        }[job.get('kind') ?? ''] ?? []
      );
    },
  );
  t.after(async () => {
    side.end('n0');
    await answered;
    server.close();
  });
  while (!side.read('n0').up) await new Promise((resolve) => setImmediate(resolve));
  await side.attest('n0', 'nonce');
  await side.wipe('n0', 'Quick');
  const attestation = { method: 'Tpm', referenceSha256: 'ab'.repeat(32) };
  assert.deepEqual(side.read('n0'), { up: true, nonce: 'nonce', attestation, wiped: ['A'], checked: false });
  return room;
}

test('a machine that is still in the boot that was attested passes its check', swtpm, async (t) => {
  const { side } = await wipedMachine(t);
  await side.check('n0');
  assert.equal(side.read('n0').checked, true);
});

test('one that was reset since does not, whatever answers with its token', swtpm, async (t) => {
  const { side, carry, events, reset } = await wipedMachine(t);
  await reset();
  await assert.rejects(side.check('n0'), /started anew since it was attested.* does not count/);
  // Not even where all was measured once more as it was.
  await measure(carry, events);
  await assert.rejects(side.check('n0'), /started anew since it was attested/);
  assert.equal(side.read('n0').checked, false);
});

test('nor one that measured something since', swtpm, async (t) => {
  const { side, carry } = await wipedMachine(t);
  await measure(carry, [event(4, 0x8000_0003, 'path', 'boot loader of a disk')]);
  await assert.rejects(side.check('n0'), /something was measured since the machine was attested/);
  assert.equal(side.read('n0').checked, false);
});

test('nor one for which the quote of its attestation is given again', swtpm, async (t) => {
  const room = await wipedMachine(t);
  room.replays = true;
  await assert.rejects(room.side.check('n0'), /the quote is for another nonce/);
  assert.equal(room.side.read('n0').checked, false);
});

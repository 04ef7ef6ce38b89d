/**
 * Enrolment and quotes against a software TPM that is none of ours; tpm2-tools has a second look at what we call right.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Enrolment, enrol, gather, judge } from '../../agent/attestation/attest.ts';
import { attestationPublicKey } from '../../agent/attestation/keys.ts';
import type { Carrier } from '../../agent/attestation/tpm.ts';
import { algorithm, sized, u16, u32 } from '../../agent/attestation/tpm-bytes.ts';
import { machineOptions, ownDirectory } from '../lab/one-machine.ts';
import { directTpm, manufacture } from '../support/swtpm.ts';
import { bootEvents, eventLog, extendOf, policyOf, rom } from './boot.ts';

const tools = ['swtpm', 'swtpm_setup', 'tpm2_checkquote'] as const;

async function measured(carry: Carrier, events: ReturnType<typeof bootEvents>): Promise<void> {
  for (const event of events) {
    const response = await carry(extendOf(event));
    assert.equal(response.readUInt32BE(6), 0, 'the TPM takes the event');
  }
}

test(
  'a machine is enrolled by its certificate and a credential, and what it booted is judged',
  machineOptions(...tools),
  async (t) => {
    const directory = await ownDirectory(t);
    const manufacturers = manufacture(directory);
    const carry = await directTpm(t, directory);
    const enrolment = await enrol(carry, { freshBytes: randomBytes, manufacturers });
    assert.equal(enrolment.certificate, 'Verified');
    assert.deepEqual(
      { ...(await enrol(carry, { freshBytes: randomBytes })), certificate: 'Verified' },
      enrolment,
      'the same keys again',
    );

    await measured(carry, bootEvents());
    const nonce = randomBytes(16);
    const log = eventLog(bootEvents());
    const evidence = await gather(carry, async () => log, nonce);
    judge(evidence, enrolment, nonce, policyOf());

    const wrong: [string, () => void, RegExp][] = [
      ['another nonce', () => judge(evidence, enrolment, randomBytes(16), policyOf()), /another nonce/],
      [
        'a shorter log',
        () => judge({ ...evidence, eventLog: eventLog(bootEvents().slice(0, -1)) }, enrolment, nonce, policyOf()),
        /not what was measured/,
      ],
      [
        'a changed signature',
        () => judge({ ...evidence, signature: changed(evidence.signature) }, enrolment, nonce, policyOf()),
        /not signed/,
      ],
      [
        'a changed quote',
        () => judge({ ...evidence, attest: changed(evidence.attest) }, enrolment, nonce, policyOf()),
        /not signed/,
      ],
      [
        'a policy of another kernel',
        () => judge(evidence, enrolment, nonce, policyOf({ applications: [rom] })),
        /did not run in their order/,
      ],
    ];
    for (const [what, act, reason] of wrong) assert.throws(act, reason, what);

    // The same quote, checked by tpm2-tools.
    const key = attestationPublicKey(Buffer.from(enrolment.attestation, 'hex'));
    const file = (name: string, bytes: Buffer | string): string => {
      writeFileSync(join(directory, name), bytes);
      return join(directory, name);
    };
    execFileSync('tpm2_checkquote', [
      ...['-u', file('key.pem', key.export({ type: 'spki', format: 'pem' })), '-m', file('quote', evidence.attest)],
      ...['-s', file('signature', evidence.signature), '-g', 'sha256', '-q', nonce.toString('hex')],
    ]);
  },
);

const changed = (bytes: Buffer): Buffer => {
  const copy = Buffer.from(bytes);
  copy.writeUInt8(copy.readUInt8(copy.length - 1) ^ 1, copy.length - 1);
  return copy;
};

test('another TPM is another machine', machineOptions(...tools), async (t) => {
  const [mine, other] = [await ownDirectory(t), await ownDirectory(t)];
  const manufacturers = manufacture(mine);
  const foreign = manufacture(other);
  const [carry, otherCarry] = [await directTpm(t, mine), await directTpm(t, other)];
  const enrolment = await enrol(carry, { freshBytes: randomBytes, manufacturers });
  await assert.rejects(
    enrol(otherCarry, { freshBytes: randomBytes, manufacturers }),
    /no manufacturer that is trusted/,
  );
  await enrol(otherCarry, { freshBytes: randomBytes, manufacturers: foreign });

  await measured(otherCarry, bootEvents());
  const nonce = randomBytes(16);
  const evidence = await gather(otherCarry, async () => eventLog(bootEvents()), nonce);
  assert.throws(() => judge(evidence, enrolment, nonce, policyOf()), /not signed by the attestation key/);

  // A machine in the middle gives its own endorsement key, and another machine's attestation key.
  const mixed: Carrier = async (command) => {
    const isAttestationKey = command.readUInt32BE(6) === 0x131 && command.includes(Buffer.from('00050072', 'hex'));
    return isAttestationKey ? otherCarry(command) : carry(command);
  };
  await assert.rejects(enrol(mixed, { freshBytes: randomBytes }), /refused|not open/);
});

test('a key that signs whatever it is given is not taken', () => {
  const free = Buffer.concat([
    ...[u16(algorithm.ecc), u16(algorithm.sha256), u32(0x0004_0072), sized()],
    ...[u16(algorithm.nothing), u16(algorithm.ecdsa), u16(algorithm.sha256), u16(3), u16(algorithm.nothing)],
    ...[sized(Buffer.alloc(32, 1)), sized(Buffer.alloc(32, 2))],
  ]);
  assert.throws(() => attestationPublicKey(free), /not a restricted signing key/);
  const enrolment: Enrolment = { endorsement: '', attestation: free.toString('hex'), certificate: 'NotVerified' };
  const evidence = { attest: Buffer.alloc(0), signature: Buffer.alloc(0), eventLog: Buffer.alloc(0) };
  assert.throws(() => judge(evidence, enrolment, Buffer.alloc(16), policyOf()), /not a restricted signing key/);
});

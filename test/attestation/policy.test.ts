/**
 * Event logs as machines send them, also wrong ones on purpose, and what the policy says of them; the digest of PE files.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import fc from 'fast-check';
import { authenticodeDigest } from '../../agent/attestation/authenticode.ts';
import { readEventLog, replay } from '../../agent/attestation/event-log.ts';
import { attestationPublicKey, endorsementPublicKey, verifyQuote } from '../../agent/attestation/keys.ts';
import { type BootPolicy, policyFaults, quotedPcrs } from '../../agent/attestation/policy.ts';
import { bootEvents, event, eventLog, kernel, type Measured, policyOf, rom } from './boot.ts';

const faults = (events: readonly Measured[], policy: Partial<BootPolicy> = {}): string[] =>
  policyFaults(readEventLog(eventLog(events)), policyOf(policy));

test('a boot as it should be has no faults', () => {
  assert.deepEqual(faults(bootEvents()), []);
});

test('whatever else ran, or did not, is a fault', () => {
  const without = (wrong: (of: Measured) => boolean): Measured[] => bootEvents().filter((of) => !wrong(of));
  const before = (pcr: number, added: Measured): Measured[] => {
    const events = bootEvents();
    events.splice(
      events.findIndex((of) => of.pcr === pcr),
      0,
      added,
    );
    return events;
  };
  const cases: [string, Measured[], RegExp][] = [
    ['an application more', before(4, event(4, 0x8000_0003, 'path', 'implant')), /unknown ran .*PCR 4/],
    ['a driver more', before(2, event(2, 0x8000_0004, 'path', 'implant')), /unknown ran .*PCR 2/],
    ['an application after the kernel', [...bootEvents(), event(4, 0x8000_0003, 'path', 'implant')], /unknown ran/],
    ['a known application after the kernel', [...bootEvents(), event(4, 0x8000_0003, 'path', 'stub')], /order/],
    ['no kernel', without(({ digest }) => digest.toString('hex') === kernel), /order/],
    ['a separator that is none', before(4, event(4, 4, Buffer.alloc(4), 'implant')), /unknown ran/],
    ['an action with another digest', before(4, event(4, 0x8000_0007, 'Calling', 'implant')), /unknown ran/],
    ['two initramfs', [...bootEvents(), event(9, 6, 'Linux initrd', 'another')], /unknown \(PCR 9\)/],
    ['the initramfs twice', [...bootEvents(), event(9, 6, 'Linux initrd', 'initrd')], /initramfs is not/],
    ['none', without(({ data }) => data.toString() === 'Linux initrd'), /initramfs is not/],
    [
      'another command line',
      [...without(({ data }) => data.toString().startsWith('LOADED')), event(9, 6, 'x', 'y')],
      /command line/,
    ],
    ['another firmware', before(0, event(0, 0x8000_0008, 'x', 'implant')), /firmware is not/],
  ];
  for (const [what, events, reason] of cases) assert.match(faults(events).join('; '), reason, what);
  const { firmware: _, ...anyFirmware } = policyOf();
  const updated = readEventLog(eventLog(before(0, event(0, 0x8000_0008, 'x', 'new'))));
  assert.deepEqual(policyFaults(updated, anyFirmware), []);
  assert.match(faults(bootEvents(), { others: [] }).join(), new RegExp(rom));
});

test('the replay is what a TPM computes', () => {
  const extended = createHash('sha256')
    .update(Buffer.alloc(32))
    .update(createHash('sha256').update('a').digest())
    .digest();
  const log = readEventLog(eventLog([event(4, 0x8000_0003, 'a')]));
  assert.deepEqual(replay(log, [4]), createHash('sha256').update(extended).digest());
  const start = Buffer.concat([Buffer.from('StartupLocality\0', 'latin1'), Buffer.from([3])]);
  const atLocality3 = readEventLog(eventLog([event(0, 3, start, Buffer.alloc(32))]));
  const pcr0 = Buffer.alloc(32);
  pcr0.writeUInt8(3, 31);
  assert.deepEqual(replay(atLocality3, [0]), createHash('sha256').update(pcr0).digest());
});

test('no bytes of a machine do more than throw an Error', () => {
  const good = eventLog(bootEvents());
  for (let length = 0; length < good.length; length += 1) {
    try {
      // A log may end between two events: it is then another log, which does not replay to the quote.
      const { events } = readEventLog(good.subarray(0, length));
      assert.ok(events.length < bootEvents().length);
    } catch (error) {
      assert.ok(error instanceof Error);
    }
  }
  assert.throws(() => readEventLog(Buffer.alloc(1 << 20)), /too long/);
  const key = attestationPublicKey;
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), fc.nat(good.length - 1), fc.nat(255), (bytes, at, value) => {
      const changed = Buffer.from(good);
      changed.writeUInt8(value, at);
      for (const act of [
        () => readEventLog(changed),
        () => readEventLog(Buffer.from(bytes)),
        () => key(Buffer.from(bytes)),
        () => endorsementPublicKey(Buffer.from(bytes)),
        () => authenticodeDigest(Buffer.from(bytes)),
        () => authenticodeDigest(Buffer.concat([Buffer.from('MZ'), Buffer.from(bytes), Buffer.alloc(2000)])),
      ]) {
        try {
          act();
        } catch (error) {
          assert.ok(error instanceof Error);
        }
      }
      assert.throws(() =>
        verifyQuote(
          someKey,
          { attest: Buffer.from(bytes), signature: Buffer.from(bytes) },
          { nonce: Buffer.alloc(4), pcrs: quotedPcrs },
        ),
      );
    }),
    { numRuns: 300 },
  );
});

const someKey = endorsementPublicKey(
  Buffer.concat([
    Buffer.from('0001000b000300b20020', 'hex'),
    Buffer.alloc(32),
    Buffer.from('00060080004300100800000000000100', 'hex'),
    Buffer.alloc(256, 0xc1),
  ]),
);

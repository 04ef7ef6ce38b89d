/**
 * Attestation of a machine by its TPM: who it is (enrolment), and what it booted (a quote with a fresh nonce against a policy).
 *
 * Invariants:
 * 1. A machine is enrolled with an attestation key only after its TPM opened a credential made for its endorsement key: both keys
 *    are in one TPM. Whether that is a real TPM is what the manufacturer's certificate says; without trusted manufacturers the
 *    endorsement key is merely the one that was seen at the commissioning.
 * 2. A quote counts only under the enrolled key, with the nonce, and with an event log that replays to it.
 * 3. A machine still runs what it was attested to run only while its TPM has not started anew since and its PCRs are the same.
 */
import { createHash, timingSafeEqual, type X509Certificate } from 'node:crypto';
import { type EventLog, readEventLog, replay } from './event-log.ts';
import {
  attestationPublicKey,
  certificateFault,
  endorsementPublicKey,
  makeCredential,
  nameOf,
  type Quoted,
  verifyQuote,
} from './keys.ts';
import { type BootPolicy, policyFaults, quotedPcrs } from './policy.ts';
import { type Carrier, type LoadedKey, Tpm } from './tpm.ts';

/** What is kept of a machine, in hexadecimal: public keys, so no secret. */
export interface Enrolment {
  readonly endorsement: string;
  readonly attestation: string;
  readonly certificate: 'Verified' | 'NotVerified';
}

export interface EnrolOptions {
  /** Fresh random bytes, of the operating system. */
  readonly freshBytes: (length: number) => Buffer;
  /** Of TPM manufacturers; absent: the certificate is not looked at. */
  readonly manufacturers?: {
    readonly roots: readonly X509Certificate[];
    readonly intermediates: readonly X509Certificate[];
  };
}

/** Rejects with what is wrong. */
export async function enrol(carry: Carrier, options: EnrolOptions): Promise<Enrolment> {
  const tpm = new Tpm(carry);
  return withKeys(tpm, async (endorsement, attestation) => {
    const endorsementKey = endorsementPublicKey(endorsement.publicArea);
    attestationPublicKey(attestation.publicArea);
    if (options.manufacturers !== undefined) {
      const certificate = await tpm.endorsementCertificate();
      const fault =
        certificate === undefined
          ? 'the TPM has no endorsement certificate'
          : certificateFault(certificate, endorsementKey, options.manufacturers);
      if (fault !== undefined) throw new Error(fault);
    }
    const credential = options.freshBytes(32);
    const made = makeCredential(endorsementKey, nameOf(attestation.publicArea), {
      seed: options.freshBytes(32),
      credential,
    });
    const opened = await tpm.activateCredential({ attestation, endorsement }, made, options.freshBytes(16));
    if (opened.length !== credential.length || !timingSafeEqual(opened, credential)) {
      throw new Error('the TPM did not open the credential: the two keys are not in one TPM');
    }
    return {
      endorsement: endorsement.publicArea.toString('hex'),
      attestation: attestation.publicArea.toString('hex'),
      certificate: options.manufacturers === undefined ? 'NotVerified' : 'Verified',
    };
  });
}

async function withKeys<Value>(
  tpm: Tpm,
  use: (endorsement: LoadedKey, attestation: LoadedKey) => Promise<Value>,
): Promise<Value> {
  const endorsement = await tpm.endorsementKey();
  try {
    const attestation = await tpm.attestationKey();
    try {
      return await use(endorsement, attestation);
    } finally {
      await tpm.flush(attestation.handle);
    }
  } finally {
    await tpm.flush(endorsement.handle);
  }
}

export interface Evidence {
  readonly attest: Buffer;
  readonly signature: Buffer;
  readonly eventLog: Buffer;
}

/** Asks the machine for a quote and its event log. Rejects when the TPM refuses. */
export async function gather(carry: Carrier, eventLog: () => Promise<Buffer>, nonce: Buffer): Promise<Evidence> {
  return { ...(await gatherQuote(carry, nonce)), eventLog: await eventLog() };
}

/** Asks the machine for a quote alone. Rejects when the TPM refuses. */
export async function gatherQuote(carry: Carrier, nonce: Buffer): Promise<Pick<Evidence, 'attest' | 'signature'>> {
  const tpm = new Tpm(carry);
  const key = await tpm.attestationKey();
  try {
    return await tpm.quote(key, nonce, quotedPcrs);
  } finally {
    await tpm.flush(key.handle);
  }
}

/** A boot as its TPM signed it: what was measured, its digests true, and which start of the TPM that was. */
export interface VerifiedBoot {
  readonly log: EventLog;
  readonly quoted: Quoted;
}

/** @throws Error for people when the quote or the log is not right */
export function verifiedBoot(evidence: Evidence, enrolment: Enrolment, nonce: Buffer): VerifiedBoot {
  const quoted = quotedIn(evidence, enrolment, nonce);
  const log = readEventLog(evidence.eventLog);
  if (!replay(log, quotedPcrs).equals(quoted.pcrDigest)) throw new Error('the event log is not what was measured');
  return { log, quoted };
}

/** @throws Error for people when the quote is not right */
export function quotedIn(
  evidence: Pick<Evidence, 'attest' | 'signature'>,
  { attestation }: Pick<Enrolment, 'attestation'>,
  nonce: Buffer,
): Quoted {
  const key = attestationPublicKey(Buffer.from(attestation, 'hex'));
  return verifyQuote(key, evidence, { nonce, pcrs: quotedPcrs });
}

/**
 * Says why a later quote is not of the boot that the earlier one is of; nothing: it is. The TPM starts anew with the machine, also without a
 * loss of power. The clock tells of a TPM that was cleared, whose counters begin again.
 */
export function anotherBoot(earlier: Quoted, later: Quoted): string | undefined {
  const isSameStart = later.resets === earlier.resets && later.restarts === earlier.restarts;
  if (!isSameStart || later.clockMs < earlier.clockMs) return 'the machine started anew since it was attested';
  if (!later.pcrDigest.equals(earlier.pcrDigest)) return 'something was measured since the machine was attested';
  return undefined;
}

/** Judges what a machine gave. @throws Error for people that says what is wrong */
export function judge(evidence: Evidence, enrolment: Enrolment, nonce: Buffer, policy: BootPolicy): void {
  const faults = policyFaults(verifiedBoot(evidence, enrolment, nonce).log, policy);
  if (faults.length > 0) throw new Error(faults.join('; '));
}

/** SHA-256 of the endorsement key as SubjectPublicKeyInfo in DER, hexadecimal: what a maker's delivery list names a TPM by. */
export function endorsementFingerprint({ endorsement }: Pick<Enrolment, 'endorsement'>): string {
  const key = endorsementPublicKey(Buffer.from(endorsement, 'hex'));
  return createHash('sha256')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest('hex');
}

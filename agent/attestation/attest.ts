/**
 * Attestation of a machine by its TPM: who it is (enrolment), and what it booted (a quote with a fresh nonce against a policy).
 *
 * Invariants:
 * 1. A machine is enrolled with an attestation key only after its TPM opened a credential made for its endorsement key: both keys
 *    are in one TPM. Whether that is a real TPM is what the manufacturer's certificate says; without trusted manufacturers the
 *    endorsement key is merely the one that was seen at the commissioning.
 * 2. A quote counts only under the enrolled key, with the nonce, and with an event log that replays to it.
 */
import { createHash, timingSafeEqual, type X509Certificate } from 'node:crypto';
import { type EventLog, readEventLog, replay } from './event-log.ts';
import {
  attestationPublicKey,
  certificateFault,
  endorsementPublicKey,
  makeCredential,
  nameOf,
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
  const tpm = new Tpm(carry);
  const key = await tpm.attestationKey();
  try {
    const quote = await tpm.quote(key, nonce, quotedPcrs);
    return { ...quote, eventLog: await eventLog() };
  } finally {
    await tpm.flush(key.handle);
  }
}

/** The log of what was measured, its digests true. @throws Error for people when the quote or the log is not right */
export function verifiedLog(evidence: Evidence, enrolment: Enrolment, nonce: Buffer): EventLog {
  const key = attestationPublicKey(Buffer.from(enrolment.attestation, 'hex'));
  const quoted = verifyQuote(key, evidence, { nonce, pcrs: quotedPcrs });
  const log = readEventLog(evidence.eventLog);
  if (!replay(log, quotedPcrs).equals(quoted)) throw new Error('the event log is not what was measured');
  return log;
}

/** Judges what a machine gave. @throws Error for people that says what is wrong */
export function judge(evidence: Evidence, enrolment: Enrolment, nonce: Buffer, policy: BootPolicy): void {
  const faults = policyFaults(verifiedLog(evidence, enrolment, nonce), policy);
  if (faults.length > 0) throw new Error(faults.join('; '));
}

/** SHA-256 of the endorsement key as SubjectPublicKeyInfo in DER, hexadecimal: what a maker's delivery list names a TPM by. */
export function endorsementFingerprint({ endorsement }: Pick<Enrolment, 'endorsement'>): string {
  const key = endorsementPublicKey(Buffer.from(endorsement, 'hex'));
  return createHash('sha256')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest('hex');
}

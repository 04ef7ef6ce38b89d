/**
 * Attestation of a trusted boot by the machine's TPM, carried by the trusted image.
 *
 * Invariants:
 * 1. A nonce is noted as attested only after the machine's quote and event log were judged right under its enrolment.
 * 2. A node is enrolled only in a boot that is itself judged right, so that an image that is not ours enrols nobody; what is taken from the
 *    machine then is which TPM it has, and which firmware and option ROMs.
 * 3. Evidence of one boot never counts for another: the command line that was measured holds the token of the boot that is then noted.
 * 4. The quote is for fresh bytes of the agent's own besides the nonce: one that was given before is never right again.
 * 5. Its token alone does not make a boot the attested one: it stays in memory, and a machine that is reset into another system may find it there.
 *    What was done in an attested boot counts only with a second quote, of the same start of the TPM and the same PCRs.
 */
import { createHash } from 'node:crypto';
import {
  anotherBoot,
  type Enrolment,
  type EnrolOptions,
  endorsementFingerprint,
  enrol,
  gather,
  gatherQuote,
  quotedIn,
  type VerifiedBoot,
  verifiedBoot,
} from '../../attestation/attest.ts';
import type { EventLog } from '../../attestation/event-log.ts';
import type { Quoted } from '../../attestation/keys.ts';
import { type BootPolicy, notableEvents, policyFaults } from '../../attestation/policy.ts';
import type { ReferenceValues } from '../../attestation/reference.ts';
import type { Enrolments, KeptEnrolment } from './enrolments.ts';
import type { TrustedBoots } from './trusted.ts';

/** What is asked of the rack's side of the trusted image. */
type Carriers = Pick<TrustedBoots, 'tpm' | 'eventLog' | 'facts' | 'attested'>;

/** Reference values as a file holds them. */
export interface ReferenceFile {
  readonly values: ReferenceValues;
  /** Of the file, hexadecimal. */
  readonly sha256: string;
}

export interface TpmAttestationOptions extends EnrolOptions {
  readonly enrolments: Enrolments;
  /** Command: a node is enrolled where a person permitted it. FirstUse: also one that never was, at its first trusted boot. */
  readonly enrolment: 'Command' | 'FirstUse';
  /** Of the images that are trusted now, the one that is served first. Rejects when they cannot be read. */
  readonly references: () => Promise<readonly ReferenceFile[]>;
  /** ISO 8601. */
  readonly now: () => string;
}

/** What a boot in this log may hold. */
function policyFor(
  { applications, initrd }: ReferenceValues,
  commandLine: string,
  { firmware, others }: Pick<KeptEnrolment, 'firmware' | 'others'>,
): BootPolicy {
  return { applications, initrd, commandLine, firmware, others };
}

/** @returns the first that it meets. @throws Error for people with what differs from the image that it differs least from */
function judgeBoot(
  log: EventLog,
  references: readonly ReferenceFile[],
  commandLine: string,
  machine: Pick<KeptEnrolment, 'firmware' | 'others'>,
): ReferenceFile {
  const judged = references.map((reference) => ({
    ...{ reference, name: reference.values.name },
    faults: policyFaults(log, policyFor(reference.values, commandLine, machine)),
  }));
  const [nearest] = judged.sort((a, b) => a.faults.length - b.faults.length);
  if (nearest === undefined) throw new Error('no reference values of a trusted image are there');
  if (nearest.faults.length === 0) return nearest.reference;
  throw new Error(`what was measured is not the trusted image ${nearest.name}: ${nearest.faults.join('; ')}`);
}

/** Enrols the TPM, in a boot that is right by everything but the firmware and option ROMs that it has. */
async function enrolNow(
  boots: Carriers,
  node: string,
  commandLine: string,
  options: TpmAttestationOptions,
): Promise<KeptEnrolment> {
  const permission = options.enrolments.permission(node);
  const found: Enrolment = await enrol((command) => boots.tpm(node, command), options);
  const fingerprint = endorsementFingerprint(found);
  if (permission?.endorsement !== undefined && permission.endorsement !== fingerprint)
    throw new Error(`the TPM has the endorsement key ${fingerprint}, and ${permission.endorsement} was permitted`);
  const { log } = await quotedBoot(boots, node, found, options.freshBytes(32));
  const digests = (pcr: number): string[] => [
    ...new Set(notableEvents(log, pcr).map(({ digest }) => digest.toString('hex'))),
  ];
  const kept = { ...found, at: options.now(), firmware: digests(0), others: digests(2) };
  judgeBoot(log, await options.references(), commandLine, kept);
  return kept;
}

async function quotedBoot(boots: Carriers, node: string, enrolment: Enrolment, fresh: Buffer): Promise<VerifiedBoot> {
  const evidence = await gather(
    (command) => boots.tpm(node, command),
    () => boots.eventLog(node),
    fresh,
  );
  return verifiedBoot(evidence, enrolment, fresh);
}

function enrolmentOf(node: string, { enrolments, enrolment }: TpmAttestationOptions): KeptEnrolment | undefined {
  const kept = enrolments.read(node);
  if (enrolments.permission(node) !== undefined) return undefined;
  if (kept !== undefined) return kept;
  if (enrolment === 'FirstUse') return undefined;
  throw new Error(
    `the TPM of ${node} is not enrolled: look at the machine, then run "bitvisor-operator agent enrol --config FILE ${node}"`,
  );
}

/** With fresh bytes of the agent's own: whoever knows the nonce has nothing to prepare. */
const qualifying = (nonce: string, { freshBytes }: Pick<TpmAttestationOptions, 'freshBytes'>): Buffer =>
  createHash('sha256').update(nonce).update(freshBytes(32)).digest();

/**
 * @param bootId and commandLine of this boot, the latter as its kernel was given it
 * @returns what the TPM said: `stillAttested` compares with it. Rejects with what is wrong; the boot is then not attested
 */
export async function attestByTpm(
  boots: Carriers,
  node: string,
  { nonce, bootId, commandLine }: { readonly nonce: string; readonly bootId: string; readonly commandLine: string },
  options: TpmAttestationOptions,
): Promise<Quoted> {
  if (boots.facts(node)?.hasTpm !== true)
    throw new Error(
      'the machine has no TPM 2.0 that its kernel sees: switch it on in the firmware, or attest by token',
    );
  const kept = enrolmentOf(node, options);
  if (kept === undefined) options.enrolments.keep(node, await enrolNow(boots, node, commandLine, options));
  const enrolment = kept ?? options.enrolments.read(node);
  if (enrolment === undefined) throw new Error('the enrolment was not kept');
  const { log, quoted } = await quotedBoot(boots, node, enrolment, qualifying(nonce, options));
  const { sha256 } = judgeBoot(log, await options.references(), commandLine, enrolment);
  boots.attested(node, { nonce, bootId, attestation: { method: 'Tpm', referenceSha256: sha256 } });
  return quoted;
}

/** @param attested what the TPM said when the boot was attested with the nonce. Rejects when the machine is not in that boot any more */
export async function stillAttested(
  boots: Pick<Carriers, 'tpm'>,
  node: string,
  { nonce, attested }: { readonly nonce: string; readonly attested: Quoted },
  options: Pick<TpmAttestationOptions, 'enrolments' | 'freshBytes'>,
): Promise<void> {
  const enrolment = options.enrolments.read(node);
  if (enrolment === undefined) throw new Error(`the TPM of ${node} is not enrolled any more`);
  const fresh = qualifying(nonce, options);
  const quote = await gatherQuote((command) => boots.tpm(node, command), fresh);
  const fault = anotherBoot(attested, quotedIn(quote, enrolment, fresh));
  if (fault !== undefined) throw new Error(`${fault}: what it reported as wiped and checked does not count`);
}

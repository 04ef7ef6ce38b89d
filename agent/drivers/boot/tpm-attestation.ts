/**
 * Attestation of a trusted boot by the machine's TPM, carried by the trusted image.
 *
 * Invariant: a nonce is noted as attested only after the machine's quote and event log were judged right under its enrolment.
 */
import { createHash } from 'node:crypto';
import { type Enrolment, type EnrolOptions, enrol, gather, judge } from '../../attestation/attest.ts';
import type { BootPolicy } from '../../attestation/policy.ts';
import type { TrustedBoots } from './trusted.ts';

/** At the commissioning of the node, in a trusted boot. Rejects with what is wrong. */
export function enrolNode(boots: TrustedBoots, node: string, options: EnrolOptions): Promise<Enrolment> {
  return enrol((command) => boots.tpm(node, command), options);
}

/** @param nonce any text; its SHA-256 is what the TPM signs. Rejects with what is wrong; the boot is then not attested. */
export async function attestByTpm(
  boots: TrustedBoots,
  node: string,
  { nonce, enrolment, policy }: { nonce: string; enrolment: Enrolment; policy: BootPolicy },
): Promise<void> {
  const qualifying = createHash('sha256').update(nonce).digest();
  const evidence = await gather(
    (command) => boots.tpm(node, command),
    () => boots.eventLog(node),
    qualifying,
  );
  judge(evidence, enrolment, qualifying, policy);
  boots.attested(node, nonce);
}

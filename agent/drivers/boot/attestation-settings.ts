/**
 * How the trusted boots of a rack are attested, as its configuration says: by token alone, or by TPM. docs/attestation.md.
 *
 * Invariants:
 * 1. What is asked for and cannot be had (an image without reference values, a file that cannot be read) stops the start, by name.
 * 2. Reference values are read anew for each attestation, so that an image is rotated without a restart.
 */
import { createHash, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { Clock } from '../../../controller/runtime/clock.ts';
import type { Random } from '../../../controller/runtime/random.ts';
import { parseReference, referenceSuffix } from '../../attestation/reference.ts';
import { Enrolments } from './enrolments.ts';
import type { ReferenceFile, TpmAttestationOptions } from './tpm-attestation.ts';
import type { TrustedImage } from './trusted-boot.ts';

export interface AttestationSettings {
  readonly method: 'Tpm';
  /** Command when absent. */
  readonly enrolment?: 'Command' | 'FirstUse';
  /** Files of reference values that are right as well as the one beside the image that is served. */
  readonly references?: readonly string[];
  /** PEM files with certificates of TPM manufacturers; absent: endorsement certificates are not looked at. */
  readonly manufacturers?: readonly string[];
}

const path = { type: 'string', minLength: 1, maxLength: 4096 };
const paths = { type: 'array', minItems: 1, maxItems: 64, items: path };

/**
 * What an agent says of itself, and people read in its status: by what a machine proves which system it booted.
 * @param method absent: by the token of the boot alone, which whatever the machine booted can have read
 */
export const attestationCapability = (method: AttestationSettings['method'] | undefined): string =>
  `attestation:${method ?? 'Token'}`;

/** JSON schema of the section. */
export const attestationSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['method'],
  properties: {
    method: { enum: ['Tpm'] },
    enrolment: { enum: ['Command', 'FirstUse'] },
    references: paths,
    manufacturers: paths,
  },
};

export function withAttestationPaths(settings: AttestationSettings, at: (path: string) => string): AttestationSettings {
  const { references, manufacturers } = settings;
  return {
    ...settings,
    ...(references === undefined ? {} : { references: references.map(at) }),
    ...(manufacturers === undefined ? {} : { manufacturers: manufacturers.map(at) }),
  };
}

function named<Value>(file: string, work: () => Value): Value {
  try {
    return work();
  } catch (error) {
    throw new Error(`attestation: ${file}: ${(error as Error).message}`);
  }
}

function certificatesIn(file: string): X509Certificate[] {
  return named(file, () => {
    const found = readFileSync(file, 'utf8').match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
    if (found.length === 0) throw new Error('no certificate is in it');
    return found.map((pem) => new X509Certificate(pem));
  });
}

/** Fresh bytes of an identifier's source; at most 32. */
const freshBytesOf =
  (random: Random) =>
  (length: number): Buffer =>
    createHash('sha256').update(random.uuid()).update(random.uuid()).digest().subarray(0, length);

/** @param directory of the rack. @throws Error for people that names the file */
export function openTpmAttestation(
  settings: AttestationSettings,
  image: TrustedImage,
  { directory, clock, random }: { readonly directory: string; readonly clock: Clock; readonly random: Random },
): TpmAttestationOptions {
  if (image.unified === undefined)
    throw new Error('attestation by TPM needs the trusted image in one file: give trusted.unified');
  const files = [`${image.unified}${referenceSuffix}`, ...(settings.references ?? [])];
  for (const file of files) named(file, () => parseReference(readFileSync(file, 'utf8')));
  const certificates = (settings.manufacturers ?? []).flatMap(certificatesIn);
  const isRoot = (certificate: X509Certificate): boolean => certificate.checkIssued(certificate);
  return {
    enrolments: new Enrolments(directory),
    enrolment: settings.enrolment ?? 'Command',
    references: () => Promise.all(files.map(readReference)),
    now: () => new Date(clock.now()).toISOString(),
    freshBytes: freshBytesOf(random),
    ...(settings.manufacturers === undefined
      ? {}
      : {
          manufacturers: {
            roots: certificates.filter(isRoot),
            intermediates: certificates.filter((certificate) => !isRoot(certificate)),
          },
        }),
  };
}

async function readReference(file: string): Promise<ReferenceFile> {
  try {
    const content = await readFile(file);
    const sha256 = createHash('sha256').update(content).digest('hex');
    return { values: parseReference(content.toString('utf8')), sha256 };
  } catch (error) {
    throw new Error(`reference values ${file}: ${(error as Error).message}`);
  }
}

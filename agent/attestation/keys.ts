/**
 * Public keys of a TPM, and what they prove: signatures over what the TPM says of itself, and credentials that only it can open.
 *
 * Invariants:
 * 1. Only the two kinds of key that tpm.ts makes are taken, with all their attributes: an attestation key that is not restricted
 *    would sign a forged quote.
 * 2. A quote counts only with the TPM's own mark, the nonce that was asked for, and the selection of PCRs that was asked for.
 */
import {
  constants,
  createCipheriv,
  createHash,
  createHmac,
  createPublicKey,
  type KeyObject,
  publicEncrypt,
  verify,
  X509Certificate,
} from 'node:crypto';
import { algorithm, sized, TpmReader, u16, u32 } from './tpm-bytes.ts';

const base64url = (bytes: Buffer): string => bytes.toString('base64url');

/** The TPM's name of a key. */
export const nameOf = (publicArea: Buffer): Buffer =>
  Buffer.concat([u16(algorithm.sha256), createHash('sha256').update(publicArea).digest()]);

/** @throws when the TPMT_PUBLIC is not that of a restricted ECDSA P-256 signing key of the TPM itself */
export function attestationPublicKey(publicArea: Buffer): KeyObject {
  const reader = new TpmReader(publicArea);
  const form = [reader.u16(), reader.u16(), reader.u32()];
  if (form.join() !== [algorithm.ecc, algorithm.sha256, 0x0005_0072].join() || reader.sized().length !== 0) {
    throw new Error('the attestation key is not a restricted signing key');
  }
  const scheme = [reader.u16(), reader.u16(), reader.u16(), reader.u16(), reader.u16()];
  const wanted = [algorithm.nothing, algorithm.ecdsa, algorithm.sha256, 3, algorithm.nothing];
  if (scheme.join() !== wanted.join()) throw new Error('the attestation key does not sign by ECDSA on P-256');
  const x = padded(reader.sized());
  const y = padded(reader.sized());
  if (!reader.isAtEnd) throw new Error('the attestation key has something behind its end');
  return createPublicKey({ key: { kty: 'EC', crv: 'P-256', x: base64url(x), y: base64url(y) }, format: 'jwk' });
}

/** @throws when the TPMT_PUBLIC is not that of the default RSA 2048 endorsement key */
export function endorsementPublicKey(publicArea: Buffer): KeyObject {
  const reader = new TpmReader(publicArea);
  const form = [reader.u16(), reader.u16(), reader.u32()];
  if (form.join() !== [algorithm.rsa, algorithm.sha256, 0x0003_00b2].join()) {
    throw new Error('the endorsement key is not the default one');
  }
  reader.sized();
  reader.take(14);
  const modulus = reader.sized();
  if (modulus.length !== 256 || !reader.isAtEnd) throw new Error('the endorsement key has not 2048 bits');
  return createPublicKey({ key: { kty: 'RSA', n: base64url(modulus), e: 'AQAB' }, format: 'jwk' });
}

function padded(number: Buffer): Buffer {
  if (number.length > 32) throw new Error('a number of P-256 is too long');
  return Buffer.concat([Buffer.alloc(32 - number.length), number]);
}

/** Says what is wrong with a manufacturer's certificate of this endorsement key, or nothing. Self-signed roots only of `roots`. */
export function certificateFault(
  certificate: Buffer,
  endorsement: KeyObject,
  { intermediates, roots }: { intermediates: readonly X509Certificate[]; roots: readonly X509Certificate[] },
): string | undefined {
  let link: X509Certificate;
  try {
    link = new X509Certificate(certificate);
  } catch {
    return 'the endorsement certificate cannot be read';
  }
  if (!link.publicKey.equals(endorsement)) return 'the endorsement certificate is that of another key';
  for (let depth = 0; depth < 5; depth += 1) {
    const current = link;
    const isIssuer = (issuer: X509Certificate): boolean =>
      issuer.ca && current.checkIssued(issuer) && current.verify(issuer.publicKey);
    if (roots.some(isIssuer)) return undefined;
    const next = intermediates.find((issuer) => isIssuer(issuer) && issuer.fingerprint256 !== current.fingerprint256);
    if (next === undefined) return 'the endorsement certificate leads to no manufacturer that is trusted';
    link = next;
  }
  return 'the endorsement certificate has too long a chain';
}

/** KDFa of the TPM specification, part 1: counter mode, one block of SHA-256. */
function kdf(key: Buffer, label: string, context: Buffer, bits: number): Buffer {
  const input = Buffer.concat([u32(1), Buffer.from(`${label}\0`, 'latin1'), context, u32(bits)]);
  return createHmac('sha256', key)
    .update(input)
    .digest()
    .subarray(0, bits / 8);
}

/**
 * TPM2_MakeCredential, outside of a TPM: a secret that only the TPM with this endorsement key gives out, and only while it holds
 * the key of this name.
 * @param seed 32 fresh random bytes
 * @param credential at most 32 bytes
 */
export function makeCredential(
  endorsement: KeyObject,
  name: Buffer,
  { seed, credential }: { seed: Buffer; credential: Buffer },
): { blob: Buffer; secret: Buffer } {
  const secret = publicEncrypt(
    {
      key: endorsement,
      padding: constants.RSA_PKCS1_OAEP_PADDING,
      oaepHash: 'sha256',
      oaepLabel: Buffer.from('IDENTITY\0', 'latin1'),
    },
    seed,
  );
  const cipher = createCipheriv('aes-128-cfb', kdf(seed, 'STORAGE', name, 128), Buffer.alloc(16));
  const hidden = Buffer.concat([cipher.update(sized(credential)), cipher.final()]);
  const integrity = createHmac('sha256', kdf(seed, 'INTEGRITY', Buffer.alloc(0), 256));
  return { blob: Buffer.concat([sized(integrity.update(hidden).update(name).digest()), hidden]), secret };
}

/** What a TPM signs of itself in a quote. */
export interface Quoted {
  /** SHA-256 over the quoted PCRs. */
  readonly pcrDigest: Buffer;
  /** Milliseconds that the TPM was powered since it was cleared. */
  readonly clockMs: bigint;
  /** Starts from nothing (TPM Reset) since it was cleared. */
  readonly resets: number;
  /** Starts from a kept state (TPM Restart, TPM Resume) since the last reset. */
  readonly restarts: number;
}

/** Verifies a quote and gives what it says. @throws Error that says what is wrong */
export function verifyQuote(
  key: KeyObject,
  { attest, signature }: { attest: Buffer; signature: Buffer },
  { nonce, pcrs }: { nonce: Buffer; pcrs: readonly number[] },
): Quoted {
  const signed = new TpmReader(signature);
  if (signed.u16() !== algorithm.ecdsa || signed.u16() !== algorithm.sha256)
    throw new Error('not a signature by ECDSA');
  const raw = Buffer.concat([padded(signed.sized()), padded(signed.sized())]);
  if (!verify('sha256', attest, { key, dsaEncoding: 'ieee-p1363' }, raw)) {
    throw new Error('the quote is not signed by the attestation key that was enrolled: another TPM, or a cleared one');
  }
  const reader = new TpmReader(attest);
  if (reader.u32() !== 0xff54_4347) throw new Error('the quote has not the mark of a TPM');
  if (reader.u16() !== 0x8018) throw new Error('what was signed is no quote');
  reader.sized();
  if (!reader.sized().equals(nonce)) throw new Error('the quote is for another nonce');
  const [clockMs, resets, restarts] = [reader.take(8).readBigUInt64BE(), reader.u32(), reader.u32()];
  // Whether the clock is safe; firmware version.
  reader.take(9);
  const selection = new TpmReader(Buffer.concat([u32(reader.u32()), reader.take(6)]));
  if (selection.u32() !== 1 || selection.u16() !== algorithm.sha256 || selection.u8() !== 3) {
    throw new Error('the quote is not of the SHA-256 bank alone');
  }
  const bitmap = selection.take(3).readUIntLE(0, 3);
  if (bitmap !== pcrs.reduce((all, pcr) => all | (1 << pcr), 0)) throw new Error('the quote is of other PCRs');
  const pcrDigest = reader.sized();
  if (!reader.isAtEnd || pcrDigest.length !== 32) throw new Error('the quote has not the form that it should have');
  return { pcrDigest, clockMs, resets, restarts };
}

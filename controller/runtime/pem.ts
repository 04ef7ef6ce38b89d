/**
 * Certificates as PEM text, looked at before they are put to use: OpenSSL takes a CA file of rubbish for one that trusts nobody.
 */
import { X509Certificate } from 'node:crypto';

const block = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g;

/** The certificates in a text, in their order. @throws Error when there is none, or one cannot be read */
export function certificatesIn(pem: string): X509Certificate[] {
  const blocks = pem.match(block) ?? [];
  if (blocks.length === 0) throw new Error('it holds no certificate in PEM');
  return blocks.map((text) => new X509Certificate(text));
}

/** When the first certificate of a text ends, in epoch milliseconds. @throws as `certificatesIn` */
export function certificateEndOf(pem: string): number {
  const [leaf] = certificatesIn(pem);
  return Date.parse(leaf?.validTo ?? '');
}

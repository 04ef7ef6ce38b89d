/** A certificate authority for tests: small, in memory, gone with the process. */
import 'reflect-metadata';
import { generateKeyPairSync, webcrypto } from 'node:crypto';
import * as x509 from '@peculiar/x509';

x509.cryptoProvider.set(webcrypto as unknown as Parameters<typeof x509.cryptoProvider.set>[0]);

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const hour = 3_600_000;

export interface TestIdentity {
  readonly certPem: string;
  readonly keyPem: string;
}

export interface TestCa {
  readonly caPem: string;
  /** A certificate with this common name, good as server for `dnsNames` and as client; for an hour, or for so many milliseconds. */
  issue(commonName: string, dnsNames?: readonly string[], validMs?: number): Promise<TestIdentity>;
}

async function newKeys(): Promise<{ keys: webcrypto.CryptoKeyPair; keyPem: string }> {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const pkcs8 = privateKey.export({ type: 'pkcs8', format: 'der' });
  const spki = publicKey.export({ type: 'spki', format: 'der' });
  const keys = {
    privateKey: await webcrypto.subtle.importKey('pkcs8', pkcs8, algorithm, true, ['sign']),
    publicKey: await webcrypto.subtle.importKey('spki', spki, algorithm, true, ['verify']),
  } as webcrypto.CryptoKeyPair;
  return { keys, keyPem: String(privateKey.export({ type: 'pkcs8', format: 'pem' })) };
}

export async function makeTestCa(commonName = 'test CA'): Promise<TestCa> {
  const { keys } = await newKeys();
  const notBefore = new Date(Date.now() - hour);
  const notAfter = new Date(Date.now() + hour);
  const ca = await x509.X509CertificateGenerator.createSelfSigned({
    name: `CN=${commonName}`,
    notBefore,
    notAfter,
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign, true),
    ],
  });
  return {
    caPem: ca.toString('pem'),
    async issue(subject, dnsNames = [], validMs = hour) {
      const leaf = await newKeys();
      const certificate = await x509.X509CertificateGenerator.create({
        subject: `CN=${subject}`,
        issuer: ca.subject,
        notBefore,
        notAfter: new Date(Date.now() + validMs),
        signingAlgorithm: algorithm,
        publicKey: leaf.keys.publicKey,
        signingKey: keys.privateKey,
        extensions: [
          new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
          ...(dnsNames.length === 0
            ? []
            : [new x509.SubjectAlternativeNameExtension(dnsNames.map((value) => ({ type: 'dns' as const, value })))]),
        ],
      });
      return { certPem: certificate.toString('pem'), keyPem: leaf.keyPem };
    },
  };
}

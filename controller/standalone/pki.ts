/**
 * The server's own certificate authority: identity of the server to its clients, and of clients to the server.
 *
 * Invariants:
 * 1. Private keys are files that only their owner can read (0600), written whole or not at all.
 * 2. Leaf certificates are issued anew before they run out; the authority lives ten years and is kept, since kubeconfigs name it.
 */
import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { join } from 'node:path';
import * as x509 from '@peculiar/x509';
import type { Clock } from '../runtime/clock.ts';

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
const dayMs = 86_400_000;
const authorityDays = 3650;
const leafDays = 365;
/** A leaf with less than this left is issued anew, at a start or by `keepRenewed`. */
const renewBeforeDays = 30;
/** Clocks of clients may be behind by this much. */
const backdateMs = 5 * 60_000;

export interface KeyAndCertificate {
  readonly keyPem: string;
  readonly certificatePem: string;
}

/** Writes a file that only its owner can read, so that a crash leaves the old one or the new one. */
export function writePrivateFile(path: string, text: string): void {
  const temporary = `${path}.new`;
  writeFileSync(temporary, text, { mode: 0o600 });
  chmodSync(temporary, 0o600);
  renameSync(temporary, path);
}

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  const pkcs8 = await webcrypto.subtle.exportKey('pkcs8', key);
  return x509.PemConverter.encode(pkcs8, 'PRIVATE KEY');
}

function importKey(pem: string): Promise<webcrypto.CryptoKey> {
  const [pkcs8] = x509.PemConverter.decode(pem);
  if (pkcs8 === undefined) throw new Error('the key file holds no key');
  return webcrypto.subtle.importKey('pkcs8', pkcs8, algorithm, false, ['sign']);
}

function serialNumber(): string {
  const bytes = webcrypto.getRandomValues(new Uint8Array(16));
  bytes[0] = (bytes[0] ?? 0) & 0x7f; // Positive, as RFC 5280 asks.
  return Buffer.from(bytes).toString('hex');
}

interface LeafRequest {
  readonly commonName: string;
  readonly organizations: readonly string[];
  /** DNS names and IP addresses; none for a client. */
  readonly hosts: readonly string[];
}

export class CertificateAuthority {
  readonly caPem: string;
  readonly #certificate: x509.X509Certificate;
  readonly #key: webcrypto.CryptoKey;
  readonly #directory: string;
  readonly #clock: Clock;

  private constructor(directory: string, clock: Clock, certificate: x509.X509Certificate, key: webcrypto.CryptoKey) {
    this.#directory = directory;
    this.#clock = clock;
    this.#certificate = certificate;
    this.#key = key;
    this.caPem = certificate.toString('pem');
  }

  /** Opens the authority kept in a directory, or founds one there. @throws Error when its files are unreadable. */
  static async open(directory: string, clock: Clock): Promise<CertificateAuthority> {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    const keyPath = join(directory, 'ca.key');
    const certificatePath = join(directory, 'ca.crt');
    if (existsSync(keyPath) && existsSync(certificatePath)) {
      const key = await importKey(readFileSync(keyPath, 'utf8'));
      return new CertificateAuthority(
        directory,
        clock,
        new x509.X509Certificate(readFileSync(certificatePath, 'utf8')),
        key,
      );
    }
    const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
    const certificate = await x509.X509CertificateGenerator.createSelfSigned({
      serialNumber: serialNumber(),
      name: [{ CN: ['bitvisor-operator standalone authority'] }],
      notBefore: new Date(clock.now() - backdateMs),
      notAfter: new Date(clock.now() + authorityDays * dayMs),
      keys,
      signingAlgorithm: algorithm,
      extensions: [
        new x509.BasicConstraintsExtension(true, 0, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    });
    writePrivateFile(keyPath, await exportKey(keys.privateKey));
    writePrivateFile(certificatePath, certificate.toString('pem'));
    return new CertificateAuthority(directory, clock, certificate, keys.privateKey);
  }

  async #issue(request: LeafRequest): Promise<KeyAndCertificate> {
    const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
    const forServer = request.hosts.length > 0;
    const usage = forServer ? x509.ExtendedKeyUsage.serverAuth : x509.ExtendedKeyUsage.clientAuth;
    const names = request.hosts.map((host) => ({
      type: isIP(host) === 0 ? ('dns' as const) : ('ip' as const),
      value: host,
    }));
    const certificate = await x509.X509CertificateGenerator.create({
      serialNumber: serialNumber(),
      subject: [...request.organizations.map((organization) => ({ O: [organization] })), { CN: [request.commonName] }],
      issuer: this.#certificate.subjectName,
      notBefore: new Date(this.#clock.now() - backdateMs),
      notAfter: new Date(this.#clock.now() + leafDays * dayMs),
      publicKey: keys.publicKey,
      signingKey: this.#key,
      signingAlgorithm: algorithm,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([usage]),
        await x509.AuthorityKeyIdentifierExtension.create(this.#certificate.publicKey),
        ...(forServer ? [new x509.SubjectAlternativeNameExtension(names)] : []),
      ],
    });
    return { keyPem: await exportKey(keys.privateKey), certificatePem: certificate.toString('pem') };
  }

  /** The kept leaf of this file name, or a new one when it is missing, old, or for other hosts. */
  async #kept(file: string, request: LeafRequest): Promise<KeyAndCertificate> {
    const keyPath = join(this.#directory, `${file}.key`);
    const certificatePath = join(this.#directory, `${file}.crt`);
    if (existsSync(keyPath) && existsSync(certificatePath)) {
      const certificatePem = readFileSync(certificatePath, 'utf8');
      const certificate = new x509.X509Certificate(certificatePem);
      const fresh = certificate.notAfter.getTime() - this.#clock.now() > renewBeforeDays * dayMs;
      const names =
        certificate.getExtension(x509.SubjectAlternativeNameExtension)?.names.items.map((name) => name.value) ?? [];
      if (fresh && request.hosts.every((host) => names.includes(host))) {
        return { keyPem: readFileSync(keyPath, 'utf8'), certificatePem };
      }
    }
    const issued = await this.#issue(request);
    writePrivateFile(keyPath, issued.keyPem);
    writePrivateFile(certificatePath, issued.certificatePem);
    return issued;
  }

  serverCertificate(hosts: readonly string[]): Promise<KeyAndCertificate> {
    return this.#kept('server', { commonName: 'bitvisor-operator standalone', organizations: [], hosts });
  }

  adminCertificate(): Promise<KeyAndCertificate> {
    return this.#kept('admin', { commonName: 'admin', organizations: ['system:masters'], hosts: [] });
  }

  /** A kept leaf for another server (an agent), reached by its name; the files are `server-NAME.crt` and `server-NAME.key`. */
  namedServerCertificate(name: string): Promise<KeyAndCertificate> {
    return this.#kept(`server-${name}`, { commonName: name, organizations: [], hosts: [name] });
  }

  /** A kept leaf for a client; the files are `client-NAME.crt` and `client-NAME.key`. */
  namedClientCertificate(name: string): Promise<KeyAndCertificate> {
    return this.#kept(`client-${name}`, { commonName: name, organizations: [], hosts: [] });
  }

  /** A new client identity; valid for a year, kept nowhere. */
  clientCertificate(commonName: string, organizations: readonly string[]): Promise<KeyAndCertificate> {
    return this.#issue({ commonName, organizations, hosts: [] });
  }
}

/** Twice a day: one that fails is tried dozens of times before anything ends. */
const lookEveryMs = dayMs / 2;

/** Runs `renew` twice a day until the returned function is called; what it throws goes to `onError`. */
export function keepRenewed(clock: Clock, renew: () => Promise<void>, onError: (error: unknown) => void): () => void {
  let cancel = (): void => {};
  let isOver = false;
  const arm = (): void => {
    cancel = clock.setTimer(lookEveryMs, () => {
      renew()
        .catch(onError)
        .then(() => {
          if (!isOver) arm();
        });
    });
  };
  arm();
  return () => {
    isOver = true;
    cancel();
  };
}

/** A kubeconfig with one cluster, one user and one context. */
export function kubeconfig(url: string, caPem: string, user: string, identity: KeyAndCertificate): string {
  const base64 = (text: string): string => Buffer.from(text).toString('base64');
  return `apiVersion: v1
kind: Config
clusters:
- name: bitvisor
  cluster:
    server: ${url}
    certificate-authority-data: ${base64(caPem)}
users:
- name: ${JSON.stringify(user)}
  user:
    client-certificate-data: ${base64(identity.certificatePem)}
    client-key-data: ${base64(identity.keyPem)}
contexts:
- name: bitvisor
  context:
    cluster: bitvisor
    user: ${JSON.stringify(user)}
current-context: bitvisor
`;
}

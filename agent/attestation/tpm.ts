/**
 * A client of a machine's TPM 2.0, command by command, through whatever carries them (here: the trusted image).
 *
 * Invariants:
 * 1. The carrier is not trusted: what comes back is only taken apart here; whether it proves anything is decided elsewhere.
 * 2. The keys are primary keys of the endorsement hierarchy: the same after every start, never stored, until the TPM is cleared.
 */
import { algorithm, sized, TpmReader, u8, u16, u32 } from './tpm-bytes.ts';

/** Carries one command to the TPM and gives its response. */
export type Carrier = (command: Buffer) => Promise<Buffer>;

export interface LoadedKey {
  readonly handle: number;
  /** TPMT_PUBLIC. */
  readonly publicArea: Buffer;
}

const handles = { owner: 0x4000_0001, nothing: 0x4000_0007, password: 0x4000_0009, endorsement: 0x4000_000b } as const;
const codes = {
  createPrimary: 0x131,
  activateCredential: 0x147,
  nvRead: 0x14e,
  policySecret: 0x151,
  quote: 0x158,
  flushContext: 0x165,
  nvReadPublic: 0x169,
  startAuthSession: 0x176,
} as const;
/** TPM_RC_RETRY, YIELDED, TESTING: the command was not begun. The first use of a guarded key after a start gives one. */
const sendAgain = new Set([0x922, 0x908, 0x90a]);
const mostTries = 8;
const endorsementCertificateIndex = 0x01c0_0002;
const largestCertificateBytes = 8192;

/** Authorization by an empty password. */
const emptyPassword = Buffer.concat([u32(handles.password), u16(0), u8(0), u16(0)]);

/** The default template of TCG's EK Credential Profile for RSA 2048 (L-1): the key that the manufacturer's certificate names. */
const endorsementTemplate = Buffer.concat([
  ...[u16(algorithm.rsa), u16(algorithm.sha256), u32(0x0003_00b2)],
  // PolicySecret(TPM_RH_ENDORSEMENT)
  sized(Buffer.from('837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa', 'hex')),
  ...[u16(algorithm.aes), u16(128), u16(algorithm.cfb), u16(algorithm.nothing), u16(2048), u32(0)],
  sized(Buffer.alloc(256)),
]);

/** ECDSA on P-256, restricted: it signs what the TPM itself says, and nothing else. */
const attestationTemplate = Buffer.concat([
  ...[u16(algorithm.ecc), u16(algorithm.sha256), u32(0x0005_0072), sized()],
  ...[u16(algorithm.nothing), u16(algorithm.ecdsa), u16(algorithm.sha256), u16(3), u16(algorithm.nothing)],
  ...[sized(), sized()],
]);

export class Tpm {
  readonly #carry: Carrier;

  constructor(carry: Carrier) {
    this.#carry = carry;
  }

  /** @throws when the TPM refuses; `message` has its response code */
  async #run(
    code: number,
    what: {
      handles?: readonly number[];
      authorization?: Buffer;
      parameters?: readonly Buffer[];
      answersHandle?: boolean;
    },
  ): Promise<{ handle: number; parameters: TpmReader }> {
    const { authorization } = what;
    const body = Buffer.concat([
      ...(what.handles ?? []).map(u32),
      ...(authorization === undefined ? [] : [u32(authorization.length), authorization]),
      ...(what.parameters ?? []),
    ]);
    const command = [u16(authorization === undefined ? 0x8001 : 0x8002), u32(body.length + 10), u32(code), body];
    let response: TpmReader;
    let status: number;
    let tries = 0;
    do {
      response = new TpmReader(await this.#carry(Buffer.concat(command)));
      response.u16();
      response.u32();
      status = response.u32();
      tries += 1;
    } while (sendAgain.has(status) && tries < mostTries);
    if (status !== 0) throw new Error(`the TPM refused command ${code.toString(16)}: code ${status.toString(16)}`);
    const handle = what.answersHandle === true ? response.u32() : 0;
    if (authorization !== undefined) response.u32();
    return { handle, parameters: response };
  }

  endorsementKey(): Promise<LoadedKey> {
    return this.#createPrimary(endorsementTemplate);
  }

  attestationKey(): Promise<LoadedKey> {
    return this.#createPrimary(attestationTemplate);
  }

  async #createPrimary(template: Buffer): Promise<LoadedKey> {
    const { handle, parameters } = await this.#run(codes.createPrimary, {
      handles: [handles.endorsement],
      authorization: emptyPassword,
      parameters: [sized(sized(), sized()), sized(template), sized(), u32(0)],
      answersHandle: true,
    });
    return { handle, publicArea: parameters.sized() };
  }

  /** The manufacturer's certificate of the endorsement key, in DER; `undefined` where the TPM has none. */
  async endorsementCertificate(): Promise<Buffer | undefined> {
    let size: number;
    try {
      const { parameters } = await this.#run(codes.nvReadPublic, { handles: [endorsementCertificateIndex] });
      size = new TpmReader(parameters.sized().subarray(-2)).u16();
    } catch {
      return undefined;
    }
    if (size > largestCertificateBytes) throw new Error(`the TPM says that its certificate has ${size} bytes`);
    const parts: Buffer[] = [];
    for (let at = 0; at < size; at += 512) {
      const { parameters } = await this.#run(codes.nvRead, {
        handles: [handles.owner, endorsementCertificateIndex],
        authorization: emptyPassword,
        parameters: [u16(Math.min(512, size - at)), u16(at)],
      });
      parts.push(parameters.sized());
    }
    const area = Buffer.concat(parts);
    // The area may be larger than the certificate: DER says how long it is (SEQUENCE, two bytes of length).
    return area.length > 4 && area.readUInt16BE(0) === 0x3082 ? area.subarray(0, area.readUInt16BE(2) + 4) : area;
  }

  /** Opens a credential (see credential.ts): only the TPM that holds both keys can. `nonce`: 16 bytes, fresh. */
  async activateCredential(
    { attestation, endorsement }: { attestation: LoadedKey; endorsement: LoadedKey },
    { blob, secret }: { blob: Buffer; secret: Buffer },
    nonce: Buffer,
  ): Promise<Buffer> {
    const { handle: session } = await this.#run(codes.startAuthSession, {
      handles: [handles.nothing, handles.nothing],
      parameters: [sized(nonce), sized(), u8(1), u16(algorithm.nothing), u16(algorithm.sha256)],
      answersHandle: true,
    });
    try {
      await this.#run(codes.policySecret, {
        handles: [handles.endorsement, session],
        authorization: emptyPassword,
        parameters: [sized(), sized(), sized(), u32(0)],
      });
      const { parameters } = await this.#run(codes.activateCredential, {
        handles: [attestation.handle, endorsement.handle],
        authorization: Buffer.concat([emptyPassword, u32(session), u16(0), u8(1), u16(0)]),
        parameters: [sized(blob), sized(secret)],
      });
      return parameters.sized();
    } finally {
      await this.flush(session);
    }
  }

  /** TPMS_ATTEST and TPMT_SIGNATURE over the nonce and these PCRs of the SHA-256 bank. */
  async quote(key: LoadedKey, nonce: Buffer, pcrs: readonly number[]): Promise<{ attest: Buffer; signature: Buffer }> {
    const selection = Buffer.alloc(3);
    for (const pcr of pcrs) selection.writeUInt8(selection.readUInt8(pcr >> 3) | (1 << (pcr & 7)), pcr >> 3);
    const { parameters } = await this.#run(codes.quote, {
      handles: [key.handle],
      authorization: emptyPassword,
      parameters: [sized(nonce), u16(algorithm.nothing), u32(1), u16(algorithm.sha256), u8(3), selection],
    });
    const attest = parameters.sized();
    // TPMT_SIGNATURE of ECDSA: scheme, hash, two numbers.
    const head = parameters.take(4);
    return { attest, signature: Buffer.concat([head, sized(parameters.sized()), sized(parameters.sized())]) };
  }

  /** Frees a key or session; a TPM that has it no more is right too. */
  async flush(handle: number): Promise<void> {
    await this.#run(codes.flushContext, { parameters: [u32(handle)] }).catch(() => {});
  }
}

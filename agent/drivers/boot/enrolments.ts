/**
 * Which TPM each node of a rack has: files of the agent, one a node, and what a person permitted.
 *
 * Invariants:
 * 1. An enrolment is replaced only where a person permitted it for this node; a permission is used up by it.
 * 2. Files are written beside their place, then renamed, readable by the agent's user alone. They hold public keys and digests, no secret;
 *    whoever can write them decides which machine is believed.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Enrolment } from '../../attestation/attest.ts';
import { readJsonFile, writeJsonFile } from './files.ts';

export interface KeptEnrolment extends Enrolment {
  /** ISO 8601. */
  readonly at: string;
  /** Digests of the firmware's parts (PCR 0) and option ROMs (PCR 2), hexadecimal, as they were then. */
  readonly firmware: readonly string[];
  readonly others: readonly string[];
}

export interface EnrolmentPermission {
  /** ISO 8601. */
  readonly at: string;
  /** What the endorsement key has to be (`endorsementFingerprint`), where the maker's list or another look says it. */
  readonly endorsement?: string;
}

export class Enrolments {
  readonly #directory: string;

  /** @param directory of the rack, which has a directory for each node */
  constructor(directory: string) {
    this.#directory = directory;
  }

  #path(node: string, name: string): string {
    return join(this.#directory, node, name);
  }

  /** @throws Error for people when the file is damaged: it is then no reason to enrol anew, nor to look at less */
  read(node: string): KeptEnrolment | undefined {
    const kept = this.#read<KeptEnrolment>(node, 'tpm.json');
    if (kept !== undefined && !isWhole(kept)) throw new Error(`${this.#path(node, 'tpm.json')} is no enrolment`);
    return kept;
  }

  permission(node: string): EnrolmentPermission | undefined {
    return this.#read<EnrolmentPermission>(node, 'tpm-permission.json');
  }

  #read<Value>(node: string, name: string): Value | undefined {
    const path = this.#path(node, name);
    try {
      return readJsonFile<Value>(path);
    } catch (error) {
      throw new Error(`${path} cannot be read: ${(error as Error).message}`);
    }
  }

  permit(node: string, permission: EnrolmentPermission): void {
    writeJsonFile(this.#path(node, 'tpm-permission.json'), permission);
  }

  keep(node: string, enrolment: KeptEnrolment): void {
    writeJsonFile(this.#path(node, 'tpm.json'), enrolment);
    rmSync(this.#path(node, 'tpm-permission.json'), { force: true });
  }
}

const isHex = (value: unknown): boolean => typeof value === 'string' && /^([0-9a-f]{2})+$/.test(value);
const isWhole = ({ endorsement, attestation, firmware, others }: Partial<KeptEnrolment>): boolean =>
  isHex(endorsement) &&
  isHex(attestation) &&
  [firmware, others].every((list) => Array.isArray(list) && list.every(isHex));

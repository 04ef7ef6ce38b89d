/**
 * `bitvisor-operator agent enrol` and `agent enrolled`: who permits that a node's TPM is enrolled, and which ones are. docs/attestation.md.
 *
 * Invariants:
 * 1. The command permits; the agent enrols, in the node's next trusted boot. Nothing is known of a TPM here but what the agent kept.
 * 2. Either every named node is permitted, or none and the message says why.
 */
import { readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { endorsementFingerprint } from '../../agent/attestation/attest.ts';
import { Enrolments } from '../../agent/drivers/boot/enrolments.ts';
import { HostlistError, parseHostlist } from '../api/hostlist.ts';
import { type AgentsConfig, readAgentsConfig } from './agents.ts';
import { CliError } from './arguments.ts';

interface EnrolContext {
  /** ISO 8601. */
  readonly now: string;
  readonly print: (line: string) => void;
}

function nodesIn(list: string): string[] {
  try {
    return parseHostlist(list);
  } catch (error) {
    if (error instanceof HostlistError) throw new CliError(`${list}: ${error.message}`);
    throw error;
  }
}

/** Enrolments by node, of every rack of the configuration. @throws CliError */
function racksOf(path: string): Map<string, Enrolments> {
  const { dataDir, racks, drivers, hardware, qemu }: AgentsConfig = readAgentsConfig(path);
  const attestation =
    drivers === 'hardware' ? hardware?.attestation : drivers === 'qemu' ? qemu?.attestation : undefined;
  if (attestation === undefined || dataDir === undefined)
    throw new CliError(
      `--config: ${path}: nothing is attested by TPM: docs/attestation.md shows the section attestation`,
    );
  return new Map(
    racks.flatMap(({ name, nodes }) => {
      const enrolments = new Enrolments(join(resolve(dirname(path), dataDir), name));
      return nodesIn(nodes).map((node) => [node, enrolments] as const);
    }),
  );
}

/** `NODE FINGERPRINT` a line; "#" begins a comment. @throws CliError that names the line */
function keysIn(path: string): Map<string, string> {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new CliError(`--keys: ${error instanceof Error ? error.message : error}`);
  }
  const keys = new Map<string, string>();
  for (const [index, line] of text.split('\n').entries()) {
    const words = line.replace(/#.*/, '').trim();
    if (words === '') continue;
    const [, node, key] = /^(\S+)\s+([0-9a-fA-F]{64})$/.exec(words) ?? [];
    if (node === undefined || key === undefined)
      throw new CliError(`--keys: ${path}:${index + 1}: a line is a node and the SHA-256 of its endorsement key`);
    keys.set(node, key.toLowerCase());
  }
  return keys;
}

/** @throws CliError */
export function runEnrol(list: string, flags: { config: string; keys?: string }, { now, print }: EnrolContext): void {
  const racks = racksOf(flags.config);
  const keys = flags.keys === undefined ? undefined : keysIn(flags.keys);
  const permitted = nodesIn(list).map((node) => {
    const enrolments = racks.get(node);
    const endorsement = keys?.get(node);
    if (enrolments === undefined) throw new CliError(`${node} is no node of ${flags.config}`);
    if (keys !== undefined && endorsement === undefined) throw new CliError(`--keys: ${flags.keys} has no ${node}`);
    return { node, enrolments, permission: { at: now, ...(endorsement === undefined ? {} : { endorsement }) } };
  });
  for (const { node, enrolments, permission } of permitted) {
    enrolments.permit(node, permission);
    const before = enrolments.read(node);
    print(
      `${node}: its TPM is enrolled in its next trusted boot${before === undefined ? '' : `, in place of the one of ${before.at}`}`,
    );
  }
}

/** @throws CliError */
export function runEnrolled(flags: { config: string }, { print }: EnrolContext): void {
  for (const [node, enrolments] of racksOf(flags.config)) {
    const kept = enrolments.read(node);
    const permission = enrolments.permission(node);
    const permitted =
      permission === undefined ? '' : `; to be enrolled in its next trusted boot, since ${permission.at}`;
    print(
      kept === undefined
        ? `${node}  not enrolled${permitted}`
        : `${node}  ${endorsementFingerprint(kept)}  certificate ${kept.certificate === 'Verified' ? 'verified' : 'not verified'}  ${kept.at}${permitted}`,
    );
  }
}

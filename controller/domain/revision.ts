/**
 * The revision of an environment: the identity of what a node runs.
 *
 * Invariants:
 * 1. Two specs have the same revision exactly when a node would run the same: the image counts by its digest, format and
 *    size, never by its URL; names, descriptions and requirements do not count.
 * 2. A stored definition is believed only where it hashes to its revision.
 */
import { createHash } from 'node:crypto';
import type { Environment } from '../api/protocol.generated.ts';
import { parseBytes } from '../api/quantity.ts';
import type { ComputeEnvironmentSpec } from '../api/types.generated.ts';

/** What a node runs, with the URL at which the image is found. */
export type EnvironmentDefinition = Omit<Environment, 'revision'>;

/** An environment as an allocation's status keeps it. */
export interface StoredRevision {
  /** 16 lower-case hexadecimal digits: the start of the SHA-256 over the definition without the image's URL. */
  revision: string;
  /** Canonical JSON of an EnvironmentDefinition, with the URL. */
  definition: string;
}

/** A stored definition that is not what its revision says. */
export class RevisionError extends Error {
  constructor(revision: string, reason: string) {
    super(`the stored definition of revision ${revision} ${reason}`);
    this.name = 'RevisionError';
  }
}

const revisionDigits = 16;

/** JSON with sorted keys and no white space; members that are undefined are left out. For plain data only. */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'null';
  const members = Object.entries(value)
    .filter(([, member]) => member !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, member]) => `${JSON.stringify(key)}:${canonicalJson(member)}`);
  return `{${members.join(',')}}`;
}

/** What a node runs, from a spec with its defaults filled in. Throws QuantityError for a size that cannot be used. */
function environmentDefinition(spec: ComputeEnvironmentSpec): EnvironmentDefinition {
  const { os, image, boot, userData, install, vmm } = spec;
  const sizeBytes = parseBytes(image.size);
  const minSizeBytes = install.disk.minSize === undefined ? 0 : parseBytes(install.disk.minSize);
  return {
    os: { family: os.family, architecture: os.architecture },
    image: { url: image.url, format: image.format, sizeBytes, sha256: image.sha256 },
    boot: {
      firmware: boot.firmware,
      kernelArguments: [...(boot.kernelArguments ?? [])],
      ...(boot.localArguments !== undefined && { localArguments: boot.localArguments }),
    },
    ...(userData !== undefined && { userData: { format: userData.format, inline: userData.inline } }),
    install: {
      ...(install.maxRate !== undefined && { maxRateBytes: parseBytes(install.maxRate) }),
      yield: install.yield,
      disk: { media: install.disk.media, minSizeBytes: Math.max(minSizeBytes, sizeBytes) },
    },
    vmm: { dataPorts: vmm.dataPorts },
  };
}

function hash(definition: { image: object }): string {
  const identity = { ...definition, image: { ...definition.image, url: undefined } };
  return createHash('sha256').update(canonicalJson(identity)).digest('hex').slice(0, revisionDigits);
}

/** The revision of a spec with its defaults filled in. Throws QuantityError for a size that cannot be used. */
export function revisionOf(spec: ComputeEnvironmentSpec): StoredRevision {
  const definition = environmentDefinition(spec);
  return { revision: hash(definition), definition: canonicalJson(definition) };
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** The instruction's environment from what was stored. Throws RevisionError when the two do not belong together. */
export function environmentFrom({ revision, definition }: StoredRevision): Environment {
  let parsed: unknown;
  try {
    parsed = JSON.parse(definition);
  } catch {
    throw new RevisionError(revision, 'is not JSON');
  }
  if (!isObject(parsed) || !isObject(parsed.image) || typeof parsed.image.url !== 'string')
    throw new RevisionError(revision, 'has no image');
  const found = hash({ ...parsed, image: parsed.image });
  if (found !== revision) throw new RevisionError(revision, `was changed: it hashes to ${found}`);
  // What hashes right was written by revisionOf: its shape, but for the URL, is as certain as the hash.
  return { ...(parsed as unknown as EnvironmentDefinition), revision };
}

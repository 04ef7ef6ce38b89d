/**
 * The check without a server: what a commit would be told, told before it is made. Reads files, writes nothing.
 *
 * Invariant: the same parser, schemas and rules as the sync; what passes here is refused later only for what only a cluster knows.
 */
import { lstat, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parse } from 'yaml';
import { computeEnvironments, nodeAllocations, physicalNodes } from '../api/meta.ts';
import { type CustomResourceDefinition, isObject, type JsonValue } from '../standalone/schema/index.ts';
import { type DesiredObject, type DesiredState, desiredState, keyOf } from './desired.ts';
import { type FolderContents, readFolder, readOneFile } from './folder-source.ts';
import { compareProblems, type Problem } from './problems.ts';
import { defaultSourceLimits, type SourceLimits } from './source.ts';
import { schemaValidator } from './validator.ts';

export interface ValidateOptions {
  readonly crds: readonly CustomResourceDefinition[];
  /** For objects whose file names no namespace. Default: `default`. */
  readonly defaultNamespace?: string;
  readonly limits?: SourceLimits;
}

export interface ValidateResult {
  /** Ordered by file and line. */
  readonly problems: Problem[];
  readonly files: number;
  /** Objects without an error. */
  readonly objects: number;
}

/** @throws Error when a file of the directory is no CRD */
export async function readCrds(directory: string): Promise<CustomResourceDefinition[]> {
  const names = (await readdir(directory)).filter((name) => name.endsWith('.yaml')).sort();
  return Promise.all(
    names.map(async (name) => {
      const value: unknown = parse(await readFile(join(directory, name), 'utf8'));
      if (isObject(value) && value.kind === 'CustomResourceDefinition')
        return value as unknown as CustomResourceDefinition;
      throw new Error(`${join(directory, name)} is no CustomResourceDefinition`);
    }),
  );
}

async function collect(
  paths: readonly string[],
  limits: SourceLimits,
): Promise<FolderContents & { problems: Problem[] }> {
  const found: FolderContents & { problems: Problem[] } = { files: [], refused: [], problems: [] };
  const seen = new Set<string>();
  for (const path of paths) {
    try {
      if ((await lstat(path)).isDirectory()) {
        const folder = await readFolder(path, limits, path.replace(/\/+$/, ''));
        found.files.push(...folder.files.filter((file) => !seen.has(file.path)));
        found.refused.push(...folder.refused.filter((file) => !seen.has(file.path)));
        for (const file of folder.files) seen.add(file.path);
      } else if (!seen.has(path)) {
        seen.add(path);
        const read = await readOneFile(path, path, limits);
        if ('bytes' in read) found.files.push(read);
        else found.refused.push(read);
      }
    } catch (error) {
      const isAbsent = (error as NodeJS.ErrnoException).code === 'ENOENT';
      const reason = isAbsent ? 'there is no such file or directory' : (error as Error).message;
      found.problems.push({ file: path, severity: 'error', reason });
    }
  }
  return found;
}

const member = (value: JsonValue | undefined, key: string): JsonValue | undefined =>
  isObject(value) ? value[key] : undefined;

function mayUse(environment: DesiredObject, namespace: string | undefined): boolean {
  if (environment.namespace === namespace) return true;
  const allowed = member(environment.object.spec, 'allowedNamespaces');
  const from = member(allowed, 'from') ?? 'Same';
  const names = member(allowed, 'names');
  return from === 'All' || (from === 'Named' && Array.isArray(names) && names.includes(namespace ?? ''));
}

/** A warning only: an environment may be in the cluster without being among these files. */
function checkReference(allocation: DesiredObject, state: DesiredState): Problem | undefined {
  const reference = member(allocation.object.spec, 'environmentRef');
  const name = String(member(reference, 'name') ?? '');
  const namespace = String(member(reference, 'namespace') ?? allocation.namespace ?? '');
  const key = keyOf(computeEnvironments, namespace, name);
  if (state.named.has(key)) return undefined;
  const { file } = allocation.document;
  const path = ['spec', 'environmentRef', 'name'];
  const where = { file, ...allocation.document.placeOf(path), field: path.join('.'), severity: 'warning' as const };
  const object = `NodeAllocation ${allocation.namespace}/${allocation.name}`;
  const environment = state.valid.get(key);
  if (environment !== undefined) {
    if (mayUse(environment, allocation.namespace)) return undefined;
    const reason = `the environment ${namespace}/${name} does not allow the namespace ${allocation.namespace}`;
    return { ...where, object, reason, hint: 'see spec.allowedNamespaces of the environment' };
  }
  const siblings = [...state.valid.values()].filter(
    (one) => one.gvk.kind === computeEnvironments.kind && one.namespace === namespace,
  );
  if (siblings.length === 0) return undefined;
  const reason = `no ComputeEnvironment ${namespace}/${name} is among these files`;
  return { ...where, object, reason, hint: `there are ${siblings.map((one) => one.name).join(', ')}` };
}

/** Checks files and folders together: what they define must fit together, too. */
export async function validatePaths(paths: readonly string[], options: ValidateOptions): Promise<ValidateResult> {
  const limits = options.limits ?? defaultSourceLimits;
  const found = await collect(paths, limits);
  const state = desiredState(found, {
    validator: schemaValidator(options.crds),
    defaultNamespace: options.defaultNamespace ?? 'default',
    limits,
  });
  const problems = [...found.problems, ...state.problems];
  for (const object of state.valid.values()) {
    const { kind } = object.gvk;
    const problem = kind === nodeAllocations.kind ? checkReference(object, state) : undefined;
    if (problem !== undefined) problems.push(problem);
    if (kind !== physicalNodes.kind) continue;
    const { file, line } = object.document;
    const reason = 'PhysicalNodes are made by the operator: a sync does not apply them';
    problems.push({ file, line, object: `PhysicalNode ${object.name}`, severity: 'warning', reason });
  }
  return { problems: problems.sort(compareProblems), files: state.files.length, objects: state.valid.size };
}

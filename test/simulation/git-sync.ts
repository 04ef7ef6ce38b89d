/**
 * The production GitOps loop in a process of the simulated operator, and whoever watches what it writes.
 *
 * Invariant: what is told of a write is what the API server stored, at the moment at which it did.
 */
import { readFileSync } from 'node:fs';
import { parse } from 'yaml';
import { computeEnvironments, nodeAllocations } from '../../controller/api/meta.ts';
import { startGitOps } from '../../controller/cli/gitops.ts';
import { type DocumentValidator, schemaValidator } from '../../controller/gitops/validator.ts';
import { deepEqual } from '../../controller/kube/json.ts';
import { type GroupVersionKind, type KubeClient, KubeError, type KubeObject } from '../../controller/kube/port.ts';
import type { Logger } from '../../controller/runtime/log.ts';
import type { CustomResourceDefinition, JsonObject } from '../../controller/standalone/schema/index.ts';
import type { Repository } from './git-repository.ts';
import type { ProcessClock } from './process-clock.ts';
import type { World } from './world.ts';

export const operatorNamespace = 'bitvisor-system';
/** The sync's ConfigMaps start with it. */
export const syncName = 'repository';

/** Often enough to see most commits, seldom enough that a day of rest costs little. */
const intervalMs = 120_000;
const tokenIntervalMs = 5_000;

/** Something that the sync made the API server store or delete. */
export interface SyncWrite {
  readonly verb: 'create' | 'patch' | 'delete';
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
  /** Undefined for what was created. */
  readonly old: KubeObject | undefined;
  /** Undefined for what was deleted. */
  readonly object: KubeObject | undefined;
}

let known: DocumentValidator | undefined;

/** Of the two kinds that tenants commit; what it said of an object it says again, which is a third of a pass. */
function validator(): DocumentValidator {
  known ??= remembering(
    schemaValidator(
      [computeEnvironments, nodeAllocations].map(({ kind }) => {
        const file = new URL(`../../crds/${kind.toLowerCase()}.yaml`, import.meta.url);
        return parse(readFileSync(file, 'utf8')) as CustomResourceDefinition;
      }),
    ),
  );
  return known;
}

function remembering(asked: DocumentValidator): DocumentValidator {
  const findings = new Map<string, ReturnType<DocumentValidator['validate']>>();
  return {
    lookUp: (apiVersion, kind) => asked.lookUp(apiVersion, kind),
    defaulted: (gvk, object) => asked.defaulted(gvk, object),
    validate(gvk: GroupVersionKind, object: JsonObject) {
      const key = `${gvk.kind} ${JSON.stringify(object)}`;
      const before = findings.get(key) ?? asked.validate(gvk, object);
      if (findings.size > 2_000) findings.clear();
      findings.set(key, before);
      return before;
    },
  };
}

/** What `startLeader` calls its companion, as `bitvisor-operator controller --git-repository` starts it. */
export function gitCompanion(
  world: World,
  repository: Repository,
  process: { readonly name: string; readonly clock: ProcessClock; readonly log: Logger },
): (client: KubeClient) => { stop(): Promise<void> } {
  const { name, clock, log } = process;
  return (client) =>
    startGitOps({
      client,
      source: repository.source(clock),
      validator: validator(),
      namespace: operatorNamespace,
      clock,
      random: world.random(`git of ${name}`),
      log,
      intervalMs,
      tokenIntervalMs,
    });
}

/** What the rules of crds/nodeallocation.yaml refuse of what people here change: the server in memory knows no rules. */
const immutable = ['placement', 'isolation', 'devirtualize'];

/** For the API server. @throws KubeError */
export function refuseImmutable(_gvk: GroupVersionKind, object: KubeObject, old?: KubeObject): void {
  const [before, after] = [old, object].map((one) => (one as { spec?: Record<string, unknown> } | undefined)?.spec);
  if (before === undefined || before === after || after === undefined) return;
  const field = immutable.find((name) => !deepEqual(before[name], after[name]));
  if (field === undefined) return;
  throw new KubeError('Invalid', `spec.${field}: Invalid value: ${field} cannot be changed; make a new allocation`, {
    status: 422,
  });
}

const isOfGit = (options: { readonly fieldManager?: string } | undefined): boolean =>
  options?.fieldManager === 'bitvisor-operator-gitops';

/** The client of one process, which tells the truth what the sync wrote; the operator itself deletes nothing that people define. */
export function watchedSync(client: KubeClient, world: World): KubeClient {
  const tell = (verb: SyncWrite['verb'], { kind }: GroupVersionKind, write: Omit<SyncWrite, 'verb' | 'kind'>): void =>
    world.truth.synced({ verb, kind, ...write });
  const isTenants = ({ kind }: GroupVersionKind): boolean =>
    kind === nodeAllocations.kind || kind === computeEnvironments.kind;
  return {
    ...client,
    async create(gvk, object, options) {
      const made = await client.create(gvk, object, options);
      const { name, uid = '' } = made.metadata;
      if (isOfGit(options)) tell('create', gvk, { name, uid, old: undefined, object: made });
      return made;
    },
    async patch(gvk, key, patch, options) {
      const stored = await client.patch(gvk, key, patch, options);
      const { name, uid = '' } = stored.metadata;
      const old = world.replaced.get(stored);
      // A patch that changed nothing stored nothing: what stands there was written before.
      const changed = old !== undefined && old.metadata.resourceVersion === options.resourceVersion;
      if (isOfGit(options) && changed) tell('patch', gvk, { name, uid, old, object: stored });
      return stored as never;
    },
    async delete(gvk, key, options) {
      await client.delete(gvk, key, options);
      if (!isTenants(gvk)) return;
      tell('delete', gvk, { name: key.name, uid: options?.uid ?? '', old: undefined, object: undefined });
    },
  };
}

/**
 * What the GitOps tests share: the CRDs' validator, a server in memory that validates, and real git repositories in temporary folders.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { TestContext } from 'node:test';
import { configMaps, namespaces } from '../../controller/api/meta.ts';
import { gitSource } from '../../controller/gitops/git-source.ts';
import type { ConfigMap } from '../../controller/gitops/inventory.ts';
import type { SyncResult } from '../../controller/gitops/status.ts';
import { type SyncOptions, syncOnce } from '../../controller/gitops/sync.ts';
import { readCrds } from '../../controller/gitops/validate.ts';
import { schemaValidator } from '../../controller/gitops/validator.ts';
import { createMemoryKube, type MemoryKube } from '../../controller/kube/memory.ts';
import { type GroupVersionKind, KubeError, type KubeObject } from '../../controller/kube/port.ts';
import { systemClock } from '../../controller/runtime/clock.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { isObject, type JsonObject } from '../../controller/standalone/schema/index.ts';

export const crds = await readCrds(join(import.meta.dirname, '../../crds'));
const validator = schemaValidator(crds);
export const gitIsHere = spawnSync('git', ['--version']).status === 0;
if (!gitIsHere) console.error('WARNING: there is no git on this machine: the tests that need it are SKIPPED');

const digest = 'a'.repeat(64);

export const environmentYaml = (name: string, extra = ''): string => `apiVersion: bitvisor.io/v1alpha1
kind: ComputeEnvironment
metadata:
  name: ${name}
  namespace: team-a
spec:
  os: { family: Linux, name: Rocky, architecture: x86_64 }
  image:
    url: https://images.example/rocky.raw
    size: 32Gi
    sha256: ${digest}
${extra}`;

export const allocationYaml = (
  name: string,
  replicas: number | string = 4,
  extra = '',
): string => `apiVersion: bitvisor.io/v1alpha1
kind: NodeAllocation
metadata:
  name: ${name}
  namespace: team-a
spec:
  environmentRef: { name: rocky }
  replicas: ${replicas}
${extra}`;

export const namespaceYaml = (name: string): string => `apiVersion: v1\nkind: Namespace\nmetadata:\n  name: ${name}\n`;

/** A server that refuses what the CRDs refuse, fills in their defaults, and knows which namespaces there are. */
export function server(): MemoryKube & { writes: number } {
  let kube: MemoryKube | undefined;
  const validate = (gvk: GroupVersionKind, object: KubeObject, old?: KubeObject): void => {
    const namespace = object.metadata.namespace;
    const isThere = kube?.objects(namespaces).some((one) => one.metadata.name === namespace) ?? false;
    if (old === undefined && namespace !== undefined && namespace !== 'operator' && !isThere) {
      throw new KubeError('NotFound', `namespaces "${namespace}" not found`, { status: 404 });
    }
    if (gvk === configMaps) return;
    const json = object as unknown as JsonObject;
    const [finding] = validator.validate(gvk, json);
    if (finding !== undefined) throw new KubeError('Invalid', `${finding.field}: ${finding.reason}`, { status: 422 });
    if (old === undefined) Object.assign(object, { spec: validator.defaulted(gvk, json).spec ?? {} });
  };
  const made = createMemoryKube({ clock: systemClock, random: seededRandom(1), validate });
  kube = made;
  const counted = {
    ...made,
    writes: 0,
    get resourceVersion() {
      return made.resourceVersion;
    },
  };
  counted.create = ((...args: Parameters<MemoryKube['create']>) => {
    counted.writes += 1;
    return made.create(...args);
  }) as MemoryKube['create'];
  counted.patch = ((...args: Parameters<MemoryKube['patch']>) => {
    counted.writes += 1;
    return made.patch(...args);
  }) as MemoryKube['patch'];
  counted.delete = (...args) => {
    counted.writes += 1;
    return made.delete(...args);
  };
  return counted;
}

export const names = (kube: MemoryKube, gvk: GroupVersionKind): string[] =>
  kube.objects(gvk).map((object) => object.metadata.name);

export function specOf(kube: MemoryKube, gvk: GroupVersionKind, name: string): JsonObject {
  const found = kube.objects(gvk).find((object) => object.metadata.name === name) as unknown as JsonObject | undefined;
  return isObject(found?.spec) ? found.spec : {};
}

export const statusData = async (kube: MemoryKube): Promise<Record<string, string>> =>
  (await kube.get<ConfigMap>(configMaps, { namespace: 'operator', name: 'site-sync' })).data ?? {};

class Repository {
  readonly folder = mkdtempSync(join(tmpdir(), 'gitops-test-'));
  readonly at = join(this.folder, 'repository');
  readonly cacheDirectory = join(this.folder, 'cache');

  constructor() {
    mkdirSync(this.at);
    this.git('init', '--quiet', '--initial-branch=main');
  }

  git(...args: string[]): string {
    const identity = [
      '-c',
      'user.name=Test',
      '-c',
      'user.email=test@example.org',
      '-c',
      'commit.gpgsign=false',
      '-c',
      'core.fsync=none',
    ];
    const env = { PATH: process.env.PATH ?? '', HOME: this.folder, GIT_CONFIG_NOSYSTEM: '1' };
    return execFileSync('git', [...identity, ...args], { cwd: this.at, encoding: 'utf8', env, stdio: 'pipe' }).trim();
  }

  write(path: string, content: string | Uint8Array): void {
    mkdirSync(dirname(join(this.at, path)), { recursive: true });
    writeFileSync(join(this.at, path), content);
  }

  /** Writes files (undefined removes one) and commits everything. */
  commit(files: Record<string, string | Uint8Array | undefined> = {}): string {
    for (const [path, content] of Object.entries(files)) {
      if (content === undefined) rmSync(join(this.at, path), { recursive: true });
      else this.write(path, content);
    }
    this.git('add', '--all');
    this.git('commit', '--quiet', '--allow-empty', '--message', 'change');
    return this.git('rev-parse', 'HEAD');
  }

  source(path = '') {
    const { at, cacheDirectory } = this;
    return gitSource({ repository: at, branch: 'main', path, cacheDirectory, environment: process.env });
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

interface Site {
  readonly repository: Repository;
  readonly kube: MemoryKube & { writes: number };
  readonly options: SyncOptions;
  sync(): Promise<SyncResult>;
}

/** A repository with a namespace, an environment and an allocation, and a server that holds nothing yet. */
function site(path = ''): Site {
  const repository = new Repository();
  const kube = server();
  const options: SyncOptions = {
    name: 'site',
    kube,
    clock: systemClock,
    random: seededRandom(2),
    validator,
    source: repository.source(path),
    operatorNamespace: 'operator',
    defaultNamespace: 'team-a',
  };
  return { repository, kube, options, sync: () => syncOnce(options) };
}

export const baseFiles = {
  'ns.yaml': namespaceYaml('team-a'),
  'env.yaml': environmentYaml('rocky'),
  'cfd.yaml': allocationYaml('cfd'),
};

/** With a repository that is removed at the end of the test. */
export function started(t: TestContext, path = ''): Site {
  const made = site(path);
  t.after(() => made.repository.remove());
  return made;
}

export const problemsOf = (result: SyncResult): string[] =>
  result.files.flatMap((file) =>
    file.problems.map((one) => `${one.file}:${one.line ?? ''} ${one.field ?? ''} ${one.reason} ${one.hint ?? ''}`),
  );

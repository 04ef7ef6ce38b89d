/**
 * What became of a sync, for people and programs: the ConfigMap `<sync>-sync` in the operator's namespace.
 *
 * Invariants:
 * 1. Written only when its content changes: at rest nothing is written.
 * 2. Bounded: of too many files and problems the first stand there, and how many there are.
 * 3. Annotations on it are the people's: a confirmation is read from there and never written.
 */
import { configMaps } from '../api/meta.ts';
import { deepEqual } from '../kube/json.ts';
import { type KubeClient, KubeError } from '../kube/port.ts';
import type { ConfigMap } from './inventory.ts';
import { formatProblem, type Problem } from './problems.ts';

export interface FileResult {
  readonly file: string;
  /** Objects that it defines and that are as git says, drift and conflicts aside. */
  readonly applied: number;
  readonly problems: readonly Problem[];
}

export interface SyncCounts {
  readonly created: number;
  readonly changed: number;
  readonly unchanged: number;
  readonly pruned: number;
  readonly failed: number;
  /** Missing from the repository and kept all the same. */
  readonly kept: number;
}

export interface SyncResult {
  /**
   * `Synced`: the cluster is what the commit says. `Partial`: some files or objects are not, each with a problem. `Held`: nothing, or no
   * pruning, is done until a person or a commit decides. `Unreachable`: the repository cannot be read; nothing changes.
   */
  readonly result: 'Synced' | 'Partial' | 'Held' | 'Unreachable';
  readonly commit: string | undefined;
  readonly source: string;
  readonly message: string;
  readonly files: readonly FileResult[];
  readonly counts: SyncCounts;
  /** Objects that wait for a confirmation, or are kept: `NodeAllocation team-a/cfd (cfd.yaml): waits for a confirmation`. */
  readonly notPruned: readonly string[];
}

/** Names the commit whose prune a person allows. */
const confirmPruneAnnotation = 'bitvisor.io/confirm-prune';

/** Of the 1 MiB that a ConfigMap holds, for each of the two lists. */
const longestListCharacters = 200_000;

function bounded(lines: readonly string[]): string {
  const kept: string[] = [];
  let characters = 0;
  for (const line of lines) {
    characters += line.length + 1;
    if (characters > longestListCharacters) break;
    kept.push(line);
  }
  if (kept.length < lines.length) kept.push(`... and ${lines.length - kept.length} more`);
  return kept.map((line) => `${line}\n`).join('');
}

function fileLine(file: FileResult): string {
  const errors = file.problems.filter((problem) => problem.severity === 'error').length;
  const warnings = file.problems.length - errors;
  const words = [`${file.file}: ${file.applied} applied`];
  if (errors > 0) words.push(`${errors} error${errors === 1 ? '' : 's'}`);
  if (warnings > 0) words.push(`${warnings} warning${warnings === 1 ? '' : 's'}`);
  return words.join(', ');
}

function dataOf(result: SyncResult): Record<string, string> {
  // Files with problems first: they must not be what is cut off.
  const files = [...result.files].sort((a, b) => Number(b.problems.length > 0) - Number(a.problems.length > 0));
  return {
    commit: result.commit ?? '',
    source: result.source,
    result: result.result,
    message: result.message,
    problems: bounded(result.files.flatMap((file) => file.problems.map(formatProblem))),
    files: bounded(files.map(fileLine)),
    notPruned: bounded(result.notPruned),
  };
}

export class StatusStore {
  readonly #kube: KubeClient;
  readonly #namespace: string;
  readonly #name: string;
  readonly #sync: string;

  constructor(kube: KubeClient, namespace: string, sync: string) {
    this.#kube = kube;
    this.#namespace = namespace;
    this.#sync = sync;
    this.#name = `${sync}-sync`;
  }

  /** What a person types to allow a prune. */
  confirmCommand(commit: string): string {
    return `kubectl -n ${this.#namespace} annotate --overwrite configmap ${this.#name} ${confirmPruneAnnotation}=${commit}`;
  }

  async #read(): Promise<ConfigMap | undefined> {
    try {
      return await this.#kube.get<ConfigMap>(configMaps, { namespace: this.#namespace, name: this.#name });
    } catch (error) {
      if (error instanceof KubeError && error.reason === 'NotFound') return undefined;
      throw error;
    }
  }

  /** The commit that a person confirmed. */
  async confirmed(): Promise<string | undefined> {
    return (await this.#read())?.metadata.annotations?.[confirmPruneAnnotation];
  }

  /** True when something had changed. */
  async write(result: SyncResult): Promise<boolean> {
    const data = dataOf(result);
    const old = await this.#read();
    if (old === undefined) {
      const metadata = { name: this.#name, namespace: this.#namespace, labels: { 'bitvisor.io/sync': this.#sync } };
      await this.#kube.create<ConfigMap>(configMaps, { apiVersion: 'v1', kind: 'ConfigMap', metadata, data });
      return true;
    }
    if (deepEqual(old.data, data)) return false;
    await this.#kube.patch(configMaps, { namespace: this.#namespace, name: this.#name }, { data }, { type: 'merge' });
    return true;
  }
}

/**
 * One pass of GitOps: from a snapshot of the repository to the API server.
 *
 * Invariants:
 * 1. A repository that cannot be read, has no branch, or shares no past with what was applied changes nothing.
 * 2. A file or object with an error stops nothing but itself, and keeps its last good state.
 * 3. What will be created stands in the inventory before it is created; what is pruned stood there with its uid.
 * 4. A pass over an unchanged repository and an unchanged cluster writes nothing, but that it once forgets what was pruned.
 * 5. What comes back after it was pruned within half an hour is reported, and never deleted.
 */
import { configMaps, nodeAllocations, physicalNodes } from '../api/meta.ts';
import type { GroupVersionKind } from '../kube/port.ts';
import { type ApplyContext, type ApplyOutcome, applyObject, isBack, pruneObject } from './apply.ts';
import { appliedByAnnotation, type DesiredObject, type DesiredState, desiredState, objectTitle } from './desired.ts';
import { hashOf, type Inventory, type InventoryEntry, InventoryError, InventoryStore } from './inventory.ts';
import type { Difference } from './merge.ts';
import { compareProblems, oneLine, type Problem } from './problems.ts';
import {
  defaultPruneSettings,
  isConfirmed,
  isRewriting,
  type PrunePlan,
  type PruneSettings,
  planPrune,
} from './prune.ts';
import { type Snapshot, type Source, SourceError } from './source.ts';
import { type FileResult, StatusStore, type SyncCounts, type SyncResult } from './status.ts';
import type { DocumentValidator } from './validator.ts';
import { segmentsOf } from './validator.ts';

export interface SyncOptions extends Omit<ApplyContext, 'signal' | 'sync'> {
  /** Names the ConfigMaps and marks the objects; a DNS label. */
  readonly name: string;
  readonly source: Source;
  readonly validator: DocumentValidator;
  /** Where the sync keeps its ConfigMaps. */
  readonly operatorNamespace: string;
  /** For namespaced objects whose file names no namespace. */
  readonly defaultNamespace: string;
  readonly prune?: PruneSettings;
}

const noCounts: SyncCounts = { created: 0, changed: 0, unchanged: 0, pruned: 0, failed: 0, kept: 0 };
/** Objects in flight: the API server serves a service account 32 at a time without complaint, others want some too. */
const concurrency = 8;
/** Longer than a request may travel, and than a process stands still that is about to send one. */
const rememberPrunedMs = 1_800_000;

function refusal(gvk: GroupVersionKind, namespace: string | undefined, operatorNamespace: string): string | undefined {
  if (gvk.kind === physicalNodes.kind && gvk.group === physicalNodes.group) {
    return 'PhysicalNodes are made by the operator, one for each accepted node; accept nodes in a BitVisorAgent';
  }
  if (gvk.kind === configMaps.kind && namespace === operatorNamespace) {
    return `ConfigMaps of the operator's own namespace ${operatorNamespace} cannot come from the repository`;
  }
  return undefined;
}

function entryOf(desired: DesiredObject, old: InventoryEntry | undefined): InventoryEntry {
  const { key, gvk, namespace, name, document } = desired;
  const { group, version, kind, plural } = gvk;
  const base = { key, group, version, kind, plural, name, file: document.file, hash: old?.hash ?? '' };
  return {
    ...base,
    ...(namespace === undefined ? {} : { namespace }),
    ...(old?.uid === undefined ? {} : { uid: old.uid }),
  };
}

function shown(value: unknown): string {
  const text = value === undefined ? 'nothing' : JSON.stringify(value);
  return text.length > 120 ? `${text.slice(0, 120)}...` : text;
}

function problemOfDifference(desired: DesiredObject, difference: Difference): Problem {
  const { kind, path, live } = difference;
  const field = path.map((part) => String(part)).join('.');
  const { file } = desired.document;
  const place = desired.document.placeOf(path);
  const object = objectTitle(desired.gvk.kind, desired.namespace, desired.name);
  const found = `${shown(difference.desired)} here, ${shown(live)} in the cluster`;
  if (kind === 'Drift') {
    const hint = 'commit that value to keep it, or set the field back by hand';
    return {
      file,
      ...place,
      object,
      field,
      severity: 'warning',
      reason: `changed by somebody else: ${found}; left as it is`,
      hint,
    };
  }
  const hint = 'set the field in the cluster to what it was or shall be, or commit its present value';
  return {
    file,
    ...place,
    object,
    field,
    severity: 'error',
    reason: `changed here and by somebody else: ${found}; not applied`,
    hint,
  };
}

const objectsLeft = (count: number): string => `${count} object${count === 1 ? '' : 's'} left the repository`;

/** A confirmation does nothing for what is kept: nobody is to take it for what waits. */
function leftLine(entry: InventoryEntry, isKept: boolean): string {
  const waits = 'waits for a confirmation';
  const kept = `kept while a file with an error may define it${entry.held ? `, and then ${waits}` : ''}`;
  return oneLine(`${objectTitle(entry.kind, entry.namespace, entry.name)} (${entry.file}): ${isKept ? kept : waits}`);
}

class Pass {
  readonly #options: SyncOptions;
  readonly #context: ApplyContext;
  readonly #inventoryStore: InventoryStore;
  readonly #statusStore: StatusStore;
  readonly #problems: Problem[] = [];
  readonly #appliedPerFile = new Map<string, number>();
  readonly #counts = { ...noCounts };
  /** Missing, and waiting for a confirmation because they were there before the repository named them. */
  readonly #adopted: InventoryEntry[] = [];
  /** By key, what was pruned a short while ago. */
  readonly #pruned = new Map<string, InventoryEntry>();

  constructor(options: SyncOptions, signal: AbortSignal | undefined) {
    const { kube, clock, random, validator, name: sync, operatorNamespace } = options;
    this.#options = options;
    this.#context = { kube, clock, random, validator, sync, ...(signal === undefined ? {} : { signal }) };
    this.#inventoryStore = new InventoryStore(kube, operatorNamespace, sync);
    this.#statusStore = new StatusStore(kube, operatorNamespace, sync);
  }

  async run(): Promise<SyncResult> {
    const result = await this.#decide();
    const tidy = { ...result, message: oneLine(result.message) };
    await this.#statusStore.write(tidy);
    return tidy;
  }

  #nothing(result: 'Held' | 'Unreachable', commit: string | undefined, message: string): SyncResult {
    const source = this.#options.source.description;
    return { result, commit, source, message, files: [], counts: noCounts, notPruned: [] };
  }

  async #decide(): Promise<SyncResult> {
    let inventory: Inventory;
    try {
      inventory = await this.#inventoryStore.read();
    } catch (error) {
      if (!(error instanceof InventoryError)) throw error;
      return this.#nothing('Held', undefined, error.message);
    }
    let snapshot: Snapshot;
    try {
      snapshot = await this.#options.source.fetch(inventory.commit, this.#context.signal);
    } catch (error) {
      if (!(error instanceof SourceError)) throw error;
      const result = error.reason === 'Unreachable' ? 'Unreachable' : 'Held';
      return this.#nothing(result, inventory.commit, `${error.message}; nothing is changed`);
    }
    const confirmed = await this.#statusStore.confirmed();
    const { commit, history } = snapshot;
    if (history === 'Unrelated' && inventory.entries.length > 0 && !isConfirmed(confirmed, commit)) {
      const command = this.#statusStore.confirmCommand(commit);
      const message = `commit ${commit} shares no history with ${inventory.commit}, which was applied last; nothing is changed. To follow it: ${command}`;
      return this.#nothing('Held', inventory.commit, message);
    }
    return this.#apply(snapshot, inventory, confirmed);
  }

  async #apply(snapshot: Snapshot, inventory: Inventory, confirmed: string | undefined): Promise<SyncResult> {
    const { validator, defaultNamespace, operatorNamespace } = this.#options;
    const refuse = (gvk: GroupVersionKind, namespace: string | undefined): string | undefined =>
      refusal(gvk, namespace, operatorNamespace);
    const desired = desiredState(snapshot, { validator, defaultNamespace, refuse });
    this.#problems.push(...desired.problems);
    const { commit, history } = snapshot;
    const settings = this.#options.prune ?? defaultPruneSettings;
    const plan = planPrune({ inventory, desired, history, commit, confirmed, settings });

    for (const entry of inventory.pruned ?? []) this.#pruned.set(entry.key, entry);
    const entries = new Map(inventory.entries.map((entry) => [entry.key, entry]));
    for (const object of desired.valid.values()) entries.set(object.key, entryOf(object, entries.get(object.key)));
    for (const entry of [...plan.kept, ...plan.waiting]) entries.set(entry.key, entry);
    const record = (): Promise<void> =>
      this.#inventoryStore.write({
        entries: [...entries.values()],
        pruned: [...this.#pruned.values()],
        commit,
        unread: plan.unread,
      });
    const isNew = [...desired.valid.keys()].some((key) => inventory.entries.every((entry) => entry.key !== key));
    if (isNew) {
      // Cut off now, the next pass must not take what this commit brought, or what a rewritten branch did, for something that their successor
      // removed: the next branch is compared with this commit, and what a rewriting cut off is remembered as held.
      const intended = [...entries.values()].map((entry) => (isRewriting(history) ? { ...entry, held: true } : entry));
      await this.#inventoryStore.write({ ...inventory, entries: intended, commit });
    }
    try {
      await this.#applyAll([...desired.valid.values()], entries);
      await this.#lookForPruned(entries);
      await this.#pruneAll(plan, entries, isConfirmed(confirmed, commit));
    } finally {
      await record();
    }
    return this.#summary(commit, desired, plan);
  }

  async #applyAll(objects: readonly DesiredObject[], entries: Map<string, InventoryEntry>): Promise<void> {
    const isNamespace = (object: DesiredObject): boolean => object.gvk.group === '' && object.gvk.kind === 'Namespace';
    for (const wave of [objects.filter(isNamespace), objects.filter((object) => !isNamespace(object))]) {
      await this.#forEach(wave, async (object) =>
        this.#note(object, await applyObject(this.#context, object), entries),
      );
    }
  }

  async #forEach<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
    const queue = items.values();
    const one = async (): Promise<void> => {
      for (const item of queue) {
        this.#context.signal?.throwIfAborted();
        await work(item);
      }
    };
    await Promise.all(Array.from({ length: concurrency }, one));
  }

  /** What is back may as well be the copy with which somebody undid the deletion: it is never deleted again. */
  async #lookForPruned(entries: ReadonlyMap<string, InventoryEntry>): Promise<void> {
    const nowMs = this.#context.clock.now();
    await this.#forEach([...this.#pruned.values()], async ({ key, uid, prunedAtMs = 0, ...entry }) => {
      const found = entries.has(key) ? 'no' : await isBack(this.#context, { key, ...entry }, uid);
      if (found === 'yes') {
        const object = objectTitle(entry.kind, entry.namespace, entry.name);
        const reason = 'it was deleted as the repository says, and stands there again; left as it is';
        const hint = `delete it or define it again; to keep it without the repository, remove its annotation ${appliedByAnnotation}`;
        this.#problems.push({ file: entry.file, object, severity: 'error', reason, hint });
      }
      // Also a time that lies ahead, of a clock that was wrong, must not keep it for ever.
      const isOver = found === 'no' && Math.abs(nowMs - prunedAtMs) > rememberPrunedMs;
      if (entries.has(key) || isOver) this.#pruned.delete(key);
    });
  }

  #note(desired: DesiredObject, outcome: ApplyOutcome, entries: Map<string, InventoryEntry>): void {
    const { file, line } = desired.document;
    if (outcome.result === 'failed') {
      const { reason, hint, field } = outcome;
      this.#counts.failed += 1;
      const place = field === undefined ? { line } : { field, ...desired.document.placeOf(segmentsOf(field)) };
      const object = objectTitle(desired.gvk.kind, desired.namespace, desired.name);
      this.#problems.push({
        file,
        ...place,
        object,
        severity: 'error',
        reason,
        ...(hint === undefined ? {} : { hint }),
      });
      return;
    }
    this.#counts[outcome.result] += 1;
    this.#appliedPerFile.set(file, (this.#appliedPerFile.get(file) ?? 0) + 1);
    const entry = entryOf(desired, entries.get(desired.key));
    entries.set(desired.key, { ...entry, uid: outcome.uid, hash: hashOf(outcome.applied) });
    for (const difference of outcome.differences) this.#problems.push(problemOfDifference(desired, difference));
  }

  async #pruneAll(plan: PrunePlan, entries: Map<string, InventoryEntry>, isAllowed: boolean): Promise<void> {
    for (const entry of plan.release) entries.delete(entry.key);
    // Allocations first: what they refer to stays as long as they do.
    const ordered = [...plan.prune].sort(
      (a, b) => Number(b.kind === nodeAllocations.kind) - Number(a.kind === nodeAllocations.kind),
    );
    for (const entry of ordered) {
      this.#context.signal?.throwIfAborted();
      const outcome = await pruneObject(this.#context, entry, isAllowed);
      if (outcome.result === 'waits') {
        entries.set(entry.key, { ...entry, held: true });
        this.#adopted.push(entry);
        continue;
      }
      if (outcome.result === 'failed' || outcome.result === 'notOurs') {
        const object = objectTitle(entry.kind, entry.namespace, entry.name);
        const severity = outcome.result === 'failed' ? 'error' : 'warning';
        this.#problems.push({ file: entry.file, object, severity, reason: `not pruned: ${outcome.reason}` });
      }
      if (outcome.result === 'failed') this.#counts.failed += 1;
      else entries.delete(entry.key);
      if (outcome.result === 'deleted') this.#counts.pruned += 1;
      if (outcome.result === 'deleted' || outcome.result === 'gone') {
        this.#pruned.set(entry.key, { ...entry, prunedAtMs: this.#context.clock.now() });
      }
    }
  }

  #summary(commit: string, desired: DesiredState, plan: PrunePlan): SyncResult {
    const { kept } = plan;
    const waiting = [...plan.waiting, ...this.#adopted];
    const notPruned = [
      ...kept.map((entry) => leftLine(entry, true)),
      ...waiting.map((entry) => leftLine(entry, false)),
    ];
    const errors = this.#problems.filter((problem) => problem.severity === 'error').length;
    const result = waiting.length > 0 ? 'Held' : errors > 0 || kept.length > 0 ? 'Partial' : 'Synced';
    const { valid } = desired;
    const sentences = [`${valid.size} objects in ${desired.files.length} files`];
    if (errors > 0) sentences.push(`${errors} error${errors === 1 ? '' : 's'}`);
    if (kept.length > 0) {
      sentences.push(`${objectsLeft(kept.length)} and ${kept.length === 1 ? 'is' : 'are'} kept: ${plan.keptReason}`);
    }
    if (waiting.length > 0) {
      const adopted = this.#adopted.length > 0 ? 'they were there before the repository named them' : undefined;
      const reason = [plan.waitingReason, adopted].filter((one) => one !== undefined).join(', or ');
      sentences.push(
        `${objectsLeft(waiting.length)} and wait${waiting.length === 1 ? 's' : ''} for a confirmation: ${reason}`,
      );
      sentences.push(`to delete them: ${this.#statusStore.confirmCommand(commit)}`);
    }
    for (const entry of plan.release) sentences.push(`Namespace ${entry.name} is left in place: delete it by hand`);
    const counts = { ...this.#counts, kept: notPruned.length };
    const source = this.#options.source.description;
    return { result, commit, source, message: sentences.join('; '), files: this.#files(desired), counts, notPruned };
  }

  #files(desired: DesiredState): FileResult[] {
    const problems = Map.groupBy([...this.#problems].sort(compareProblems), (problem) => problem.file);
    const names = new Set([...desired.files, ...problems.keys()]);
    return [...names].sort().map((file) => {
      return { file, applied: this.#appliedPerFile.get(file) ?? 0, problems: problems.get(file) ?? [] };
    });
  }
}

/**
 * @throws KubeError when the API server cannot be asked for the inventory or the status: nothing is decided then; the signal's reason
 */
export function syncOnce(options: SyncOptions, signal?: AbortSignal): Promise<SyncResult> {
  return new Pass(options, signal).run();
}

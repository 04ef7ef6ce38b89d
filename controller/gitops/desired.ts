/**
 * A snapshot as what it asks for: valid objects, objects that are named but cannot be applied, and files that cannot be read. Pure.
 *
 * Invariants:
 * 1. An object stands in at most one of `valid` and `named`; two definitions of one object leave it in `named`, with an error at both.
 * 2. A file with any error is in `failing`: nothing that it once defined is taken for removed.
 */
import { deepFreeze } from '../kube/json.ts';
import type { GroupVersionKind } from '../kube/port.ts';
import { isObject, type JsonObject } from '../standalone/schema/index.ts';
import { type ParsedDocument, type ParsedFile, type ParseLimits, parseFile } from './documents.ts';
import type { Problem } from './problems.ts';
import type { RefusedEntry, SourceFile } from './source.ts';
import { type DocumentValidator, segmentsOf } from './validator.ts';

export interface DesiredObject {
  /** `group/Kind/namespace/name` */
  readonly key: string;
  readonly gvk: GroupVersionKind;
  readonly name: string;
  /** Undefined for a cluster-scoped kind. */
  readonly namespace: string | undefined;
  /** What git says, without what only a server writes. */
  readonly object: JsonObject;
  readonly document: ParsedDocument;
}

export interface DesiredState {
  readonly valid: ReadonlyMap<string, DesiredObject>;
  /** Keys of objects that the files name but that are not valid. */
  readonly named: ReadonlySet<string>;
  /** Paths with an error; a directory that became a link stands here too, for everything below it. */
  readonly failing: ReadonlySet<string>;
  /** Content that hides which objects it defines: path to content id. */
  readonly unread: ReadonlyMap<string, string>;
  readonly problems: readonly Problem[];
  /** Every file that was looked at. */
  readonly files: readonly string[];
}

export interface DesiredOptions {
  readonly validator: DocumentValidator;
  readonly defaultNamespace: string;
  /** A sentence why an object of this kind and place is not to be applied, or undefined. */
  readonly refuse?: (gvk: GroupVersionKind, namespace: string | undefined, name: string) => string | undefined;
  readonly limits?: ParseLimits;
}

export const keyOf = (gvk: { group: string; kind: string }, namespace: string | undefined, name: string): string =>
  `${gvk.group}/${gvk.kind}/${namespace ?? ''}/${name}`;

export function objectTitle(kind: string, namespace: string | undefined, name: string): string {
  return `${kind} ${namespace === undefined || namespace === '' ? '' : `${namespace}/`}${name}`;
}

/** What only servers write; people leave it in when they copy from `kubectl get -o yaml`. */
const serverMetadata = ['uid', 'resourceVersion', 'generation', 'creationTimestamp', 'managedFields', 'selfLink'];
/** Whose business ends elsewhere: from git they would only block or trigger deletions. */
const refusedMetadata = [
  'generateName',
  'finalizers',
  'ownerReferences',
  'deletionTimestamp',
  'deletionGracePeriodSeconds',
];

/** By path and content, what was read of small files: most passes find the files of the pass before. */
const remembered = new Map<string, ParsedFile>();
const mostRemembered = 500;
const largestRememberedBytes = 16 * 1024;

function parseOnce({ path, id, bytes }: SourceFile, limits: ParseLimits | undefined): ParsedFile {
  if (limits !== undefined || bytes.byteLength > largestRememberedBytes) return parseFile(path, bytes, limits);
  const key = `${path}\0${id}`;
  const parsed = remembered.get(key) ?? parseFile(path, bytes);
  if (remembered.has(key)) return parsed;
  for (const { object } of parsed.documents) deepFreeze(object);
  if (remembered.size >= mostRemembered) remembered.clear();
  remembered.set(key, parsed);
  return parsed;
}

class Collector {
  readonly valid = new Map<string, DesiredObject>();
  readonly named = new Set<string>();
  readonly failing = new Set<string>();
  readonly unread = new Map<string, string>();
  readonly problems: Problem[] = [];
  readonly files: string[] = [];
  readonly #first = new Map<string, ParsedDocument>();
  readonly #options: DesiredOptions;

  constructor(options: DesiredOptions) {
    this.#options = options;
  }

  report(problem: Problem): void {
    this.problems.push(problem);
    if (problem.severity === 'error') this.failing.add(problem.file);
  }

  addRefused(entry: RefusedEntry): void {
    this.files.push(entry.path);
    this.unread.set(entry.path, entry.id);
    this.report(entry.problem);
  }

  addFile(file: SourceFile): void {
    this.files.push(file.path);
    const parsed = parseOnce(file, this.#options.limits);
    for (const problem of parsed.problems) this.report(problem);
    if (parsed.unread) this.unread.set(file.path, file.id);
    for (const document of parsed.documents) {
      if (!this.#addDocument(document)) this.unread.set(file.path, file.id);
    }
  }

  /** False when it cannot be said which object this is. */
  #addDocument(document: ParsedDocument): boolean {
    const { apiVersion, kind, name, file } = document;
    const found = this.#options.validator.lookUp(apiVersion, kind);
    if (!('gvk' in found)) {
      const { field, reason, hint } = found;
      const place = document.placeOf([field]);
      this.report({ file, ...place, field, severity: 'error', reason, ...(hint === undefined ? {} : { hint }) });
      return false;
    }
    const { gvk } = found;
    const namespace = gvk.namespaced ? (document.namespace ?? this.#options.defaultNamespace) : undefined;
    const key = keyOf(gvk, namespace, name);
    const title = objectTitle(kind, namespace, name);
    if (this.#isDuplicate(key, title, document)) return true;
    const errorsBefore = this.problems.length;
    const object = this.#cleaned(document, namespace, title);
    this.#check(gvk, namespace, object, document, title);
    const isSound = !this.problems.slice(errorsBefore).some((problem) => problem.severity === 'error');
    if (isSound) this.valid.set(key, { key, gvk, name, namespace, object, document });
    else this.named.add(key);
    return !this.problems.slice(errorsBefore).some((problem) => /^metadata\.name/.test(problem.field ?? ''));
  }

  #isDuplicate(key: string, object: string, document: ParsedDocument): boolean {
    const first = this.#first.get(key);
    if (first === undefined) {
      this.#first.set(key, document);
      return false;
    }
    const hint = 'keep one of the two; until then neither is applied';
    const tell = (here: ParsedDocument, there: ParsedDocument): void => {
      const reason = `also defined at ${there.file}:${there.line}`;
      this.report({ file: here.file, line: here.line, object, severity: 'error', reason, hint });
    };
    tell(document, first);
    if (this.valid.delete(key) || !this.named.has(key)) tell(first, document);
    this.named.add(key);
    return true;
  }

  #cleaned(document: ParsedDocument, namespace: string | undefined, title: string): JsonObject {
    const { status, ...object } = document.object;
    const metadata: JsonObject = isObject(object.metadata) ? { ...object.metadata } : {};
    const at = (field: string): Pick<Problem, 'file' | 'object' | 'field'> => {
      return { file: document.file, object: title, field, ...document.placeOf(field.split('.')) };
    };
    if (status !== undefined) {
      this.report({
        ...at('status'),
        severity: 'warning',
        reason: 'status is written by the operator and is left out',
      });
    }
    for (const name of serverMetadata) delete metadata[name];
    for (const name of refusedMetadata) {
      if (metadata[name] === undefined) continue;
      this.report({
        ...at(`metadata.${name}`),
        severity: 'error',
        reason: 'cannot be set from files',
        hint: 'remove it',
      });
    }
    for (const name of Object.keys(isObject(metadata.annotations) ? metadata.annotations : {})) {
      if (!reservedAnnotations.has(name)) continue;
      this.report({
        ...at('metadata.annotations'),
        severity: 'error',
        reason: `the annotation ${name} is the operator's own`,
      });
    }
    if (namespace !== undefined) metadata.namespace = namespace;
    return { ...object, metadata };
  }

  #check(
    gvk: GroupVersionKind,
    namespace: string | undefined,
    object: JsonObject,
    document: ParsedDocument,
    title: string,
  ): void {
    const base = { file: document.file, object: title, severity: 'error' } as const;
    const refusal = this.#options.refuse?.(gvk, namespace, document.name);
    if (refusal !== undefined) this.report({ ...base, line: document.line, reason: refusal });
    for (const finding of this.#options.validator.validate(gvk, object)) {
      const { field, reason, hint } = finding;
      const place = document.placeOf(finding.path.length > 0 ? finding.path : segmentsOf(field));
      this.report({ ...base, ...place, field, reason, ...(hint === undefined ? {} : { hint }) });
    }
  }
}

/** What git last said, as JSON, on the object itself. */
export const lastAppliedAnnotation = 'bitvisor.io/last-applied';
/** The name of the sync that applies the object. */
export const appliedByAnnotation = 'bitvisor.io/applied-by';
/** On an object that was there before the repository named it. */
export const adoptedAnnotation = 'bitvisor.io/adopted';
const reservedAnnotations: ReadonlySet<string> = new Set([
  lastAppliedAnnotation,
  appliedByAnnotation,
  adoptedAnnotation,
]);

export function desiredState(
  contents: { readonly files: readonly SourceFile[]; readonly refused: readonly RefusedEntry[] },
  options: DesiredOptions,
): DesiredState {
  const collector = new Collector(options);
  for (const entry of contents.refused) collector.addRefused(entry);
  for (const file of contents.files) collector.addFile(file);
  return collector;
}

/**
 * The bytes of one YAML or JSON file as Kubernetes documents, each with the lines of its fields. Pure.
 *
 * Invariants:
 * 1. Whatever the bytes are, the answer is documents and problems, never an exception, in bounded memory: size, documents, depth, and
 *    what aliases expand to are all limited before they are followed.
 * 2. What comes out is plain JSON that shares nothing: no aliases, no NaN, no `__proto__`.
 * 3. `unread` is true when the file holds something of which not even the identity is known.
 */
import { isMap, isScalar, isSeq, LineCounter, parseAllDocuments, type Document as YamlDocument } from 'yaml';
import { isObject, type JsonObject, type JsonValue } from '../standalone/schema/index.ts';
import type { Problem } from './problems.ts';

export interface ParseLimits {
  readonly fileBytes: number;
  readonly documentsPerFile: number;
  /** Levels of nesting. */
  readonly depth: number;
  /** Values in one document once its aliases are expanded. */
  readonly values: number;
  /** Characters of text in one document once its aliases are expanded. */
  readonly characters: number;
  /** Aliases in one document, counted with what they expand to. */
  readonly aliases: number;
}

/**
 * An object that is applied has at most 240 KiB; the parser takes up to three seconds for a hostile MiB, during which nothing else
 * happens. The deepest field of the contract lies 12 levels down.
 */
export const defaultLimits: ParseLimits = {
  fileBytes: 1024 * 1024,
  documentsPerFile: 5_000,
  depth: 64,
  values: 200_000,
  characters: 8 * 1024 * 1024,
  aliases: 100,
};

export type Segments = readonly (string | number)[];

export interface Place {
  readonly line: number;
  readonly column: number;
}

export interface Identity {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly namespace?: string;
}

export interface ParsedDocument extends Identity {
  readonly file: string;
  /** Where it starts, from 1. */
  readonly line: number;
  readonly object: JsonObject;
  /** The place of the field, or of the nearest field around it that stands in the file. */
  placeOf(path: Segments): Place;
}

export interface ParsedFile {
  readonly documents: ParsedDocument[];
  readonly problems: Problem[];
  readonly unread: boolean;
}

/** `[1.5, 4 MiB]` for people. */
function sizeText(bytes: number): string {
  if (bytes < 1024) return `${bytes} bytes`;
  if (bytes < 1024 * 1024) return `${(bytes / 1024).toFixed(1)} KiB`;
  return `${(bytes / (1024 * 1024)).toFixed(1)} MiB`;
}

export function tooLarge(file: string, bytes: number, limits: ParseLimits): Problem {
  return {
    file,
    severity: 'error',
    reason: `the file has ${sizeText(bytes)}, more than the ${sizeText(limits.fileBytes)} that are read`,
    hint: 'manifests are small: keep images and data elsewhere, or split the file',
  };
}

class Unusable extends Error {}

/** Copies what yaml made of a document into plain JSON, within the limits. */
function toPlain(
  value: unknown,
  limits: ParseLimits,
  spent: { values: number; characters: number },
  depth = 0,
): JsonValue {
  if (depth > limits.depth) throw new Unusable(`nested deeper than ${limits.depth} levels`);
  spent.values += 1;
  if (spent.values > limits.values) throw new Unusable(`more than ${limits.values} values once aliases are expanded`);
  if (typeof value === 'string') {
    spent.characters += value.length;
    if (spent.characters > limits.characters) throw new Unusable('too much text once aliases are expanded');
    return value;
  }
  if (value === null || value === undefined) return null;
  if (typeof value === 'boolean') return value;
  if (typeof value === 'number') {
    if (Number.isFinite(value)) return value;
    throw new Unusable(`${value} is not a number that JSON knows`);
  }
  if (Array.isArray(value)) return value.map((item) => toPlain(item, limits, spent, depth + 1));
  if (!isObject(value) || Object.getPrototypeOf(value) !== Object.prototype) {
    throw new Unusable('holds a value that JSON does not know');
  }
  const copy: JsonObject = {};
  for (const [key, item] of Object.entries(value)) {
    if (key === '__proto__') throw new Unusable('a field cannot be called __proto__');
    spent.characters += key.length;
    copy[key] = toPlain(item, limits, spent, depth + 1);
  }
  return copy;
}

/** Offset of the first key that its map has already. yaml's own check compares every key with every other. */
function repeatedKey(document: YamlDocument.Parsed): { readonly key: string; readonly offset: number } | undefined {
  const left: unknown[] = [document.contents];
  while (left.length > 0) {
    const node = left.pop();
    if (isSeq(node)) for (const item of node.items) left.push(item);
    if (!isMap(node)) continue;
    const seen = new Set<string>();
    for (const { key, value } of node.items) {
      left.push(value);
      if (!isScalar(key)) continue;
      const name = String(key.value);
      if (seen.has(name) && name !== '<<') return { key: name, offset: key.range?.[0] ?? 0 };
      seen.add(name);
    }
  }
  return undefined;
}

/** Offset in the text of the field at `path`, or of the nearest one around it. */
function offsetOf(document: YamlDocument.Parsed, path: Segments): number {
  let node: unknown = document.contents;
  let offset = document.contents?.range?.[0] ?? document.range[0];
  for (const segment of path) {
    if (isMap(node)) {
      const pair = node.items.find(
        (item) => (isScalar(item.key) ? String(item.key.value) : undefined) === String(segment),
      );
      if (pair === undefined) return offset;
      if (isScalar(pair.key)) offset = pair.key.range?.[0] ?? offset;
      node = pair.value;
    } else if (isSeq(node) && typeof segment === 'number') {
      const item: unknown = node.items[segment];
      if (item === undefined) return offset;
      node = item;
      if (typeof item === 'object' && item !== null && 'range' in item && Array.isArray(item.range)) {
        offset = Number(item.range[0]);
      }
    } else {
      return offset;
    }
  }
  return offset;
}

/** What identifies the object, or what is missing for that. */
function identify(object: JsonObject): Identity | { field: string; reason: string } {
  const { apiVersion, kind } = object;
  const metadata = isObject(object.metadata) ? object.metadata : {};
  const { name, namespace } = metadata;
  for (const [field, value] of Object.entries({ apiVersion, kind, 'metadata.name': name })) {
    if (value === undefined || value === null || value === '') return { field, reason: `${field} is missing` };
    if (typeof value !== 'string') return { field, reason: `${field} must be a string` };
  }
  if (namespace !== undefined && namespace !== null && typeof namespace !== 'string') {
    return { field: 'metadata.namespace', reason: 'metadata.namespace must be a string' };
  }
  const given = typeof namespace === 'string' && namespace !== '' ? { namespace } : {};
  return { apiVersion: String(apiVersion), kind: String(kind), name: String(name), ...given };
}

class FileReader {
  readonly documents: ParsedDocument[] = [];
  readonly problems: Problem[] = [];
  unread = false;
  readonly #file: string;
  readonly #limits: ParseLimits;
  readonly #lines = new LineCounter();

  constructor(file: string, limits: ParseLimits) {
    this.#file = file;
    this.#limits = limits;
  }

  #fail(reason: string, at: Partial<Place> & { field?: string; hint?: string } = {}): void {
    this.unread = true;
    this.problems.push({ file: this.#file, severity: 'error', reason, ...at });
  }

  #place(offset: number): Place {
    const { line, col } = this.#lines.linePos(offset);
    return { line: Math.max(1, line), column: Math.max(1, col) };
  }

  read(bytes: Uint8Array): void {
    if (bytes.byteLength > this.#limits.fileBytes) {
      this.unread = true;
      this.problems.push(tooLarge(this.#file, bytes.byteLength, this.#limits));
      return;
    }
    let text: string;
    try {
      text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    } catch {
      this.#fail('the file is not UTF-8 text', { line: 1 });
      return;
    }
    try {
      this.#readText(text);
    } catch (error) {
      // The parser recurses: hostile nesting ends in a full stack, which is caught here and nowhere later.
      if (!(error instanceof RangeError)) throw error;
      this.#fail('the file is nested too deeply to be read', { line: 1 });
    }
  }

  #readText(text: string): void {
    const parsed = parseAllDocuments(text, {
      lineCounter: this.#lines,
      merge: true,
      stringKeys: true,
      uniqueKeys: false,
      logLevel: 'silent',
    });
    const documents: YamlDocument.Parsed[] = Array.isArray(parsed) ? parsed : [];
    if (documents.length > this.#limits.documentsPerFile) {
      this.#fail(`the file holds more than ${this.#limits.documentsPerFile} documents`, { hint: 'split it' });
      return;
    }
    for (const document of documents) this.#readDocument(document);
  }

  #readDocument(document: YamlDocument.Parsed): void {
    const [error] = [...document.errors, ...document.warnings];
    if (error !== undefined) {
      // The parser turns a full stack into an error of its own.
      if (error.message.startsWith('Maximum call stack')) throw new RangeError(error.message);
      const sentence = error.message.split('\n')[0]?.replace(/ at line \d+, column \d+:?$/, '') ?? 'not YAML';
      this.#fail(`not valid YAML: ${sentence}`, this.#place(error.pos[0]));
      return;
    }
    if (document.contents === null) return;
    const repeated = repeatedKey(document);
    if (repeated !== undefined) {
      const reason = `the field ${JSON.stringify(repeated.key)} stands here for the second time`;
      this.#fail(reason, { ...this.#place(repeated.offset), hint: 'keep one of the two' });
      return;
    }
    const start = this.#place(offsetOf(document, []));
    let value: JsonValue;
    try {
      const limits = this.#limits;
      value = toPlain(document.toJS({ maxAliasCount: limits.aliases }), limits, { values: 0, characters: 0 });
    } catch (cause) {
      if (cause instanceof ReferenceError) {
        const hint = 'write the repeated parts out';
        this.#fail('its aliases expand to more than is read', { line: start.line, hint });
        return;
      }
      if (!(cause instanceof Unusable)) throw cause;
      this.#fail(cause.message, { line: start.line });
      return;
    }
    if (value === null) return;
    this.#readValue(document, value, []);
  }

  #readValue(document: YamlDocument.Parsed, value: JsonValue, prefix: Segments): void {
    const placeOf = (path: Segments): Place => this.#place(offsetOf(document, [...prefix, ...path]));
    const { line } = placeOf([]);
    if (!isObject(value)) {
      this.#fail('not a Kubernetes object', { line, hint: 'a document starts with apiVersion and kind' });
      return;
    }
    if (value.kind === 'List' && Array.isArray(value.items)) {
      for (const [index, item] of value.items.entries()) {
        if (this.documents.length >= this.#limits.documentsPerFile) {
          this.#fail(`the file holds more than ${this.#limits.documentsPerFile} objects`, { line, hint: 'split it' });
          return;
        }
        if (isObject(item) && item.kind === 'List') this.#fail('a List inside a List is not read', { line });
        else this.#readValue(document, item, [...prefix, 'items', index]);
      }
      return;
    }
    const identity = identify(value);
    if ('reason' in identity) {
      const { field, reason } = identity;
      this.#fail(reason, { ...placeOf(field.split('.')), field });
      return;
    }
    this.documents.push({ ...identity, file: this.#file, line, object: value, placeOf });
  }
}

/** JSON is read as the YAML that it is. */
export function parseFile(file: string, bytes: Uint8Array, limits: ParseLimits = defaultLimits): ParsedFile {
  const reader = new FileReader(file, limits);
  reader.read(bytes);
  const { documents, problems, unread } = reader;
  return { documents, problems, unread };
}

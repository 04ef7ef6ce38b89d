/**
 * The durable state: every object as the JSON text that clients see, in SQLite, under one sequence of resource versions.
 *
 * Invariants:
 * 1. A resource version is given to one change of one object, in order of commit, and is never given again.
 * 2. Writes of one turn of the event loop are committed together. Nobody learns of a write, by an answer or a watch, before its
 *    commit returned: whoever reads settles the open batch first.
 * 3. In WAL mode with synchronous=NORMAL a commit survives the death of the process at any instant. A power cut may undo the last
 *    commits (never tear one): clients then see an older version, as after restoring a backup. `fullSync` waits for the disk instead.
 * 4. One process owns the file: a second one is refused.
 * 5. A file that is damaged is not opened. A disk that fails takes the whole open batch with it: all of its writes are rejected, and nothing of them is kept.
 */
import { DatabaseSync, type StatementSync } from 'node:sqlite';

export interface StoredObject {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly version: number;
  /** Identifies the schema that the object was last pruned and defaulted with. */
  readonly schema: string;
  /** The object as JSON, with its resourceVersion. */
  readonly body: string;
}

export interface Change {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED';
  readonly resource: string;
  readonly namespace: string;
  readonly name: string;
  readonly version: number;
  /** After the change; for a deletion the last state, carrying the version of the deletion. */
  readonly body: string;
  /** Before the change; absent for a creation. */
  readonly previous?: string;
}

export interface Owned {
  readonly resource: string;
  readonly namespace: string;
  readonly name: string;
}

/** What is written beside the JSON text. */
export interface ObjectFacts {
  readonly uid: string;
  readonly schema: string;
  readonly deleting: boolean;
  readonly ownerUids: readonly string[];
}

const layout = `
  CREATE TABLE IF NOT EXISTS objects (
    resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    uid TEXT NOT NULL, version INTEGER NOT NULL, schema TEXT NOT NULL, deleting INTEGER NOT NULL, body TEXT NOT NULL);
  CREATE UNIQUE INDEX IF NOT EXISTS objects_key ON objects (resource, namespace, name);
  CREATE INDEX IF NOT EXISTS objects_uid ON objects (uid);
  CREATE INDEX IF NOT EXISTS objects_deleting ON objects (deleting) WHERE deleting = 1;
  CREATE TABLE IF NOT EXISTS owners (
    owner_uid TEXT NOT NULL, resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    PRIMARY KEY (owner_uid, resource, namespace, name)) WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS owners_key ON owners (resource, namespace, name);
  CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
`;
/** Raised when `layout` changes in a way that an older program cannot read. */
const layoutVersion = 1;

/** Result codes of SQLite that are the disk's fault, each with a sentence for people. https://sqlite.org/rescode.html */
const troubles: ReadonlyMap<number, string> = new Map([
  [13, 'the disk of the data directory is full: nothing was changed; free space on it, and ask again'],
  [10, 'the data directory cannot be read or written: look at its disk'],
  [8, 'the data directory cannot be written: it is read-only'],
  [11, 'the database in the data directory is damaged: stop the server and restore a backup'],
  [26, 'the database in the data directory is damaged: stop the server and restore a backup'],
]);

/** What is wrong with the disk or the file, where that is why a call of the storage threw. */
export function storageTrouble(error: unknown): string | undefined {
  const { errcode } = error as { errcode?: unknown };
  // The low byte is the primary code.
  return typeof errcode === 'number' ? troubles.get(errcode & 0xff) : undefined;
}

/** A second for the 370 MB of 88,128 nodes: what a torn write left must not be found by a list that lacks objects. */
function examine(database: DatabaseSync): void {
  const [found] = database.prepare('PRAGMA integrity_check(1)').all();
  const verdict = String(found?.integrity_check);
  if (verdict !== 'ok') throw new Error(`it is damaged (${verdict.replaceAll('\n', ' ')})`);
}

function whyNotOpened(path: string, cause: unknown): Error {
  const { message } = cause as Error;
  if (/locked|busy/i.test(message)) {
    return new Error(`${path} is in use by another process; stop it or choose another data directory`, { cause });
  }
  const damaged = /damaged|malformed|not a database/i.test(message);
  const remedy = damaged ? '; restore a backup of it: what was written since is then shown as a conflict' : '';
  return new Error(`cannot open ${path}: ${message}${remedy}`, { cause });
}

function open(path: string, fullSync: boolean): DatabaseSync {
  const database = new DatabaseSync(path);
  try {
    database.exec('PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;');
    database.exec(`PRAGMA synchronous = ${fullSync ? 'FULL' : 'NORMAL'}; PRAGMA cache_size = -65536;`);
    database.exec(`BEGIN IMMEDIATE; ${layout} COMMIT;`);
    examine(database);
  } catch (cause) {
    database.close();
    throw whyNotOpened(path, cause);
  }
  return database;
}

function rowToObject(row: Record<string, unknown> | undefined): StoredObject | undefined {
  return row as unknown as StoredObject | undefined;
}

export class Storage {
  readonly #database: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();
  #version: number;
  #open: Change[] | undefined;
  #waiting: { resolve: () => void; reject: (error: unknown) => void }[] = [];
  #listener: (changes: readonly Change[]) => void = () => {};
  #closed = false;

  /** @throws Error with what to do when the file is in use or from a newer program. */
  constructor(path: string, options: { fullSync?: boolean } = {}) {
    this.#database = open(path, options.fullSync ?? false);
    const found = Number(this.fact('layout') ?? layoutVersion);
    if (found !== layoutVersion) {
      this.#database.close();
      throw new Error(`${path} was written by a newer version of this program (layout ${found})`);
    }
    this.setFact('layout', String(layoutVersion));
    this.#version = Number(this.fact('version') ?? 1);
  }

  #prepare(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#database.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }

  /** Called with the changes of every commit, in order. */
  onCommit(listener: (changes: readonly Change[]) => void): void {
    this.#listener = listener;
  }

  /** The newest version that was given out. */
  get version(): number {
    return this.#version;
  }

  fact(name: string): string | undefined {
    const row = this.#prepare('SELECT value FROM facts WHERE name = ?').get(name);
    return row === undefined ? undefined : String(row.value);
  }

  setFact(name: string, value: string): void {
    this.#prepare('INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value').run(
      name,
      value,
    );
  }

  get(resource: string, namespace: string, name: string): StoredObject | undefined {
    return rowToObject(
      this.#prepare(
        'SELECT namespace, name, uid, version, schema, body FROM objects WHERE resource = ? AND namespace = ? AND name = ?',
      ).get(resource, namespace, name),
    );
  }

  /** Where the object with this uid is, or undefined. */
  locate(uid: string): Owned | undefined {
    return this.#prepare('SELECT resource, namespace, name FROM objects WHERE uid = ?').get(uid) as Owned | undefined;
  }

  /** Up to `limit` objects after a key, in order of namespace and name. */
  page(
    resource: string,
    namespace: string | undefined,
    after: readonly [string, string],
    limit: number,
  ): StoredObject[] {
    const columns = 'SELECT namespace, name, uid, version, schema, body FROM objects WHERE resource = ?';
    const rows =
      namespace === undefined
        ? this.#prepare(`${columns} AND (namespace, name) > (?, ?) ORDER BY namespace, name LIMIT ?`).all(
            resource,
            after[0],
            after[1],
            limit,
          )
        : this.#prepare(`${columns} AND namespace = ? AND name > ? ORDER BY name LIMIT ?`).all(
            resource,
            namespace,
            after[1],
            limit,
          );
    return rows as unknown as StoredObject[];
  }

  /** Objects that name the owner with this uid. */
  dependents(ownerUid: string): Owned[] {
    return this.#prepare('SELECT resource, namespace, name FROM owners WHERE owner_uid = ?').all(
      ownerUid,
    ) as unknown as Owned[];
  }

  /** Owners that are named but not there: their dependents are garbage. */
  absentOwners(): string[] {
    const rows = this.#prepare(
      'SELECT DISTINCT owner_uid FROM owners WHERE NOT EXISTS (SELECT 1 FROM objects WHERE uid = owner_uid)',
    ).all();
    return rows.map((row) => String(row.owner_uid));
  }

  /** Objects with a deletionTimestamp. */
  deleting(): Owned[] {
    return this.#prepare(
      'SELECT resource, namespace, name FROM objects WHERE deleting = 1',
    ).all() as unknown as Owned[];
  }

  /** Resources that have objects in a namespace. */
  resourcesIn(namespace: string): string[] {
    const rows = this.#prepare('SELECT DISTINCT resource FROM objects WHERE namespace = ?').all(namespace);
    return rows.map((row) => String(row.resource));
  }

  #begin(): Change[] {
    if (this.#closed) throw new Error('the store is closed');
    if (this.#open === undefined) {
      this.#database.exec('BEGIN');
      this.#open = [];
      setImmediate(() => this.settle());
    }
    return this.#open;
  }

  #inBatch(write: (changes: Change[]) => void): void {
    const changes = this.#begin();
    try {
      write(changes);
    } catch (error) {
      // SQLite may have rolled back by itself, and then every later statement would be committed alone.
      if (storageTrouble(error) !== undefined || !this.#database.isTransaction) this.#giveUp(error);
      throw error;
    }
  }

  #giveUp(error: unknown): void {
    const waiting = this.#waiting;
    this.#open = undefined;
    this.#waiting = [];
    this.#rollBack();
    for (const waiter of waiting) waiter.reject(error);
  }

  /** The version that the next write will carry; to be put into its JSON text. */
  nextVersion(): number {
    return this.#version + 1;
  }

  #writeOwners(owned: Owned, ownerUids: readonly string[]): void {
    const { resource, namespace, name } = owned;
    this.#prepare('DELETE FROM owners WHERE resource = ? AND namespace = ? AND name = ?').run(
      resource,
      namespace,
      name,
    );
    for (const uid of new Set(ownerUids)) {
      this.#prepare('INSERT INTO owners VALUES (?, ?, ?, ?)').run(uid, resource, namespace, name);
    }
  }

  insert(key: Owned, body: string, facts: ObjectFacts): void {
    this.#inBatch((changes) => {
      const { resource, namespace, name } = key;
      const version = this.nextVersion();
      this.#prepare('INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?, ?, ?)').run(
        resource,
        namespace,
        name,
        facts.uid,
        version,
        facts.schema,
        facts.deleting ? 1 : 0,
        body,
      );
      if (facts.ownerUids.length > 0) this.#writeOwners(key, facts.ownerUids);
      this.#version = version;
      changes.push({ type: 'ADDED', resource, namespace, name, version, body });
    });
  }

  /** @param ownersChanged false spares the index of owners. */
  update(key: Owned, body: string, facts: ObjectFacts, previous: string, ownersChanged: boolean): void {
    this.#inBatch((changes) => {
      const { resource, namespace, name } = key;
      const version = this.nextVersion();
      this.#prepare(
        'UPDATE objects SET version = ?, schema = ?, deleting = ?, body = ? WHERE resource = ? AND namespace = ? AND name = ?',
      ).run(version, facts.schema, facts.deleting ? 1 : 0, body, resource, namespace, name);
      if (ownersChanged) this.#writeOwners(key, facts.ownerUids);
      this.#version = version;
      changes.push({ type: 'MODIFIED', resource, namespace, name, version, body, previous });
    });
  }

  remove(key: Owned, lastBody: string, previous: string): void {
    this.#inBatch((changes) => {
      const { resource, namespace, name } = key;
      const version = this.nextVersion();
      this.#prepare('DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?').run(
        resource,
        namespace,
        name,
      );
      this.#prepare('DELETE FROM owners WHERE resource = ? AND namespace = ? AND name = ?').run(
        resource,
        namespace,
        name,
      );
      this.#version = version;
      changes.push({ type: 'DELETED', resource, namespace, name, version, body: lastBody, previous });
    });
  }

  /** Commits what is open, now. */
  settle(): void {
    const changes = this.#open;
    if (changes === undefined) return;
    try {
      this.setFact('version', String(this.#version));
      this.#database.exec('COMMIT');
    } catch (error) {
      this.#giveUp(error);
      return;
    }
    const waiting = this.#waiting;
    this.#open = undefined;
    this.#waiting = [];
    this.#listener(changes);
    for (const waiter of waiting) waiter.resolve();
  }

  #rollBack(): void {
    try {
      this.#database.exec('ROLLBACK');
    } catch {
      // SQLite has already rolled back by itself (a full disk, for one).
    }
    this.#version = Number(this.fact('version') ?? 1);
  }

  /** Resolves once everything that was written so far is committed; rejects when the commit failed and nothing of it holds. */
  committed(): Promise<void> {
    if (this.#open === undefined) return Promise.resolve();
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  close(): void {
    if (this.#closed) return;
    this.settle();
    this.#closed = true;
    this.#database.close();
  }
}

/**
 * The agent's durable log: one row a node, the highest term, and the id of the log itself.
 *
 * Invariants:
 * 1. `write` is atomic, and durable when it returns: the agent acts only afterwards.
 * 2. Readable by the agent's own user alone, and what a row held before is overwritten: plans hold secrets of tenants.
 * 3. `storeId` is made with the log and never changes; an operator that finds another id knows that records were lost.
 */
import { chmodSync, closeSync, existsSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { Row } from './row.ts';

export interface AgentLog {
  readonly storeId: string;
  /** Highest term ever written. */
  highestTerm(): number;
  load(): Row[];
  /** @throws when it cannot be made durable; nothing of it is then in force */
  write(rows: readonly Row[], highestTerm: number): void;
  close(): void;
}

/**
 * `PowerLoss`: every write is on the disk when it returns. `Kill`: survives the end of the process, not of the machine; for
 * simulated machine rooms, whose machines would be lost with it.
 */
export type Durability = 'PowerLoss' | 'Kill';

interface RowRecord {
  node: string;
  body: string;
}

/** A damaged log is worse than none: what it still says of a node may be of the tenant before. */
function refuseDamaged(path: string, database: DatabaseSync): void {
  const damaged = (why: string, cause?: unknown): Error =>
    new Error(
      `${path} is damaged (${why.replaceAll('\n', ' ')}); restore a backup of it, or move it away: its machines are then held until a person decides`,
      { cause },
    );
  let verdict: string;
  try {
    verdict = String(database.prepare('PRAGMA integrity_check(1)').get()?.integrity_check);
  } catch (error) {
    throw damaged(error instanceof Error ? error.message : String(error), error);
  }
  if (verdict !== 'ok') throw damaged(verdict);
}

/** SQLite gives the files beside its database the mode of the database. */
function makePrivate(path: string): void {
  closeSync(openSync(path, 'a', 0o600));
  for (const file of [path, `${path}-wal`, `${path}-shm`]) if (existsSync(file)) chmodSync(file, 0o600);
}

/**
 * Opens the log at `path`, or makes it under the id given.
 * @throws Error that says what to do when the file is damaged
 */
export function openSqliteLog(path: string, newStoreId: string, durability: Durability): AgentLog {
  if (!existsSync(dirname(path))) mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  makePrivate(path);
  const database = new DatabaseSync(path);
  try {
    refuseDamaged(path, database);
  } catch (error) {
    database.close();
    throw error;
  }
  database.exec('PRAGMA secure_delete = ON');
  database.exec('PRAGMA journal_mode = WAL');
  database.exec(`PRAGMA synchronous = ${durability === 'PowerLoss' ? 'FULL' : 'NORMAL'}`);
  database.exec('CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT');
  database.exec('CREATE TABLE IF NOT EXISTS node (node TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID');
  database.prepare("INSERT OR IGNORE INTO meta VALUES ('storeId', ?), ('highestTerm', '0')").run(newStoreId);
  const readMeta = database.prepare('SELECT value FROM meta WHERE key = ?');
  const setTerm = database.prepare(
    "UPDATE meta SET value = ? WHERE key = 'highestTerm' AND CAST(value AS INTEGER) < ?",
  );
  const putRow = database.prepare(
    'INSERT INTO node VALUES (?, ?) ON CONFLICT (node) DO UPDATE SET body = excluded.body',
  );
  const allRows = database.prepare('SELECT node, body FROM node');
  const meta = (key: string): string => String(readMeta.get(key)?.value ?? '');
  let term = Number(meta('highestTerm'));
  return {
    storeId: meta('storeId'),
    highestTerm: () => term,
    load: () => (allRows.all() as unknown as RowRecord[]).map(({ body }) => JSON.parse(body) as Row),
    write(rows, highestTerm) {
      database.exec('BEGIN IMMEDIATE');
      try {
        for (const row of rows) putRow.run(row.node, JSON.stringify(row));
        if (highestTerm > term) setTerm.run(String(highestTerm), highestTerm);
        database.exec('COMMIT');
      } catch (error) {
        if (database.isTransaction) database.exec('ROLLBACK');
        throw error;
      }
      term = Math.max(term, highestTerm);
    },
    close: () => database.close(),
  };
}

/**
 * A log in memory, which outlives the core that writes it. With `flush: 'Manual'` what was written since the last `flush()` is
 * lost by `crash()`: a log that breaks its promise, for tests of what then still holds.
 */
export class MemoryLog implements AgentLog {
  readonly storeId: string;
  readonly #flush: 'Always' | 'Manual';
  #rows = new Map<string, Row>();
  #flushed = new Map<string, Row>();
  #term = 0;
  #flushedTerm = 0;
  /** The next write throws it. */
  nextError: Error | undefined;

  constructor(storeId: string, flush: 'Always' | 'Manual' = 'Always') {
    this.storeId = storeId;
    this.#flush = flush;
  }

  highestTerm(): number {
    return this.#term;
  }

  load(): Row[] {
    return [...this.#rows.values()];
  }

  write(rows: readonly Row[], highestTerm: number): void {
    const error = this.nextError;
    this.nextError = undefined;
    if (error !== undefined) throw error;
    for (const row of rows) this.#rows.set(row.node, row);
    this.#term = Math.max(this.#term, highestTerm);
  }

  flush(): void {
    this.#flushed = new Map(this.#rows);
    this.#flushedTerm = this.#term;
  }

  crash(): void {
    if (this.#flush === 'Always') return;
    this.#rows = new Map(this.#flushed);
    this.#term = this.#flushedTerm;
  }

  close(): void {}
}

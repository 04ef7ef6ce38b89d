/**
 * Where a rack's machines outlive their process, and the record of what truly happened to them, for tests to judge by.
 *
 * Invariants:
 * 1. `save` is atomic: machines and the events that made them are stored together, before anybody is told of them.
 * 2. Events are only appended; the oldest go when there are more than the limit.
 */
import { existsSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { SimMachine } from './machine.ts';

/**
 * What truly happened, whatever a driver reads; `detail` says what exactly.
 *
 * - Machine: `power` and `reset`, `boot` (what it asked for and got), `crashed`; `order`, `serving` and `export` as they are
 *   in force, with what is shown of them.
 * - Guest: `guest` (it executed its first instruction of a boot, with the true domains of its ports, what was read of them,
 *   and which machines with guests they reach), `devirtualized` (the VMM left, and how everything stood), `secrets` (who got
 *   what a plan holds).
 * - Disks: `imaged` (erased for a fresh copy, over whose data), `installed` (the last block is out of the write cache),
 *   `cacheLost`, `mapTorn`, `diskSwapped`, `wiped` (of whose data).
 * - `port`: the end of this machine's cable is in another domain now, and why. `attested`, `checked`: of the trusted image.
 * - `fault` and `healed`: a fault struck, by its kind, and ended, where it has an end of its own. `ghost`: a job ran that its
 *   driver had been told is gone. `spoofed`: a guest asked the boot server as another machine.
 */
export type RoomEventKind =
  | 'power'
  | 'reset'
  | 'boot'
  | 'crashed'
  | 'order'
  | 'serving'
  | 'export'
  | 'guest'
  | 'devirtualized'
  | 'secrets'
  | 'imaged'
  | 'installed'
  | 'cacheLost'
  | 'mapTorn'
  | 'diskSwapped'
  | 'wiped'
  | 'port'
  | 'attested'
  | 'checked'
  | 'fault'
  | 'healed'
  | 'ghost'
  | 'spoofed';

export interface RoomEvent {
  /** In the room's own time. */
  readonly atMs: number;
  readonly node: string;
  readonly event: RoomEventKind;
  readonly detail: Readonly<Record<string, unknown>>;
}

export interface RackStore {
  /** Whether it outlives the process: then the room's time is stored while it passes, not only with changes. */
  readonly durable: boolean;
  load(): { readonly machines: SimMachine[]; readonly nowMs: number };
  save(machines: Iterable<SimMachine>, nowMs: number, events: readonly RoomEvent[]): void;
  /** Oldest first. */
  history(): RoomEvent[];
  close(): void;
}

/** Keeps nothing of the machines: the process is the room. */
export class MemoryRackStore implements RackStore {
  readonly durable = false;
  readonly #bodies = new Map<string, string>();
  readonly #events: RoomEvent[] = [];
  readonly #limit: number;
  readonly #keepMachines: boolean;
  #nowMs = 0;

  constructor(historyLimit: number, keepMachines: boolean) {
    this.#limit = historyLimit;
    this.#keepMachines = keepMachines;
  }

  load(): { machines: SimMachine[]; nowMs: number } {
    return { machines: [...this.#bodies.values()].map((body) => JSON.parse(body) as SimMachine), nowMs: this.#nowMs };
  }

  save(machines: Iterable<SimMachine>, nowMs: number, events: readonly RoomEvent[]): void {
    this.#nowMs = nowMs;
    if (this.#keepMachines) for (const machine of machines) this.#bodies.set(machine.name, JSON.stringify(machine));
    if (this.#limit === 0) return;
    this.#events.push(...events);
    if (this.#events.length > this.#limit * 1.5) this.#events.splice(0, this.#events.length - this.#limit);
  }

  history(): RoomEvent[] {
    return [...this.#events];
  }

  close(): void {}
}

/** How often the oldest events are looked for, in saves. */
const trimEvery = 1000;

/** Survives SIGKILL; a test may read the table `history` (at_ms, node, event, detail as JSON) while the process runs. */
export function openSqliteRackStore(path: string, historyLimit: number): RackStore {
  if (!existsSync(dirname(path))) mkdirSync(dirname(path), { recursive: true });
  const database = new DatabaseSync(path);
  database.exec('PRAGMA journal_mode = WAL');
  database.exec('PRAGMA synchronous = NORMAL');
  database.exec(
    'CREATE TABLE IF NOT EXISTS room (only INTEGER PRIMARY KEY CHECK (only = 1), now_ms REAL NOT NULL) STRICT',
  );
  database.exec('CREATE TABLE IF NOT EXISTS machine (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID');
  database.exec(
    'CREATE TABLE IF NOT EXISTS history (id INTEGER PRIMARY KEY, at_ms REAL NOT NULL, node TEXT NOT NULL, ' +
      'event TEXT NOT NULL, detail TEXT NOT NULL) STRICT',
  );
  database.exec('INSERT OR IGNORE INTO room VALUES (1, 0)');
  const setNow = database.prepare('UPDATE room SET now_ms = ?');
  const put = database.prepare(
    'INSERT INTO machine VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET body = excluded.body',
  );
  const append = database.prepare('INSERT INTO history (at_ms, node, event, detail) VALUES (?, ?, ?, ?)');
  const trim = database.prepare('DELETE FROM history WHERE id <= (SELECT max(id) FROM history) - ?');
  let saves = 0;
  return {
    durable: true,
    load: () => ({
      machines: database
        .prepare('SELECT body FROM machine')
        .all()
        .map((row) => JSON.parse(String(row.body)) as SimMachine),
      nowMs: Number(database.prepare('SELECT now_ms FROM room').get()?.now_ms ?? 0),
    }),
    save(machines, nowMs, events) {
      database.exec('BEGIN IMMEDIATE');
      try {
        for (const machine of machines) put.run(machine.name, JSON.stringify(machine));
        for (const { atMs, node, event, detail } of events) append.run(atMs, node, event, JSON.stringify(detail));
        if (++saves % trimEvery === 0) trim.run(historyLimit);
        setNow.run(nowMs);
        database.exec('COMMIT');
      } catch (error) {
        if (database.isTransaction) database.exec('ROLLBACK');
        throw error;
      }
    },
    history: () => readHistory(database),
    close: () => database.close(),
  };
}

function readHistory(database: DatabaseSync): RoomEvent[] {
  return database
    .prepare('SELECT at_ms, node, event, detail FROM history ORDER BY id')
    .all()
    .map((row) => ({
      atMs: Number(row.at_ms),
      node: String(row.node),
      event: String(row.event) as RoomEvent['event'],
      detail: JSON.parse(String(row.detail)) as Record<string, unknown>,
    }));
}

/** Reads the record of a rack whose process may be running, or dead. */
export function readRackHistory(path: string): RoomEvent[] {
  const database = new DatabaseSync(path, { readOnly: true });
  try {
    return readHistory(database);
  } finally {
    database.close();
  }
}

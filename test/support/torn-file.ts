/** What a power cut, a bad disk or a careless copy leaves of a SQLite database whose process is gone. */
import { closeSync, existsSync, openSync, readFileSync, statSync, truncateSync, writeSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';

/** Cuts the write-ahead log behind this share (0 to 1) of its bytes, in the middle of a frame. */
export function tearLog(database: string, share: number): void {
  const path = `${database}-wal`;
  if (!existsSync(path)) throw new Error(`${path} is not there: nothing to tear`);
  truncateSync(path, Math.max(0, Math.floor(statSync(path).size * share) - 100));
}

/** Puts other bytes over the last frames of the write-ahead log, from this share on. */
export function scribbleOverLog(database: string, share: number): void {
  const path = `${database}-wal`;
  const { size } = statSync(path);
  const from = Math.floor(size * share);
  const file = openSync(path, 'r+');
  writeSync(file, Buffer.alloc(size - from, 0xa5), 0, size - from, from);
  closeSync(file);
}

/** Brings everything into the database's file, then puts other bytes over the pages that hold `text`. @returns how many */
export function scribbleOverPages(database: string, text: string): number {
  const whole = new DatabaseSync(database);
  whole.exec('PRAGMA wal_checkpoint(TRUNCATE)');
  const pageSize = Number(whole.prepare('PRAGMA page_size').get()?.page_size);
  whole.close();
  const bytes = readFileSync(database);
  const file = openSync(database, 'r+');
  let pages = 0;
  // The first page is the schema: without it nothing opens at all.
  for (let at = pageSize; at < bytes.length; at += pageSize) {
    if (!bytes.subarray(at, at + pageSize).includes(text)) continue;
    writeSync(file, Buffer.alloc(pageSize, 0xa5), 0, pageSize, at);
    pages++;
  }
  closeSync(file);
  return pages;
}

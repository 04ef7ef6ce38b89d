/**
 * The map of filled blocks of a target disk: a qcow2 file whose data lies in the disk itself, and a note of what it belongs to.
 *
 * Invariants:
 * 1. A map is valid for one epoch and one image. What lies on the disk under another is never taken for filled blocks.
 * 2. A fresh map begins with a disk of zeros: what was there is gone before the note of the new map exists.
 * 3. `complete` is noted only after every block was local and flushed; until then the image stays behind the map, whatever a crash
 *    left of it.
 */
import { existsSync, rmSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { readJsonFile, writeJsonFile } from '../boot/files.ts';
import { run } from './command.ts';
import { type DiskShape, diskPath, type MachineSpec } from './shape.ts';

export interface MapNote {
  readonly epoch: number;
  readonly revision: string;
  readonly digest: string;
  readonly imageBytes: number;
  readonly complete: boolean;
}

export type MapState = 'None' | 'Valid' | 'Invalid';

export const mapPath = ({ directory }: MachineSpec, disk: string): string => join(directory, `${disk}.map.qcow2`);
const notePath = ({ directory }: MachineSpec, disk: string): string => join(directory, `${disk}.map.json`);

export function readNote(spec: MachineSpec, disk: string): MapNote | undefined {
  try {
    return readJsonFile<MapNote>(notePath(spec, disk));
  } catch {
    return undefined;
  }
}

/** Whether the map can be used for this epoch and image; Invalid: it is of them, and damaged. */
export async function inspectMap(
  spec: MachineSpec,
  disk: string,
  wanted: { readonly epoch: number; readonly digest: string },
): Promise<MapState> {
  const note = readNote(spec, disk);
  if (note === undefined || note.epoch !== wanted.epoch || note.digest !== wanted.digest) return 'None';
  if (!existsSync(mapPath(spec, disk))) return 'Invalid';
  const options = `driver=qcow2,file.filename=${mapPath(spec, disk)},data-file.driver=file,data-file.filename=${diskPath(spec, disk)}`;
  try {
    await run('qemu-img', ['check', '-q', '--image-opts', options]);
    return 'Valid';
  } catch (error) {
    // 3: space was lost by a crash, and nothing else.
    return ((error as Error).cause as { code?: number } | undefined)?.code === 3 ? 'Valid' : 'Invalid';
  }
}

/** Erases the disk and begins a map. The disk must not be in use. */
export async function beginMap(spec: MachineSpec, disk: DiskShape, note: Omit<MapNote, 'complete'>): Promise<void> {
  dropMap(spec, disk.name);
  const path = diskPath(spec, disk.name);
  truncateSync(path, 0);
  truncateSync(path, disk.sizeBytes);
  await run('qemu-img', [
    ...['create', '-q', '-f', 'qcow2', '-o', `data_file=${path}`],
    ...[mapPath(spec, disk.name), String(disk.sizeBytes)],
  ]);
  writeJsonFile(notePath(spec, disk.name), { ...note, complete: false } satisfies MapNote);
}

export function completeMap(spec: MachineSpec, disk: string): void {
  const note = readNote(spec, disk);
  if (note !== undefined) writeJsonFile(notePath(spec, disk), { ...note, complete: true } satisfies MapNote);
}

/** What is on the disk is nobody's filled blocks any more. */
export function dropMap(spec: MachineSpec, disk: string): void {
  rmSync(notePath(spec, disk), { force: true });
  rmSync(mapPath(spec, disk), { force: true });
}

/**
 * An image of the cache as one plain file, for exports that serve files.
 *
 * Invariant: the file of the name is whole, verified and flushed, or not there.
 */
import { open, rename, rm } from 'node:fs/promises';
import type { ExportedImage } from './nbd-session.ts';

/** Large enough to be read ahead for, small beside the cache's memory. */
const stepBytes = 1_048_576;

/** Zeros become holes. @throws the signal's reason, ImageReadError, or an error of the file system */
export async function assembleImage(image: ExportedImage, path: string, signal: AbortSignal): Promise<void> {
  const beside = `${path}.new`;
  const handle = await open(beside, 'w', 0o600);
  try {
    for (let offset = 0; offset < image.sizeBytes; offset += stepBytes) {
      signal.throwIfAborted();
      let at = offset;
      for (const { bytes, data } of await image.pieces(offset, Math.min(stepBytes, image.sizeBytes - offset))) {
        if (data !== undefined) await handle.write(data, 0, bytes, at);
        at += bytes;
      }
    }
    await handle.truncate(image.sizeBytes);
    await handle.sync();
    await rename(beside, path);
  } catch (error) {
    await rm(beside, { force: true });
    throw error;
  } finally {
    await handle.close();
  }
}

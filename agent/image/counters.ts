/** What a rack's cache counts; every counter only grows. */

export class Counters {
  /** Bytes of images and trees that origins sent. */
  originBytes = 0;
  /** Bytes that readers got, zeros included. */
  servedBytes = 0;
  /** Blocks that were found in memory, on the disk, or on their way for somebody else. */
  memoryHits = 0;
  diskHits = 0;
  sharedWaits = 0;
  /** Blocks that did not verify, or that the disk did not give back. */
  corruptFromOrigin = 0;
  corruptOnDisk = 0;
  /** Attempts at an origin that failed. */
  originFaults = 0;
  /** Verified blocks that found no room on the disk, or that the disk did not take. */
  notStored = 0;
}

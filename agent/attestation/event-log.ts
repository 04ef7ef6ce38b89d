/**
 * The event log of a measured boot (TCG PC Client Platform Firmware Profile, crypto-agile form): taken apart and replayed.
 *
 * Invariants:
 * 1. The log proves nothing by itself: it comes from the machine. Only its replay, equal to a quote, makes its digests true; what
 *    an event's data says is true only where its digest is that of the data (`isOfData`).
 * 2. What is read is bounded in size and number; what cannot be read makes the whole log wrong.
 */
import { createHash } from 'node:crypto';

export interface MeasuredEvent {
  readonly pcr: number;
  readonly type: number;
  /** SHA-256. */
  readonly digest: Buffer;
  readonly data: Buffer;
  /** The digest is that of the data. */
  readonly isOfData: boolean;
}

export const eventType = {
  noAction: 0x03,
  separator: 0x04,
  eventTag: 0x06,
  bootServicesApplication: 0x8000_0003,
  efiAction: 0x8000_0007,
} as const;

/** For people; the TCG's names without their EV_. */
export const eventNames: ReadonlyMap<number, string> = new Map([
  [0x01, 'POST_CODE'],
  [0x06, 'EVENT_TAG'],
  [0x08, 'S_CRTM_VERSION'],
  [0x0d, 'IPL'],
  [0x8000_0003, 'EFI_BOOT_SERVICES_APPLICATION'],
  [0x8000_0004, 'EFI_BOOT_SERVICES_DRIVER'],
  [0x8000_0005, 'EFI_RUNTIME_SERVICES_DRIVER'],
  [0x8000_0007, 'EFI_ACTION'],
  [0x8000_0008, 'EFI_PLATFORM_FIRMWARE_BLOB'],
  [0x8000_000a, 'EFI_PLATFORM_FIRMWARE_BLOB2'],
]);

const sha256 = 0x000b;
/** Of the algorithms that the TCG's registry knows: a log may carry several digests for each event. */
const digestBytes: ReadonlyMap<number, number> = new Map([
  [0x0004, 20],
  [sha256, 32],
  [0x000c, 48],
  [0x000d, 64],
  [0x0012, 32],
]);
const largestLogBytes = 256 << 10;
const mostEvents = 4096;

export interface EventLog {
  readonly events: readonly MeasuredEvent[];
  /** Locality of the TPM's start: what PCR 0 begins with. */
  readonly startupLocality: number;
}

/** @throws Error when the bytes are no event log with SHA-256 digests */
export function readEventLog(bytes: Buffer): EventLog {
  if (bytes.length > largestLogBytes) throw new Error(`an event log of ${bytes.length} bytes is too long`);
  let at = 0;
  const take = (size: number): Buffer => {
    if (size > bytes.length - at) throw new Error('the event log ends within an event');
    at += size;
    return bytes.subarray(at - size, at);
  };
  const u16 = (): number => take(2).readUInt16LE(0);
  const u32 = (): number => take(4).readUInt32LE(0);

  // The first event has the old form; its data says which digests the others carry.
  const [firstPcr, firstType] = [u32(), u32()];
  take(20);
  const header = take(u32());
  if (firstPcr !== 0 || firstType !== eventType.noAction || header.toString('latin1', 0, 15) !== 'Spec ID Event03') {
    throw new Error('the event log is not of the crypto-agile form');
  }
  const events: MeasuredEvent[] = [];
  let startupLocality = 0;
  while (at < bytes.length) {
    const [pcr, type, count] = [u32(), u32(), u32()];
    if (count === 0 || count > digestBytes.size) throw new Error(`an event has ${count} digests`);
    let digest: Buffer | undefined;
    for (let index = 0; index < count; index += 1) {
      const algorithm = u16();
      const size = digestBytes.get(algorithm);
      if (size === undefined) throw new Error(`an event has a digest of unknown kind ${algorithm}`);
      const value = take(size);
      if (algorithm === sha256) digest = value;
    }
    const data = take(u32());
    if (digest === undefined || pcr > 23) throw new Error('an event has no SHA-256 digest, or no PCR');
    if (type === eventType.noAction) {
      if (pcr === 0 && data.length === 17 && data.toString('latin1', 0, 15) === 'StartupLocality') {
        startupLocality = data.readUInt8(16);
      }
      continue;
    }
    events.push({ pcr, type, digest, data, isOfData: createHash('sha256').update(data).digest().equals(digest) });
    if (events.length > mostEvents) throw new Error('the event log has too many events');
  }
  return { events, startupLocality };
}

/** The digest that a quote of these PCRs has when exactly these events were measured. */
export function replay({ events, startupLocality }: EventLog, pcrs: readonly number[]): Buffer {
  const whole = createHash('sha256');
  for (const pcr of [...pcrs].sort((a, b) => a - b)) {
    let value = Buffer.alloc(32);
    if (pcr === 0) value.writeUInt8(startupLocality, 31);
    for (const event of events) {
      if (event.pcr === pcr) value = createHash('sha256').update(value).update(event.digest).digest();
    }
    whole.update(value);
  }
  return whole.digest();
}

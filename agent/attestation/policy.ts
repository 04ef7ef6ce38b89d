/**
 * What may have been measured on the way to the trusted image. On events, not on values of PCRs: PCR 1 holds the boot port's MAC
 * address and the boot order, so no value is right for two machines.
 *
 * Invariants:
 * 1. PCRs 2, 4 and 9 may hold what the policy names, and nothing else: an event of unknown kind there is a fault.
 * 2. The applications that the policy names ran in its order, the kernel as the last; initramfs and command line were each
 *    measured once. A boot loader may look at an application before it starts it, which measures it twice.
 * It does not judge the firmware's own settings (PCRs 1, 3, 5, 6), and PCRs 0 and 7 only where the policy names what they hold.
 */
import { createHash } from 'node:crypto';
import { type EventLog, eventNames, eventType, type MeasuredEvent } from './event-log.ts';

export interface BootPolicy {
  /** Authenticode digests (see authenticode.ts), hexadecimal, of what runs one after the other: at least the kernel. */
  readonly applications: readonly string[];
  /** SHA-256 of the initramfs. */
  readonly initrd: string;
  /** What the firmware hands to the kernel; it carries the token of this very boot. */
  readonly commandLine: string;
  /** Digests of what else may run before the kernel, such as a port's option ROM. */
  readonly others: readonly string[];
  /** Digests of the firmware's parts in PCR 0, as they were at the commissioning; absent: not judged. */
  readonly firmware?: readonly string[];
}

/** Those that a quote is asked for. */
export const quotedPcrs: readonly number[] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

const separator = Buffer.alloc(4);
const isMark = ({ type, data, isOfData }: MeasuredEvent): boolean =>
  isOfData && ((type === eventType.separator && data.equals(separator)) || type === eventType.efiAction);

const hex = ({ digest }: MeasuredEvent): string => digest.toString('hex');
/** Never an event's data: it is the machine's, and a command line holds a token. */
const placeOf = (event: MeasuredEvent): string =>
  `PCR ${event.pcr}, ${eventNames.get(event.type) ?? `event ${event.type.toString(16)}`}, ${hex(event)}`;

/** What a PCR holds besides the firmware's own marks. */
export function notableEvents({ events }: EventLog, pcr: number): MeasuredEvent[] {
  return events.filter((event) => event.pcr === pcr && !isMark(event));
}

/** What is wrong, a sentence each; empty: nothing. The log must be the one that a verified quote agrees with. */
export function policyFaults(log: EventLog, policy: BootPolicy): string[] {
  const faults: string[] = [];
  const of = (pcr: number): MeasuredEvent[] => notableEvents(log, pcr);
  for (const event of [...of(2), ...of(4)]) {
    if (![...policy.applications, ...policy.others].includes(hex(event))) {
      faults.push(`something unknown ran before the kernel (${placeOf(event)})`);
    }
  }
  const ran = of(4)
    .filter(({ type }) => type === eventType.bootServicesApplication)
    .map(hex)
    .filter((digest, index, all) => policy.applications.includes(digest) && digest !== all[index - 1]);
  if (ran.join() !== policy.applications.join()) {
    faults.push('the applications that lead to the trusted image did not run in their order (PCR 4)');
  }
  const wanted = [
    [
      'the command line',
      createHash('sha256')
        .update(Buffer.from(`${policy.commandLine}\0`, 'utf16le'))
        .digest('hex'),
    ],
    ['the initramfs', policy.initrd],
  ] as const;
  const kernelEvents = of(9).map(hex);
  for (const [what, digest] of wanted) {
    if (kernelEvents.filter((found) => found === digest).length !== 1)
      faults.push(`${what} is not that of the trusted image (PCR 9)`);
  }
  if (kernelEvents.length > wanted.length) faults.push('the kernel measured something unknown (PCR 9)');
  for (const event of policy.firmware === undefined ? [] : of(0)) {
    if (!policy.firmware?.includes(hex(event)))
      faults.push(`the firmware is not as it was commissioned (${placeOf(event)})`);
  }
  return faults;
}

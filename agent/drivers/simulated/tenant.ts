/**
 * A hostile tenant with root on a simulated machine: what it can do from inside, and what a driver that believed it would say.
 *
 * Invariant: what a guest says never becomes a reading, unless the room's `identity` tells its drivers to believe it.
 */
import type { VmmReading } from '../port.ts';
import { answerOf, deliverSecrets } from './boot.ts';
import { guestRuns, type SimMachine, targetOf } from './machine.ts';
import type { SimulatedRack } from './rack.ts';
import { controlReaches } from './wiring.ts';

/** How long after a change a tenant who waits for it resets the machine. */
const reactsWithinMs = 5_000;

/** Call when something about the machine changed that makes a reset hurt. */
export function mayResetNow(rack: SimulatedRack, machine: SimMachine): void {
  if (!guestRuns(machine) || machine.jobs.tenant !== undefined) return;
  if (!rack.faults.strikes(machine, 'resetsAtWorst')) return;
  rack.schedule(machine, 'tenant', { token: '', to: 'reset', fails: false }, rack.draw() * reactsWithinMs);
}

/**
 * The guest asks the boot server in another's name. A boot server that goes by the switch port answers what it has for this
 * machine, and that only where the guest can reach it at all: on bare metal, through a control port that is still open.
 */
export function askAs(rack: SimulatedRack, machine: SimMachine, other: SimMachine): void {
  const byWord = rack.room.identity.boot === 'Mac';
  const reaches = machine.stage === 'BareMetal' && controlReaches(machine);
  const asked = byWord ? other : machine;
  const got = byWord ? other.serving : reaches ? answerOf(machine) : 'Nothing';
  rack.record(machine, 'spoofed', { as: other.name, got, of: got === 'Nothing' ? null : asked.name });
  if (got === 'Vmm' && asked.plan !== undefined) deliverSecrets(rack, machine, asked.plan, 'Guest');
}

/** What a driver reads that takes anybody's word for the hypervisor's. */
export function forgedReading(rack: SimulatedRack, machine: SimMachine, truly: VmmReading): VmmReading {
  if (rack.room.identity.channel === 'Key' || machine.faults.forges === undefined || !guestRuns(machine)) return truly;
  const totalBytes = targetOf(machine)?.map?.totalBytes ?? 1;
  return {
    ...truly,
    copy: { totalBytes, localBytes: totalBytes, flushed: true, inFlight: 0, map: 'Valid' },
    trusted: {
      ...truly.trusted,
      up: true,
      wiped: machine.disks.map(({ serial }) => serial),
      checked: true,
    },
  };
}

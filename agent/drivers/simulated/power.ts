/**
 * Power of a simulated machine: what goes with it, and what comes with it.
 *
 * Invariants:
 * 1. What was in a disk's write cache and not flushed is lost with the power, never with a warm reset.
 * 2. Without mains, and when the machine is dead, nobody switches it on.
 */
import { beginBoot } from './boot.ts';
import { noTrustedBoot, type SimMachine, targetOf, vmmResident } from './machine.ts';
import type { SimulatedRack } from './rack.ts';

/** Seconds of writes that a disk holds in its cache. */
const cacheSeconds = 5;

/** Power is gone: whatever ran or was asked of what ran has ended. */
export function cutPower(rack: SimulatedRack, machine: SimMachine): void {
  if (machine.power === 'On') {
    rack.record(machine, 'power', { to: 'Off' });
    if (vmmResident(machine)) loseCache(rack, machine);
  }
  machine.power = 'Off';
  stop(rack, machine);
  machine.stage = 'Dark';
  rack.changed(machine);
}

function loseCache(rack: SimulatedRack, machine: SimMachine): void {
  rack.copies.settle(rack.nowMs());
  const disk = targetOf(machine);
  const map = disk?.map;
  if (disk === undefined || map === undefined || map.state !== 'Valid') return;
  const shape = rack.room.machine.disks.find(({ name }) => name === disk.name);
  if (!map.flushed) {
    const kept = Math.max(0, map.localBytes - cacheSeconds * (shape?.writeBytesPerSecond ?? 0));
    if (kept < map.localBytes) rack.record(machine, 'cacheLost', { disk: disk.name, bytes: map.localBytes - kept });
    map.localBytes = kept;
  }
  if (!rack.faults.strikes(machine, 'tornMap')) return;
  map.state = 'Invalid';
  rack.record(machine, 'mapTorn', { disk: disk.name, epoch: map.epoch });
}

export function givePower(rack: SimulatedRack, machine: SimMachine): void {
  const { powerLoss, dies } = machine.faults;
  if (machine.power === 'On' || powerLoss !== undefined || dies !== undefined) return;
  machine.power = 'On';
  rack.record(machine, 'power', { to: 'On' });
  beginBoot(rack, machine);
  rack.changed(machine);
}

/** A warm reset: power stays. */
export function reset(rack: SimulatedRack, machine: SimMachine): void {
  if (machine.power === 'Off') return;
  stop(rack, machine);
  rack.record(machine, 'reset', { boot: machine.boots });
  beginBoot(rack, machine);
  rack.changed(machine);
}

/** Power stays, and nothing runs any more. */
export function crash(rack: SimulatedRack, machine: SimMachine): void {
  stop(rack, machine);
  machine.stage = 'Crashed';
  rack.record(machine, 'crashed', { boot: machine.boots });
  rack.changed(machine);
}

function stop(rack: SimulatedRack, machine: SimMachine): void {
  rack.copies.settle(rack.nowMs());
  for (const kind of ['stage', 'shutdown', 'flush', 'tenant'] as const) delete machine.jobs[kind];
  const { vmm } = machine.jobs;
  // A job whose effect is there keeps its end, which is still to be read.
  if (vmm?.ran !== true) {
    delete machine.jobs.vmm;
    const { vmm: change } = machine.changes;
    if (change?.status === 'Pending')
      machine.changes.vmm = { token: change.token, status: 'Error', error: 'the machine went down' };
  }
  machine.stage = 'Dark';
  machine.trusted = noTrustedBoot();
}

/** The BMC was without power as well: what it had accepted and not done is gone, and it says so once it answers again. */
export function loseBmcJobs(machine: SimMachine): void {
  for (const kind of ['power', 'order'] as const) {
    const job = machine.jobs[kind];
    if (job !== undefined && job.ran !== true) job.fails = true;
  }
  machine.ghosts = machine.ghosts.filter(({ kind }) => kind !== 'power' && kind !== 'order');
}

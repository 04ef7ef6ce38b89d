/**
 * What a simulated machine does between power on and a running guest, stage by stage.
 *
 * Invariants:
 * 1. A machine boots what its boot order and the boot server say at the moment it asks, whatever anybody meant.
 * 2. A target disk whose map is valid for the plan's epoch is never erased.
 * 3. Each first instruction of a guest is an event with the domains of the ports that it can see.
 */
import type { Failure } from '../../../controller/api/protocol.generated.ts';
import type { VmmPlan } from '../port.ts';
import type { SimMachine } from './machine.ts';
import { type Durations, type FailingStep, simulatedFailure } from './options.ts';
import type { RoomEvent } from './store.ts';

/** What the stages need of the room. */
export interface Floor {
  /** In how many milliseconds, of the room's own time. */
  after(machine: SimMachine, durationMs: number, to: BootStep): void;
  chance(machine: SimMachine, step: FailingStep): boolean;
  record(machine: SimMachine, event: RoomEvent['event'], detail: RoomEvent['detail']): void;
  draw(): number;
  readonly durations: Durations;
  readonly guestIo: number;
}

export type BootStep = 'ask' | 'vmm' | 'guest' | 'trusted';

/** Power came, or the machine was reset: whatever ran is gone. */
export function beginBoot(floor: Floor, machine: SimMachine): void {
  machine.stage = 'Post';
  machine.trusted = { nonce: '', wiped: [], checked: false };
  delete machine.failure;
  delete machine.failedEpoch;
  delete machine.running;
  floor.after(machine, floor.durations.post, 'ask');
}

export function bootStep(floor: Floor, machine: SimMachine, step: BootStep): void {
  switch (step) {
    case 'ask':
      askBootServer(floor, machine);
      break;
    case 'vmm':
      startVmm(floor, machine);
      break;
    case 'guest':
      guestIsUp(machine);
      break;
    case 'trusted':
      machine.stage = 'Trusted';
      break;
  }
}

function askBootServer(floor: Floor, machine: SimMachine): void {
  if (machine.order === 'Disk') {
    bootFromDisk(floor, machine);
  } else if (machine.serving === 'Vmm') {
    machine.stage = 'VmmLoading';
    floor.after(machine, floor.durations.vmmLoad, 'vmm');
  } else if (machine.serving === 'Trusted') {
    machine.stage = 'TrustedLoading';
    floor.after(machine, floor.durations.trustedBoot, 'trusted');
  } else {
    machine.stage = 'Stuck';
  }
}

function bootFromDisk(floor: Floor, machine: SimMachine): void {
  const bootable = machine.disks.find(({ content, map }) => content === 'Image' && map?.localBytes === map?.totalBytes);
  machine.stage = bootable === undefined ? 'Stuck' : 'BareMetal';
  if (bootable !== undefined) recordGuest(floor, machine, false);
}

function recordGuest(floor: Floor, machine: SimMachine, throughVmm: boolean): void {
  const ports = machine.ports
    .filter((port) => port.role === 'Data')
    .map(({ name, domain, state }) => ({ name, domain, state }));
  const epoch = machine.running?.epoch ?? machine.starts.epoch;
  floor.record(machine, 'guest', { throughVmm, epoch, ports });
}

function startVmm(floor: Floor, machine: SimMachine): void {
  const { plan } = machine;
  const failure = plan === undefined ? undefined : prepareDisk(floor, machine, plan);
  if (plan === undefined || failure !== undefined) {
    machine.failure = failure ?? simulatedFailure('VmmFailed', 'the boot server has no plan for this machine');
    machine.failedEpoch = plan?.epoch ?? 0;
    machine.stage = 'Stuck';
    return;
  }
  machine.running = plan;
  machine.guestIo = floor.draw() * floor.guestIo;
  if (plan.maxRateBytes !== undefined) machine.maxRateBytes = plan.maxRateBytes;
  else delete machine.maxRateBytes;
  machine.stage = 'GuestBooting';
  recordGuest(floor, machine, true);
  if (!floor.chance(machine, 'guestBoot')) floor.after(machine, floor.durations.guestBoot, 'guest');
}

/** Keeps a valid map of this epoch, else erases the target disk if the plan allows it; returns what is wrong. */
function prepareDisk(floor: Floor, machine: SimMachine, plan: VmmPlan): Failure | undefined {
  if (floor.chance(machine, 'vmmLoad')) return simulatedFailure('VmmFailed', 'the hypervisor stopped at its start');
  const disk = machine.disks.find(({ name }) => name === plan.disk);
  if (disk === undefined) return simulatedFailure('NoSuitableDisk', `no disk ${plan.disk}`, false);
  if (floor.chance(machine, 'disk')) return simulatedFailure('DiskFailed', `write error on ${disk.name}`, false);
  if (disk.map?.state === 'Valid' && disk.map.epoch === plan.epoch) return undefined;
  if (plan.start === 'Keep') {
    return simulatedFailure('MapInvalid', `the map of filled blocks on ${disk.name} is not valid`, false);
  }
  if (machine.exported !== 'Open')
    return simulatedFailure('ImageUnavailable', 'the image is not exported to this machine');
  const { revision, image } = plan.environment;
  disk.content = 'Image';
  disk.map = { epoch: plan.epoch, revision, totalBytes: image.sizeBytes, localBytes: 0, state: 'Valid' };
  floor.record(machine, 'imaged', {
    epoch: plan.epoch,
    revision,
    disk: disk.name,
    digest: machine.image?.digest ?? '',
  });
  return undefined;
}

function guestIsUp(machine: SimMachine): void {
  const epoch = machine.running?.epoch ?? 0;
  machine.stage = 'Guest';
  machine.starts = { epoch, count: machine.starts.epoch === epoch ? machine.starts.count + 1 : 1 };
}

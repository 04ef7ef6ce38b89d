/**
 * What a simulated machine does between power on and a running guest, stage by stage.
 *
 * Invariants:
 * 1. A machine boots what its boot order and the boot server say at the moment it asks, whatever anybody meant.
 * 2. A target disk whose map is valid for the plan's epoch is never erased; and a plan lets a disk be erased once: the boot
 *    server keeps by itself, before the guest starts, that a map was begun under it.
 * 3. Each first instruction of a guest is an event with the true domains of the ports that it can see.
 */
import type { Failure } from '../../../controller/api/protocol.generated.ts';
import type { Serving, VmmPlan } from '../port.ts';
import { noTrustedBoot, type SimDisk, type SimMachine } from './machine.ts';
import { simulatedFailure } from './options.ts';
import type { SimulatedRack } from './rack.ts';
import { controlReaches, peersOf, readPorts, truePorts } from './wiring.ts';

export type BootStep = 'ask' | 'vmm' | 'guest' | 'trusted';

function after(rack: SimulatedRack, machine: SimMachine, durationMs: number, to: BootStep): void {
  rack.schedule(machine, 'stage', { token: '', to, fails: false }, durationMs);
}

/** Power came, or the machine was reset: whatever ran is gone. */
export function beginBoot(rack: SimulatedRack, machine: SimMachine): void {
  machine.stage = 'Post';
  machine.boots++;
  machine.trusted = noTrustedBoot();
  delete machine.failure;
  delete machine.failedEpoch;
  delete machine.running;
  after(rack, machine, rack.room.durations.post, 'ask');
}

export function bootStep(rack: SimulatedRack, machine: SimMachine, step: BootStep): void {
  switch (step) {
    case 'ask':
      askWhatToBoot(rack, machine);
      break;
    case 'vmm':
      startVmm(rack, machine);
      break;
    case 'guest':
      guestIsUp(machine);
      break;
    case 'trusted':
      machine.stage = 'Trusted';
      break;
  }
}

/** The boot server goes by the port that it is asked through, so another's cable gets no answer. */
export const answerOf = (machine: SimMachine): Serving => (controlReaches(machine) ? machine.serving : 'Nothing');

function askWhatToBoot(rack: SimulatedRack, machine: SimMachine): void {
  const { durations } = rack.room;
  const got = machine.order === 'Disk' ? 'Disk' : answerOf(machine);
  rack.record(machine, 'boot', { boot: machine.boots, got, shown: machine.orderShown ?? machine.order });
  switch (got) {
    case 'Disk':
      bootFromDisk(rack, machine);
      break;
    case 'Vmm':
      machine.stage = 'VmmLoading';
      after(rack, machine, durations.vmmLoad, 'vmm');
      break;
    case 'Trusted':
      machine.stage = 'TrustedLoading';
      after(rack, machine, durations.trustedBoot, 'trusted');
      break;
    default:
      machine.stage = 'Stuck';
  }
}

/** The first blocks of an image are what boots, so a disk that is only partly filled may boot as well. */
function boots(rack: SimulatedRack, { content, map }: SimDisk): boolean {
  if (content !== 'Image' || map === undefined || map.localBytes <= 0) return false;
  return map.localBytes >= map.totalBytes || rack.draw() < map.localBytes / map.totalBytes;
}

function bootFromDisk(rack: SimulatedRack, machine: SimMachine): void {
  const disk = machine.disks.find((one) => boots(rack, one));
  machine.stage = disk === undefined ? 'Stuck' : 'BareMetal';
  if (disk !== undefined) guestStarts(rack, machine, { throughVmm: false, epoch: disk.map?.epoch ?? 0 });
}

interface GuestStart {
  readonly throughVmm: boolean;
  readonly epoch: number;
}

/** From now on every disk may hold what this guest wrote. */
function guestStarts(rack: SimulatedRack, machine: SimMachine, { throughVmm, epoch }: GuestStart): void {
  const all = truePorts(rack, machine);
  const data = all.filter(({ role }) => role === 'Data');
  const domain = data[0]?.domain ?? '';
  for (const disk of machine.disks) disk.data = { domain, epoch, written: true, atMs: rack.nowMs() };
  rack.record(machine, 'guest', {
    throughVmm,
    epoch,
    boot: machine.boots,
    ports: data.map(({ name, domain: truly, state }) => ({ name, domain: truly, state })),
    read: readPorts(rack, machine)
      .filter(({ role }) => role === 'Data')
      .map(({ name, domain: read, state }) => ({ name, domain: read, state })),
    control: all.find(({ role }) => role === 'Control')?.domain ?? 'closed',
    peers: peersOf(rack, machine, throughVmm ? data : all),
  });
}

function startVmm(rack: SimulatedRack, machine: SimMachine): void {
  const { plan } = machine;
  const reached = controlReaches(machine);
  const failure = plan === undefined || !reached ? undefined : prepareDisk(rack, machine, plan);
  if (plan === undefined || !reached || failure !== undefined) {
    const none = reached ? 'the boot server has no plan for this machine' : 'the boot server does not answer';
    machine.failure = failure ?? simulatedFailure('VmmFailed', none);
    machine.failedEpoch = plan?.epoch ?? 0;
    machine.stage = 'Stuck';
    return;
  }
  machine.running = plan;
  machine.plan = { ...plan, start: 'Keep' };
  machine.guestIo = rack.draw() * rack.room.guestIo;
  if (plan.maxRateBytes !== undefined) machine.maxRateBytes = plan.maxRateBytes;
  else delete machine.maxRateBytes;
  machine.stage = 'GuestBooting';
  deliverSecrets(rack, machine, plan, 'Vmm');
  guestStarts(rack, machine, { throughVmm: true, epoch: plan.epoch });
  if (!rack.chance(machine, 'guestBoot')) after(rack, machine, rack.room.durations.guestBoot, 'guest');
}

/** Says who got what a plan holds. @param to the hypervisor of a boot, or a guest that asked in a machine's name */
export function deliverSecrets(rack: SimulatedRack, machine: SimMachine, plan: VmmPlan, to: 'Vmm' | 'Guest'): void {
  const { epoch, environment, hostname, sshKeys } = plan;
  const { revision, userData } = environment;
  rack.record(machine, 'secrets', {
    to,
    boot: machine.boots,
    epoch,
    revision,
    hostname,
    sshKeys: sshKeys.length,
    userData: userData !== undefined,
    domain: truePorts(rack, machine).find(({ role }) => role === 'Data')?.domain ?? '',
  });
}

/** Keeps a valid map of this epoch, else erases the target disk if the plan allows it; returns what is wrong. */
function prepareDisk(rack: SimulatedRack, machine: SimMachine, plan: VmmPlan): Failure | undefined {
  if (rack.chance(machine, 'vmmLoad')) return simulatedFailure('VmmFailed', 'the hypervisor stopped at its start');
  const disk = machine.disks.find(({ name }) => name === plan.disk);
  if (disk === undefined) return simulatedFailure('NoSuitableDisk', `no disk ${plan.disk}`, false);
  if (rack.chance(machine, 'disk')) return simulatedFailure('DiskFailed', `write error on ${disk.name}`, false);
  if (disk.map?.state === 'Valid' && disk.map.epoch === plan.epoch) return undefined;
  if (plan.start === 'Keep') {
    return simulatedFailure('MapInvalid', `the map of filled blocks on ${disk.name} is not valid`, false);
  }
  const { revision, image } = plan.environment;
  const digest = machine.image?.digest ?? '';
  if (machine.exported !== 'Open' || rack.faults.inRack('imagesDown'))
    return simulatedFailure('ImageUnavailable', 'the image is not exported to this machine');
  const ports = truePorts(rack, machine).filter(({ role }) => role === 'Data');
  const lost = disk.data;
  machine.begunEpoch = plan.epoch;
  disk.content = 'Image';
  disk.map = {
    epoch: plan.epoch,
    revision,
    digest,
    totalBytes: image.sizeBytes,
    localBytes: 0,
    flushed: false,
    state: 'Valid',
  };
  disk.data = { domain: ports[0]?.domain ?? '', epoch: plan.epoch, written: false, atMs: rack.nowMs() };
  rack.record(machine, 'imaged', {
    epoch: plan.epoch,
    revision,
    disk: disk.name,
    digest,
    domain: disk.data.domain,
    over: lost ?? null,
  });
  return undefined;
}

function guestIsUp(machine: SimMachine): void {
  const epoch = machine.running?.epoch ?? 0;
  machine.stage = 'Guest';
  machine.starts = { epoch, count: machine.starts.epoch === epoch ? machine.starts.count + 1 : 1 };
}
